"""A frozen encoder stays what it was, bit by bit, and is let go at its iteration as if it had always been there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from aerial_seg.errors import SettingsError
from aerial_seg.models.build import build_network
from aerial_seg.models.network import Network, encoder_of
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.recipe.training import TrainingSettings
from aerial_seg.training.freezing import Freezing, check_freezing
from aerial_seg.training.optimisation import make_optimizer

UPDATES = 5


def network() -> Network:
    torch.manual_seed(2)
    settings = ModelSettings(architecture="Unet", options={"encoder_depth": 3, "decoder_channels": [8, 8, 8]})
    return build_network(settings, bands=3, classes=2)


def trained(
    settings: TrainingSettings, *, between: bool = False
) -> tuple[list[dict[str, Tensor]], torch.optim.Optimizer]:
    """The state after each update. between: the network was put into evaluation and back, as validation does."""
    net = network()
    optimizer, freezing = make_optimizer(net, settings), Freezing(net, settings)
    random = torch.Generator().manual_seed(0)
    states = []
    net.train()
    for number in range(UPDATES):
        freezing.before_update(number)
        logits = net(torch.randn(2, 3, 32, 32, generator=random))
        labels = torch.randint(0, 2, (2, 32, 32), generator=random)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        states.append({name: tensor.detach().clone() for name, tensor in net.state_dict().items()})
        if between:
            net.eval()
            net.train()
    return states, optimizer


def changed(before: dict[str, Tensor], after: dict[str, Tensor], *, encoder: bool) -> set[str]:
    """Names of the tensors that differ, of the encoder or of the rest."""
    prefix, _ = encoder_of(network())
    return {n for n, t in after.items() if n.startswith(prefix) is encoder and not torch.equal(before[n], t)}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("between", [False, True])
def test_the_encoder_stays_and_the_rest_learns(optimizer: str, *, between: bool) -> None:
    """Its running means and counts too, also where validation puts everything back into training mode."""
    settings = TrainingSettings(freeze="encoder", optimizer=optimizer, learning_rate=0.01)  # type: ignore[arg-type]
    states, _ = trained(settings, between=between)
    begun = network().state_dict()
    assert not changed(begun, states[-1], encoder=True)
    assert len(changed(begun, states[-1], encoder=False)) > 10


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_learns_from_its_iteration_on(optimizer: str) -> None:
    settings = TrainingSettings(
        freeze="encoder", freeze_iterations=3, optimizer=optimizer, learning_rate=0.01
    )  # type: ignore[arg-type]
    states, made = trained(settings)
    begun = network().state_dict()
    assert not changed(begun, states[2], encoder=True)
    _, encoder = encoder_of(network())
    assert len(changed(begun, states[3], encoder=True)) == len(encoder.state_dict())
    if optimizer == "adamw":
        steps = [int(held["step"]) for held in made.state.values()]
        # Moments count the gradients that a parameter had: two since it was let go, five elsewhere.
        assert sorted(set(steps)) == [UPDATES - 3, UPDATES]
        assert steps.count(UPDATES - 3) == len(list(encoder.parameters()))


def test_after_it_was_let_go_nothing_is_left_of_it() -> None:
    """Frozen for no update is a run without freezing."""
    free, _ = trained(TrainingSettings(learning_rate=0.01))
    net = network()
    freezing = Freezing(net, TrainingSettings(freeze="encoder", freeze_iterations=1, learning_rate=0.01))
    net.train()
    freezing.before_update(0)
    freezing.before_update(1)
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(module.training for module in net.modules())
    assert len(changed(network().state_dict(), free[0], encoder=True)) > 10


def test_what_cannot_be_frozen_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"begins at random"):
        check_freezing(Recipe(training=TrainingSettings(freeze="encoder")))
    with pytest.raises(SettingsError, match=r"freeze_iterations is 7, but training\.freeze is \"none\""):
        Recipe(training=TrainingSettings(freeze_iterations=7))
    check_freezing(
        Recipe(model=ModelSettings(weights=str(Path("w.pth"))), training=TrainingSettings(freeze="encoder"))
    )


def test_a_network_without_an_encoder_cannot_be_frozen() -> None:
    with pytest.raises(SettingsError, match=r"Network has no part called encoder"):
        Freezing(Network(), TrainingSettings(freeze="encoder"))
