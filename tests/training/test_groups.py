"""Groups of parameters: each parameter in one of them, with the factor and the decay of the part that it is of."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, PolynomialLR

from aerial_seg.errors import OutputError, SettingsError
from aerial_seg.models.build import build_network
from aerial_seg.models.meta import build_on_meta
from aerial_seg.models.network import Network, OwnNetwork
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import OWN_ARCHITECTURES, ModelSettings
from aerial_seg.recipe.training import TrainingSettings
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.groups import group_notes, parameter_groups
from aerial_seg.training.optimisation import make_optimizer, make_schedule
from aerial_seg.training.state import TrainingState

KINDS = [
    *(ModelSettings(architecture=name, output_stride=16) for name in OWN_ARCHITECTURES),
    ModelSettings(architecture="deeplabv2", msc=True, auxiliary=False),
    ModelSettings(architecture="deeplabv3", deformable=True, output_stride=16),
    ModelSettings(architecture="Unet", encoder="tu-tf_efficientnet_lite0"),
    ModelSettings(architecture="Segformer", encoder="mit_b0"),
]
LINEAR = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@cache
def on_meta(number: int) -> Network:
    return build_on_meta(KINDS[number], bands=3, classes=4)


def ids(modules: list[nn.Module]) -> set[int]:
    return {id(parameter) for module in modules for parameter in module.parameters()}


def by_hand(network: Network, chosen: TrainingSettings) -> dict[int, tuple[float, bool]]:
    """Factor and decay of every parameter, from the modules that hold it."""
    named = dict(network.named_modules())
    encoders = [module for name, module in named.items() if name.split(".")[-1] == "encoder"]
    sides = [module for name, module in named.items() if name.split(".")[-1] == "auxiliary"]
    encoder, side = ids(encoders[:1]), ids(sides)
    biases = {id(one.bias) for one in named.values() if isinstance(one, LINEAR) and one.bias is not None}
    kernels = {id(one.weight) for one in named.values() if isinstance(one, LINEAR[:2])}
    found = {}
    for parameter in network.parameters():
        key, factor = id(parameter), 1.0
        if key not in encoder:
            factor = chosen.head_rate_factor
            if key in biases:
                factor = chosen.head_bias_rate_factor or factor
        if key in side:
            factor = chosen.auxiliary_rate_factor or factor
        decays = {
            "all": True, "weights": parameter.dim() > 1, "convolutions": key in kernels
        }[chosen.weight_decay_on]  # fmt: skip
        found[key] = factor, decays
    return found


FACTORS = st.sampled_from([None, 2.0, 10.0, 20.0])


@settings(max_examples=examples(60))
@given(
    number=st.integers(0, len(KINDS) - 1),
    head=st.sampled_from([1.0, 10.0]),
    bias=FACTORS,
    side=FACTORS,
    decay=st.sampled_from(["all", "weights", "convolutions"]),
)
def test_every_parameter_is_in_one_group_and_in_the_right_one(
    number: int, head: float, bias: float | None, side: float | None, decay: str
) -> None:
    """The auxiliary head's, too, which are easily left out of an optimiser."""
    network = on_meta(number)
    has_side = any(name.split(".")[-1] == "auxiliary" for name, _ in network.named_modules())
    chosen = TrainingSettings.model_validate(
        {
            "head_rate_factor": head,
            "head_bias_rate_factor": bias,
            "auxiliary_rate_factor": side if has_side else None,
            "weight_decay_on": decay,
        }
    )
    groups = parameter_groups(network, chosen)
    held = [id(parameter) for group in groups for parameter in group.parameters]
    assert sorted(held) == sorted(id(parameter) for parameter in network.parameters())
    wanted = by_hand(network, chosen)
    for group in groups:
        for parameter in group.parameters:
            assert wanted[id(parameter)] == (group.factor, group.decays)
    assert len({(group.factor, group.decays) for group in groups}) == len(groups)


def tiny(architecture: str = "deeplabv2") -> Network:
    torch.manual_seed(5)
    chosen = ModelSettings(
        architecture=architecture,
        encoder="tu-mobilenetv3_small_050",
        output_stride=32,
        dropout=0.0,
        auxiliary=architecture == "fcn",
    )
    return build_network(chosen, bands=3, classes=2)


UPDATES = 3


def after(network: Network, optimizer: Optimizer, schedule: LambdaLR | PolynomialLR) -> dict[str, Tensor]:
    """The weights after three updates, and what the rates were."""
    random = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(UPDATES):
        optimizer.zero_grad()
        logits, aux_logits = network.forward_training(torch.randn(2, 3, 32, 32, generator=random))
        loss = logits.square().mean() + (0 if aux_logits is None else aux_logits.square().mean())
        loss.backward()
        optimizer.step()
        schedule.step()
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], *, within: float = 0.0) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=within)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_recipe_that_says_nothing_trains_as_one_group(name: str) -> None:
    """Bit for bit, and with the parameters in the order that states on disks have them in."""
    chosen = TrainingSettings(iterations=5, warmup=2, optimizer=name)  # type: ignore[arg-type]
    ours, theirs = tiny("fcn"), tiny("fcn")
    if name == "sgd":
        one: Optimizer = SGD(theirs.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    else:
        one = AdamW(theirs.parameters(), lr=0.01, betas=(0.9, 0.999), weight_decay=1e-4, fused=True)
    optimizer = make_optimizer(ours, chosen)
    assert len(optimizer.param_groups) == 1
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in ours.parameters()]
    before = LambdaLR(one, lambda i: (1 - min(i, 4) / 5) ** 0.9 * min(1.0, (i + 1) / 3))
    assert_same(after(ours, optimizer, make_schedule(optimizer, chosen)), after(theirs, one, before))
    assert group_notes(ours, chosen) == ()


def test_adam_takes_factors_of_gradients_as_scaled_gradients() -> None:
    """tensorpack's DeepLab: an L2 term in the loss, the head's gradients five and ten times as large, then Adam."""
    chosen = TrainingSettings(
        iterations=5, optimizer="adam", adam_epsilon=2.5e-4, learning_rate=1e-3, weight_decay=5e-2,
        weight_decay_on="convolutions", head_factors="gradient", head_rate_factor=5, head_bias_rate_factor=10,
    )  # fmt: skip
    ours, theirs = tiny(), tiny()
    head = theirs.get_submodule("head")
    kernels = [m.weight for m in theirs.modules() if isinstance(m, nn.Conv2d)]
    biases = [m.bias for m in head.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    factors = {id(one): 5.0 for one in head.parameters()} | {id(one): 10.0 for one in biases}
    one, optimizer = Adam(theirs.parameters(), lr=1e-3, eps=2.5e-4, fused=True), make_optimizer(ours, chosen)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}
    assert {round(2.5e-4 / group["eps"], 6) for group in optimizer.param_groups} == {1, 5, 10}
    assert "10 times the gradient" in group_notes(ours, chosen)[0]
    decaying, random = {id(kernel) for kernel in kernels}, torch.Generator().manual_seed(0)
    for _ in range(UPDATES):
        for own, their in zip(ours.parameters(), theirs.parameters(), strict=True):
            own.grad = 1e-3 * torch.randn(own.shape, generator=random)
            decay = 5e-2 * their.detach() if id(their) in decaying else 0.0
            their.grad = (own.grad + decay) * factors.get(id(their), 1.0)
        optimizer.step()
        one.step()
    assert_same(ours.state_dict(), theirs.state_dict(), within=1e-6)
    with pytest.raises(
        SettingsError, match='head_factors is "gradient", but there is no factor; set head_rate_factor'
    ):
        TrainingSettings(optimizer="adam", head_factors="gradient")


def test_deeplabv2_has_the_groups_of_its_reference_code() -> None:
    """Kernels of the backbone at the rate, the head's at ten times it, its biases at twenty without decay."""
    chosen = TrainingSettings(
        iterations=5,
        learning_rate=2.5e-3,
        weight_decay=5e-2,
        weight_decay_on="weights",
        head_rate_factor=10,
        head_bias_rate_factor=20,
    )
    ours, theirs = tiny(), tiny()
    head, encoder = theirs.get_submodule("head"), theirs.get_submodule("encoder")
    convs = [m.weight for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    lines = [p for p in encoder.parameters() if p.dim() == 1]
    made = [
        {"params": convs, "lr": 2.5e-3},
        {"params": lines, "lr": 2.5e-3, "weight_decay": 0.0},
        {"params": [m.weight for m in head.modules() if isinstance(m, nn.Conv2d)], "lr": 2.5e-2},
        {
            "params": [m.bias for m in head.modules() if isinstance(m, nn.Conv2d)],
            "lr": 5e-2,
            "weight_decay": 0.0,
        },
    ]
    by_torch = SGD(made, lr=2.5e-3, momentum=0.9, weight_decay=5e-2)
    optimizer = make_optimizer(ours, chosen)
    wanted = after(theirs, by_torch, PolynomialLR(by_torch, total_iters=5, power=0.9))
    found = after(ours, optimizer, make_schedule(optimizer, chosen))
    assert_same(found, wanted, within=1e-6)
    plain = tiny()
    one = make_optimizer(plain, TrainingSettings(iterations=5, learning_rate=2.5e-3, weight_decay=5e-2))
    other = after(plain, one, make_schedule(one, TrainingSettings(iterations=5)))
    apart = {
        name for name in dict(theirs.named_parameters()) if (wanted[name] - other[name]).abs().max() > 1e-5
    }
    assert {name for name, _ in head.named_parameters(prefix="head")} <= apart
    (note,) = group_notes(ours, chosen)
    sizes = [sum(p.numel() for p in group["params"]) for group in made]  # type: ignore[attr-defined]
    assert note == (
        f"of {sum(sizes)} weights {sizes[0] + sizes[1]} at the rate, {sizes[2]} at 10 times the rate, {sizes[3]} at "
        f"20 times the rate; weight decay is on {sizes[0] + sizes[2]} of them"
    )


def test_a_factor_of_a_part_that_is_not_there_is_refused() -> None:
    own = OwnNetwork(nn.Conv2d(3, 2, 1), ModelGeometry(1, 1, 1))
    parameter_groups(own, TrainingSettings(weight_decay_on="weights"))
    for key in ("head_rate_factor", "head_bias_rate_factor"):
        with pytest.raises(
            SettingsError, match=rf"training\.{key} is 10, but Conv2d has no part called encoder"
        ):
            parameter_groups(own, TrainingSettings.model_validate({key: 10}))
    with pytest.raises(SettingsError, match="but DilatedNetwork has no auxiliary head"):
        parameter_groups(tiny(), TrainingSettings(auxiliary_rate_factor=10))
    parameter_groups(tiny("fcn"), TrainingSettings(auxiliary_rate_factor=10))


def test_a_state_of_other_groups_is_refused_with_the_reason(tmp_path: Path) -> None:
    network = tiny()
    state = TrainingState.begin(network, Recipe())
    state.save(tmp_path / "state.safetensors", run="1")
    TrainingState.begin(copy.deepcopy(network), Recipe()).load(tmp_path / "state.safetensors")
    other = TrainingState.begin(network, Recipe(training=TrainingSettings(head_rate_factor=10)))
    with pytest.raises(OutputError, match="its optimiser had 1 groups of parameters, this recipe makes 2"):
        other.load(tmp_path / "state.safetensors")
