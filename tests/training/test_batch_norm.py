"""Batch norms as a recipe trains them: by whose statistics, with which memory, and what of them stays as it came."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shared_norms
import torch
from several_processes import in_processes
from torch import Tensor, nn
from torch.nn.functional import conv2d

from aerial_seg.errors import SettingsError
from aerial_seg.models.build import build_network
from aerial_seg.models.network import Network, OwnNetwork, encoder_of
from aerial_seg.recipe.batch_norm import BatchNormSettings
from aerial_seg.recipe.loading import parse_recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.recipe.training import TrainingSettings
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.batch_norm import twins
from aerial_seg.training.batch_norm.norms import batch_norm_notes, check_statistics
from aerial_seg.training.batch_norm.training_norms import training_norms
from aerial_seg.training.freezing import Freezing

FROZEN = BatchNormSettings(statistics="frozen")


class ByHand:
    """What `shared_norms.trained` should come to, by the formulas: all shares side by side in one process."""

    def __init__(self, way: str) -> None:
        self.way = way
        start = shared_norms.layers()
        self.state = {name: tensor.clone() for name, tensor in start.state_dict().items()}
        self.learnt = [name for name, _ in start.named_parameters()]
        self.fresh = {"1": True, "3": False}

    def normalise(self, name: str, shares: list[Tensor], eps: float) -> list[Tensor]:
        """Each share by what the way says; the running statistics of the first process follow."""
        axes = (0, 2, 3)
        whole = torch.cat(shares)
        by = {"plain": shares, "synchronised": [whole] * len(shares), "averaged": shares}[self.way]
        first = by[0].detach()
        share = 1.0 if self.way == "averaged" and self.fresh[name] else 0.3
        self.fresh[name] = False
        for running, now in (("mean", first.mean(axes)), ("var", first.var(axes, unbiased=True))):
            before = self.state[f"{name}.running_{running}"]
            self.state[f"{name}.running_{running}"] = (1 - share) * before + share * now
        self.state[f"{name}.num_batches_tracked"] += 1
        made = []
        for values, of in zip(shares, by, strict=True):
            mean, variance = of.mean(axes), of.var(axes, unbiased=False)
            if self.way == "averaged":
                mean, variance = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
            scale = (variance + eps).sqrt()
            centred = (values - mean[None, :, None, None]) / scale[None, :, None, None]
            gamma, beta = (self.state[f"{name}.{of}"][None, :, None, None] for of in ("weight", "bias"))
            made.append(centred * gamma + beta)
        return made

    def step(self, number: int) -> None:
        """One update by the gradient of the mean of the shares' losses."""
        image, target = shared_norms.batch(number)
        for name in self.learnt:
            self.state[name] = self.state[name].detach().requires_grad_()
        shares = [conv2d(one, self.state["0.weight"]) for one in image.chunk(shared_norms.SHARES)]
        shares = [torch.relu(one) for one in self.normalise("1", shares, 1e-5)]
        shares = self.normalise("3", shares, 1e-3)
        outs = [conv2d(one, self.state["4.weight"], self.state["4.bias"]) for one in shares]
        targets = target.chunk(shared_norms.SHARES)
        loss = torch.stack([(one - of).square().mean() for one, of in zip(outs, targets, strict=True)]).mean()
        gradients = torch.autograd.grad(loss, [self.state[name] for name in self.learnt])
        for name, gradient in zip(self.learnt, gradients, strict=True):
            self.state[name] = self.state[name].detach() - shared_norms.RATE * gradient


def by_hand(way: str) -> dict[str, Tensor]:
    hand = ByHand(way)
    for number in range(shared_norms.STEPS):
        hand.step(number)
    return hand.state


@pytest.mark.slow
def test_two_processes_normalise_in_each_way_as_computed_by_hand(tmp_path: Path) -> None:
    """Averaged: by the first one's running statistics in both. Plain: each by its own. Synchronised: by all pixels."""
    first, second = in_processes(shared_norms.trained, 2, tmp_path, tuple(shared_norms.WAYS))
    wanted = {way: by_hand(way) for way in shared_norms.WAYS}
    for way, state in wanted.items():
        assert first[way].keys() == state.keys()
        for name, tensor in state.items():
            torch.testing.assert_close(first[way][name], tensor, rtol=0, atol=1e-12)
            # Weights are the same everywhere; statistics are, but where each process has its own.
            same = torch.equal(first[way][name], second[way][name])
            assert same or (way == "plain" and "running" in name)
    assert not torch.equal(first["plain"]["1.running_mean"], second["plain"]["1.running_mean"])
    ways = list(wanted)
    for name in ("0.weight", "1.weight", "3.bias", "1.running_mean", "3.running_var"):
        apart = [(first[a][name] - first[b][name]).abs().max() for a in ways for b in ways if a < b]
        assert min(apart) > 1e-3, name


def test_one_process_averages_as_in_evaluation() -> None:
    """What inference computes of a batch is what training computed of it after taking it in."""
    network = shared_norms.layers()
    image, _ = shared_norms.batch(0)
    with training_norms(network, BatchNormSettings(statistics="averaged")):
        in_training = network(image)
        network.eval()
        torch.testing.assert_close(network(image), in_training, rtol=0, atol=0)
    torch.testing.assert_close(network(image), in_training, rtol=0, atol=1e-12)
    # The first norm had no statistics: it took the batch's whole; the second one a tenth of them.
    inside = conv2d(image, network[0].weight)
    np.testing.assert_allclose(network[1].running_mean, inside.detach().numpy().mean((0, 2, 3)), atol=1e-12)
    np.testing.assert_allclose(
        network[1].running_var, inside.detach().numpy().var((0, 2, 3), ddof=1), atol=1e-12
    )


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        (BatchNormSettings(decay=0.9997), 0.0003),
        (BatchNormSettings(momentum=0.0003), 0.0003),
        (BatchNormSettings(decay=0.95), 0.05),
        (BatchNormSettings(), 0.1),
    ],
)
def test_either_convention_is_the_share_of_a_batch(settings: BatchNormSettings, share: float) -> None:
    network = shared_norms.layers()
    image, _ = shared_norms.batch(0)
    with training_norms(network, settings):
        network(image)
        assert network[1].momentum == share
    inside = conv2d(image, network[0].weight).detach().numpy()
    np.testing.assert_allclose(network[1].running_mean, share * inside.mean((0, 2, 3)), atol=1e-12)
    np.testing.assert_allclose(
        network[1].running_var, 1 - share + share * inside.var((0, 2, 3), ddof=1), atol=1e-12
    )
    assert network[1].momentum == 0.1


def test_what_a_momentum_is_in_the_other_convention_is_told() -> None:
    (note,) = batch_norm_notes(shared_norms.layers(), BatchNormSettings(decay=0.9997))
    assert note.startswith("2 batch norms: momentum 0.0003 in PyTorch's convention")
    assert "decay 0.9997 of TensorFlow and Caffe" in note
    with pytest.raises(SettingsError, match=r"give momentum = 0\.1 or decay = 0\.9 alone"):
        parse_recipe("[batch_norm]\nmomentum = 0.1\ndecay = 0.9\n", "mine")
    for line in ("momentum = 0.1", "decay = 0.9"):
        parse_recipe(f"[batch_norm]\n{line}\n", "mine")
    with pytest.raises(SettingsError, match=r"unknown key 'batch_norm\.eps'"):
        parse_recipe("[batch_norm]\neps = 1e-3\n", "mine")
    # Of no use beside frozen statistics, as a stage may have it from the one before: said, not refused.
    notes = batch_norm_notes(shared_norms.layers(), BatchNormSettings(decay=0.9997, statistics="frozen"))
    assert "is of no use this time" in notes[0]


def small_unet() -> Network:
    torch.manual_seed(2)
    options = {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}
    network = build_network(ModelSettings(architecture="Unet", options=options), bands=3, classes=2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return network


def learnt(network: Network, training: TrainingSettings, norms: BatchNormSettings) -> dict[str, list[bool]]:
    """By tensor: whether each of four updates changed it. Between updates the network is put into training mode."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.1)
    random = torch.Generator().manual_seed(0)
    changed: dict[str, list[bool]] = {name: [] for name in network.state_dict()}
    with training_norms(network, norms):
        freezing = Freezing(network, training, norms)
        for number in range(4):
            before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            network.eval()
            network.train()
            freezing.before_update(number)
            optimizer.zero_grad()
            network(torch.randn(2, 3, 32, 32, generator=random)).square().mean().backward()
            optimizer.step()
            for name, tensor in network.state_dict().items():
                changed[name].append(not torch.equal(tensor, before[name]))
    return changed


def norms_of(network: Network) -> set[str]:
    """Names of the batch norms."""
    return {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}


@pytest.mark.parametrize("affine", ["trained", "frozen"])
@pytest.mark.parametrize("statistics", ["batch", "frozen", "averaged"])
@pytest.mark.parametrize("where", ["all", "encoder"])
def test_what_is_frozen_stays_to_the_end_and_only_that(statistics: str, affine: str, where: str) -> None:
    """Whatever puts the network into training mode between two updates wakes neither of the two."""
    settings = BatchNormSettings(statistics=statistics, affine=affine, where=where)  # type: ignore[arg-type]
    if (statistics, affine) == ("batch", "trained") and where == "encoder":
        settings = BatchNormSettings()
    network = small_unet()
    norms, prefix = norms_of(network), encoder_of(network)[0]
    changed = learnt(network, TrainingSettings(), settings)
    for name, steps in changed.items():
        of, _, kind = name.rpartition(".")
        concerned = of in norms and (where == "all" or name.startswith(prefix))
        is_affine = kind in ("weight", "bias")
        stays = concerned and (affine if is_affine else statistics) == "frozen"
        assert steps == [not stays] * 4, name


def test_a_part_that_is_let_go_leaves_its_frozen_norms_behind() -> None:
    """The encoder is frozen for two updates, its norms to the end."""
    network = small_unet()
    norms, prefix = norms_of(network), encoder_of(network)[0]
    settings = BatchNormSettings(statistics="frozen", affine="frozen", where="encoder")
    changed = learnt(network, TrainingSettings(freeze="encoder", freeze_iterations=2), settings)
    for name, steps in changed.items():
        inside, is_norm = name.startswith(prefix), name.rpartition(".")[0] in norms
        wanted = [True] * 4 if not inside else [False] * 4 if is_norm else [False, False, True, True]
        assert steps == wanted, name


def test_frozen_statistics_are_those_of_evaluation_and_take_one_pixel() -> None:
    network = small_unet()
    image = torch.randn(1, 3, 32, 32)
    wanted = network.eval()(image)
    network.train()
    with training_norms(network, FROZEN):
        Freezing(network, TrainingSettings(), FROZEN).before_update(0)
        assert torch.equal(network(image), wanted)
    for norms in (BatchNormSettings(), BatchNormSettings(statistics="averaged"), FROZEN):
        net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
        net[1].running_mean.fill_(0.5)
        with training_norms(net, norms):
            Freezing(OwnNetwork(net, ModelGeometry(8, 8, 8)), TrainingSettings(), norms).before_update(0)
            if norms is FROZEN:
                torch.testing.assert_close(
                    net(image), image.mean((2, 3), keepdim=True) - 0.5, atol=1e-4, rtol=0
                )
                continue
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                net(image)


def test_statistics_that_nobody_measured_are_not_frozen() -> None:
    """Neither of a random network, nor of a head that begins at random; the remedies work."""
    network = build_network(
        ModelSettings(architecture="Unet", options={"encoder_depth": 3, "decoder_channels": [8, 8, 8]}),
        bands=3,
        classes=2,
    )
    with pytest.raises(
        SettingsError, match=r'16 of 16 batch norms have no statistics.*`weights="FILE"`'
    ) as told:
        check_statistics(network, FROZEN)
    assert 'or set batch_norm.statistics = "batch"' in str(told.value)
    check_statistics(network, BatchNormSettings())
    _, encoder = encoder_of(network)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(0.5)
    with pytest.raises(SettingsError, match=r'6 of 16 .*set batch_norm\.where = "encoder"'):
        check_statistics(network, FROZEN)
    check_statistics(network, BatchNormSettings(statistics="frozen", where="encoder"))


def test_a_norm_without_running_statistics_is_validated_without_the_other_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One process validates, and the others wait for it: whoever asked them for sums would wait for ever."""

    def nobody_answers(values: Tensor) -> Tensor:
        raise AssertionError(f"the other processes were asked for {tuple(values.shape)}")

    norm = nn.BatchNorm2d(3, track_running_stats=False)
    nn.init.normal_(norm.weight)
    image = torch.randn(2, 3, 5, 7)
    monkeypatch.setattr(twins, "sum_over_processes", nobody_answers)
    shared = twins.SyncBatchNorm(norm).eval()
    torch.testing.assert_close(shared(image), norm.eval()(image))
    assert torch.isfinite(shared(image[:1, :, :1, :1])).all(), (
        "a single value has no variance, and is validated"
    )
    with pytest.raises(AssertionError, match="asked for"):
        shared.train()(image)


def test_what_cannot_apply_is_refused() -> None:
    without = OwnNetwork(nn.Conv2d(3, 2, 1), ModelGeometry(1, 1, 1))
    with pytest.raises(SettingsError, match=r"there is no batch norm in Conv2d"):
        Freezing(without, TrainingSettings(), BatchNormSettings(affine="frozen"))
    with pytest.raises(SettingsError, match="no part called encoder"):
        Freezing(without, TrainingSettings(), BatchNormSettings(affine="frozen", where="encoder"))
    with pytest.raises(SettingsError, match=r'where is "encoder", but nothing is set'):
        Freezing(small_unet(), TrainingSettings(), BatchNormSettings(where="encoder"))
    passing = OwnNetwork(nn.BatchNorm2d(3, track_running_stats=False), ModelGeometry(1, 1, 1))
    with pytest.raises(SettingsError, match="module keeps no running statistics"):
        Freezing(passing, TrainingSettings(), FROZEN)

    class Mine(nn.BatchNorm2d):
        """Who knows what its forward does."""

    with (
        pytest.raises(SettingsError, match="0 is a Mine, of which nobody knows"),
        training_norms(nn.Sequential(Mine(3)), BatchNormSettings(statistics="averaged")),
    ):
        pass
