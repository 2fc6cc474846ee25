"""Folding, the predictor's laws, and what becomes of them when memory is short."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine_models import BIAS, CPU, SMALL, images, make_model, predictor
from laws import few
from numpy.typing import NDArray
from torch import Tensor, nn

from aerial_seg.errors import SettingsError
from aerial_seg.inference.engines import choose as engine
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.engines.fold_batch_norm import FOLD_TOLERANCE, fold_batch_norms
from aerial_seg.inference.predictor import Predictor
from aerial_seg.models.device import has_native_bf16, reproducible
from aerial_seg.models.file import TrainedModel
from aerial_seg.recipe.model import ModelSettings

OWN = [
    ModelSettings(architecture=name, output_stride=stride, head_channels=16)
    for name in ("fcn", "deeplabv3", "pspnet")
    for stride in (8, 16)
]
RESNET_SMP = [ModelSettings(architecture=name) for name in ("Unet", "FPN", "Linknet", "DeepLabV3Plus")]
OTHER_SMP = [
    ModelSettings(architecture="Unet", encoder=name)
    for name in ("tu-efficientnet_b0", "tu-resnet18", "mobilenet_v2", "densenet121", "efficientnet-b0")
]
# Its encoder runs stages that its logits do not read.
OTHER_SMP.append(ModelSettings(architecture="PSPNet", encoder="mobilenet_v2"))


def bare_logits(model: TrainedModel, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w, K) of the network as it was loaded, plus the class bias."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = model.network(torch.from_numpy(image)[None])[0].numpy()
    return logits.transpose(1, 2, 0) + np.float32(BIAS)


def remaining(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def relative(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max())


# Folding


@pytest.mark.parametrize(
    "settings",
    few([*OWN[:3], *RESNET_SMP[:1], *OTHER_SMP[:2], *OWN[3:], *RESNET_SMP[1:], *OTHER_SMP[2:]], quick=6),
    ids=lambda s: f"{s.architecture}-{s.encoder}-{s.output_stride}",
)
def test_a_folded_network_gives_the_logits_of_the_unfolded(settings: ModelSettings) -> None:
    network = make_model(settings).network
    if settings in OWN:
        network.auxiliary = None
    folded = copy.deepcopy(network)
    facts = fold_batch_norms(folded, torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    image = torch.randn(2, 3, 128, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        assert relative(folded(image), network(image)) <= FOLD_TOLERANCE
    assert facts.count >= 20
    assert facts.change <= FOLD_TOLERANCE
    if settings not in OTHER_SMP:
        # FPN's group norms are no batch norms.
        assert (facts.left, remaining(folded)) == (0, 0)


class Odd(nn.Module):
    """conv → norm in ways that may not be folded, and one that may."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(6))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        c, n = self.convs, self.norms
        kept = c[0](x)
        x = n[0](kept) + kept  # a second reader
        x = n[1](torch.relu_(c[1](x)))  # written in place since
        x = n[2](c[2](c[2](x)))  # a convolution called twice
        x = n[3](n[3](c[3](x)))  # a norm called twice
        x = n[4](c[4](x) * 2)  # something between
        folded: Tensor = n[5](c[5](x))
        return folded


def test_only_what_reads_a_convolution_directly_and_alone_is_folded() -> None:
    torch.manual_seed(0)
    network = Odd().eval()
    for norm in network.norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    folded = copy.deepcopy(network)
    image = torch.randn(1, 4, 8, 8)
    facts = fold_batch_norms(folded, image)
    assert facts.count == 1
    assert isinstance(folded.norms[5], nn.Identity)
    assert remaining(folded) == 5
    with torch.inference_mode():
        torch.testing.assert_close(folded(image), network(image))


class Scaled(nn.Conv2d):
    """Standardises its weights, so scaling them does nothing: folding into it goes wrong."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / self.weight.norm()
        return nn.functional.conv2d(x, weight, self.bias)


def test_a_folding_that_changes_logits_is_taken_back() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Scaled(3, 4, 1), nn.BatchNorm2d(4)).eval()
    network[1].running_var.fill_(9.0)
    before = copy.deepcopy(network)
    image = torch.randn(1, 3, 8, 8)
    facts = fold_batch_norms(network, image)
    assert facts.count == 0
    assert facts.left == 1
    assert facts.change > FOLD_TOLERANCE
    with torch.inference_mode():
        assert torch.equal(network(image), before(image))
    assert network.state_dict().keys() == before.state_dict().keys()


def test_the_predictor_says_when_it_could_not_fold(
    monkeypatch: pytest.MonkeyPatch, small: TrainedModel
) -> None:
    monkeypatch.setattr("aerial_seg.inference.engines.fold_batch_norm.FOLD_TOLERANCE", -1.0)
    monkeypatch.setattr("aerial_seg.inference.engines.prepare.FOLD_TOLERANCE", -1.0)
    made = predictor(small)
    assert any("not folded" in note for note in made.notes)
    np.testing.assert_allclose(made.run(images(1))[0], bare_logits(small, images(1)[0]), rtol=1e-4, atol=1e-5)


# The predictor


@pytest.mark.parametrize(
    "settings", [SMALL, ModelSettings(architecture="Unet")], ids=lambda s: s.architecture
)
def test_logits_are_the_networks_plus_the_class_bias(settings: ModelSettings) -> None:
    model = make_model(settings)
    before = copy.deepcopy(model.network.state_dict())
    norms = remaining(model.network)
    logits = predictor(model).run(images(2))
    assert logits.dtype == np.float32
    assert logits.flags.c_contiguous
    cells = model.network.geometry.cells(64)
    assert logits.shape == (2, cells, cells, 3)
    for image, own in zip(images(2), logits, strict=True):
        np.testing.assert_allclose(own, bare_logits(model, image), rtol=1e-4, atol=1e-5)
    after = model.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert remaining(model.network) == norms > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_position_in_a_batch_and_its_padding_change_no_bit(small: TrainedModel, precision: str) -> None:
    made = predictor(small, EngineSettings("eager", precision, "cpu"), batch_size=3)
    first, second, third = images(3)
    together = made.run([first, second, third])
    assert np.array_equal(made.run([third])[0], together[2])
    assert np.array_equal(made.run([third, first]), together[[2, 0]])
    assert np.array_equal(made.run([second, third, first]), together[[1, 2, 0]])
    assert np.array_equal(predictor(small, made_like(made), batch_size=3).run([second])[0], together[1])


def made_like(made: Predictor) -> EngineSettings:
    return EngineSettings(made.runtime.engine, made.runtime.precision, "cpu")


def test_more_images_than_a_batch_are_cut_into_batches(small: TrainedModel) -> None:
    made = predictor(small, batch_size=2)
    many = images(5)
    expected = np.concatenate([made.run(many[:2]), made.run(many[2:4]), made.run(many[4:])])
    assert np.array_equal(made.run(many), expected)


def test_batches_in_flight_keep_their_own_logits(small: TrainedModel) -> None:
    made = predictor(small)
    assert made.depth == 1
    first, second = made.submit(images(2)), made.submit(images(2)[::-1])
    assert np.array_equal(first.logits(), second.logits()[::-1])
    assert np.array_equal(first.logits(), made.run(images(2)))


def test_an_image_of_another_shape_is_our_own_mistake(small: TrainedModel) -> None:
    with pytest.raises(ValueError, match=r"wanted \(3, 64, 64\)"):
        predictor(small).run([np.zeros((3, 32, 64), np.float32)])


def test_the_runtime_is_complete(small: TrainedModel) -> None:
    runtime = predictor(small, batch_size=3).runtime
    assert runtime.as_dict() == {
        "engine": "eager",
        "precision": "fp32",
        "device": "cpu",
        "hardware": runtime.hardware,
        "batch_size": 3,
        "threads": torch.get_num_threads(),
        "torch_version": torch.__version__,
        "carrier": "host",
    }
    assert torch.backends.cpu.get_cpu_capability() in runtime.hardware


def test_bf16_stays_near_fp32_and_casts_weights_once(small: TrainedModel) -> None:
    image = images(1)
    exact = predictor(small, batch_size=1).run(image)
    made = predictor(small, EngineSettings("eager", "bf16", "cpu"), batch_size=1)
    assert made.runtime.precision == "bf16"
    halved = made.run(image)
    assert halved.dtype == np.float32
    assert 0 < np.abs(halved - exact).max() < 0.05 * np.abs(exact).max()
    if not has_native_bf16(CPU):
        assert any("emulates bfloat16" in note for note in made.notes)


# Memory


class Tight:
    """Stands in for a device that holds two images; counts what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, holds: int) -> None:
        self.sizes: list[int] = []
        call = engine.EagerEngine.__call__

        def limited(eager: engine.EagerEngine, batch: Tensor) -> Tensor:
            self.sizes.append(len(batch))
            if len(batch) > holds:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return call(eager, batch)

        monkeypatch.setattr(engine.EagerEngine, "__call__", limited)


def test_out_of_memory_halves_the_batch_size_and_says_so(
    monkeypatch: pytest.MonkeyPatch, small: TrainedModel
) -> None:
    many = images(7)
    expected = predictor(small, batch_size=2).run(many)
    tight = Tight(monkeypatch, holds=2)
    made = predictor(small, batch_size=8)
    assert np.array_equal(made.run(many), expected)
    assert tight.sizes == [8, 4, 2, 2, 2, 2]
    assert made.batch_size == made.runtime.batch_size == 2
    assert [note.split(":")[0] for note in made.notes] == ["batch size 4", "batch size 2"]
    assert np.array_equal(made.run(many), expected)


def test_a_device_with_its_own_memory_is_tried_before_the_runtime_is_told(
    monkeypatch: pytest.MonkeyPatch, small: TrainedModel
) -> None:
    monkeypatch.setattr(engine, "has_own_memory", lambda device: True)
    Tight(monkeypatch, holds=2)
    assert predictor(small, batch_size=5).runtime.batch_size == 2


def test_too_little_memory_for_one_image_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, small: TrainedModel
) -> None:
    Tight(monkeypatch, holds=0)
    with pytest.raises(SettingsError, match='smaller `tile_size`, or `device="cpu"`'):
        predictor(small, batch_size=4).run(images(1))


# CUDA


def test_cuda_convolutions_are_reproducible_inside_and_as_before_outside() -> None:
    cudnn = torch.backends.cudnn
    before = (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
    with reproducible(torch.device("cuda")):
        assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
        conv = getattr(cudnn, "conv", SimpleNamespace(fp32_precision="ieee"))
        assert conv.fp32_precision == "ieee"
    assert (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 0.02), ("bf16", 0.05)])
def test_cuda_agrees_with_the_cpu(small: TrainedModel, precision: str, tolerance: float) -> None:
    many = images(9)
    reference = predictor(small, batch_size=4).run(many)
    made = predictor(small, EngineSettings("eager", precision, "cuda"), batch_size=4)
    assert made.depth == 2
    logits = made.run(many)
    assert logits.flags.c_contiguous
    assert np.abs(logits - reference).max() <= tolerance * np.abs(reference).max()
    flying = [made.submit([image]) for image in many]
    assert np.array_equal(np.concatenate([pending.logits() for pending in flying]), logits)
