"""Two processes that share a batch compute what one computes of the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import shared_training
import torch
from several_processes import in_processes
from torch import nn

from aerial_seg.errors import SettingsError
from aerial_seg.models.build import build_network
from aerial_seg.recipe.batch_norm import BatchNormSettings
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.training import processes
from aerial_seg.training.batch_norm.training_norms import training_norms
from aerial_seg.training.batch_norm.twins import SyncBatchNorm


def check(alone: dict, shared: list[dict], steps: int) -> None:
    assert len(alone["gradients"]) > 50
    for one in shared:
        for name, gradient in alone["gradients"].items():
            torch.testing.assert_close(one["gradients"][name], gradient, rtol=0, atol=1e-9)
        assert len(one["losses"]) == steps
        torch.testing.assert_close(
            torch.tensor(one["losses"]), torch.tensor(alone["losses"]), rtol=0, atol=1e-6
        )
        assert one["state"].keys() == alone["state"].keys()
        for name, tensor in alone["state"].items():
            torch.testing.assert_close(one["state"][name], tensor, rtol=0, atol=1e-5)
    # Bit for bit what the other process has: nobody drifts.
    assert all(torch.equal(shared[0]["state"][name], shared[1]["state"][name]) for name in alone["state"])


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(tmp_path: Path) -> None:
    check(shared_training.updates("fcn", 1), in_processes(shared_training.updates, 2, tmp_path, "fcn", 1), 1)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["deeplabv3", "Unet"])
def test_two_processes_go_the_way_of_one(architecture: str, tmp_path: Path) -> None:
    """Twenty updates; the Unet's encoder has batch norms that bring their activations along."""
    shared = in_processes(shared_training.updates, 2, tmp_path, architecture, 20)
    check(shared_training.updates(architecture, 20), shared, 20)
    assert shared[0]["losses"][-1] < shared[0]["losses"][0]


@pytest.mark.slow
def test_every_term_of_the_loss_is_that_of_both_shares_together(tmp_path: Path) -> None:
    """Hard pixels are the hardest of both processes, Lovász sorts the errors of both; each has its own gradient.

    Each process counts the shared loss as its own, so its gradients come out twice as large.
    """
    alone, shared = (
        shared_training.losses_of_terms(),
        in_processes(shared_training.losses_of_terms, 2, tmp_path),
    )
    assert len(alone) == 10
    for number, one in enumerate(alone):
        tolerance = 1e-12 if one["loss"].dtype == torch.float64 else 1e-6
        mine, others = (of[number] for of in shared)
        assert torch.equal(mine["loss"], others["loss"])
        torch.testing.assert_close(mine["loss"], one["loss"], rtol=tolerance, atol=tolerance)
        for name in ("main", "side"):
            both = torch.cat([mine[name], others[name]]) / 2
            torch.testing.assert_close(both, one[name], rtol=tolerance, atol=tolerance)
            assert (both != 0).any()


@pytest.mark.slow
def test_parts_in_two_processes_have_the_batch_norms_of_their_own_parts(tmp_path: Path) -> None:
    """A part of all processes is normalised together; its gradients are summed over the parts."""
    shared = in_processes(shared_training.updates, 2, tmp_path, "fcn", 2, 2)
    assert shared[0]["losses"] == shared[1]["losses"]
    for name, gradient in shared[0]["gradients"].items():
        assert torch.equal(gradient, shared[1]["gradients"][name])
        assert (gradient != 0).any()


@pytest.mark.slow
def test_a_synchronised_norm_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    """Shares of 5 and 2 images; outputs, gradients and running statistics, with and without momentum, as torch's."""
    alone, shared = shared_training.norms(), in_processes(shared_training.norms, 2, tmp_path)
    for number, wanted in enumerate(alone):
        both = [one[number] for one in shared]
        exact = wanted["out"].dtype == torch.float64
        tolerance = {"rtol": 0, "atol": 1e-12} if exact else {"rtol": 0.02, "atol": 0.04}
        torch.testing.assert_close(torch.cat([one["out"] for one in both]), wanted["out"], **tolerance)
        torch.testing.assert_close(
            torch.cat([one["gradient"] for one in both]) / 2, wanted["gradient"], **tolerance
        )
        for one in both:
            for name, tensor in wanted["state"].items():
                torch.testing.assert_close(one["state"][name], tensor, rtol=1e-5, atol=1e-5)
            assert one["state"]["num_batches_tracked"] == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_alone_a_synchronised_norm_is_torchs(dtype: torch.dtype, training: bool) -> None:
    norm, image = shared_training.norm_and_image(dtype, 0.1)
    norm(image)
    other = nn.BatchNorm2d(4).to(norm.weight.dtype)
    other.load_state_dict(norm.state_dict())
    ours = SyncBatchNorm(other.train(training))
    with torch.no_grad():
        ours.running_mean.add_(0.1)
        norm.running_mean.add_(0.1)
    close = 1e-12 if dtype == torch.float64 else 1e-5 if dtype == torch.float32 else 0.04
    torch.testing.assert_close(ours(image), norm.train(training)(image), rtol=close, atol=close)
    for name, tensor in norm.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_network_has_its_own_norms_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside it has the same tensors under the same names; afterwards also the same modules, in their mode."""
    monkeypatch.setattr("aerial_seg.training.batch_norm.training_norms.count", lambda: 2)
    network = build_network(
        ModelSettings(architecture="Unet", encoder="tu-tf_efficientnet_lite0"), bands=3, classes=2
    )
    modules, state = dict(network.named_modules()), network.state_dict(keep_vars=True)
    with training_norms(network, BatchNormSettings()):
        kinds = [type(module) for module in network.modules()]
        assert kinds.count(SyncBatchNorm) == sum(isinstance(m, nn.BatchNorm2d) for m in modules.values()) > 40
        inside = network.state_dict(keep_vars=True)
        assert list(inside) == list(state)
        assert all(inside[name] is state[name] for name in state)
        network.eval()
    assert dict(network.named_modules()) == modules
    assert not any(module.training for module in network.modules())


def test_a_norm_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aerial_seg.training.batch_norm.training_norms.count", lambda: 2)

    class Mine(nn.BatchNorm2d):
        """Who knows what its forward does."""

    with (
        pytest.raises(SettingsError, match="1 is a Mine, which several processes cannot share"),
        training_norms(nn.Sequential(nn.Conv2d(1, 1, 1), Mine(1)), BatchNormSettings()),
    ):
        pass


def test_one_value_has_no_variance() -> None:
    for norm in (nn.BatchNorm2d(2), SyncBatchNorm(nn.BatchNorm2d(2))):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            norm(torch.zeros(1, 2, 1, 1))


def test_every_seed_of_a_recipe_gives_each_process_its_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small one as ever, a large one within what torch takes."""
    monkeypatch.setattr(processes, "count", lambda: 4)
    seeds = []
    for rank in range(4):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        assert processes.seed_of_update(3, 7) == (3 * 1_000_003 + 7) * 4 + rank
        for iteration in (0, 1, 10**6):
            seeds.append(processes.seed_of_update(2**63 - 1, iteration))
            torch.manual_seed(seeds[-1])
    assert len(set(seeds)) == 12
