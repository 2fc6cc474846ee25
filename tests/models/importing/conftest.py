"""What the references of other projects share: random weights, layers over a state dict, files, the comparison.

The references are written with `torch.nn.functional` over the other project's own state dict, so that nothing of our
networks takes part in them. Each test file says which facts about its project it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from aerial_seg.models.importing.checkpoint import read_checkpoint
from aerial_seg.models.importing.sources import import_checkpoint

State = dict[str, Tensor]
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Weights:
    """A state dict in the making: float64 values that float32 holds exactly, each name once.

    Convolutions are uniform with He's variance; a normalisation's weight, bias, running mean and running variance are
    uniform in [0.5, 1.5]. A bottleneck's last convolution is a quarter of that, or thirty-three sums would grow
    beyond O(1). Without a `seed` every tensor is a single 1 seen in its shape: names and shapes at no cost.
    """

    def __init__(self, seed: int | None, *, counted: bool = True) -> None:
        self.state: State = {}
        self.counted = counted  # torch 0.4.1 and later save num_batches_tracked
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def convolution(
        self, name: str, outputs: int, inputs: int, side: int, *, bias: bool = False, gain: float = 1.0
    ) -> None:
        bound = gain * math.sqrt(6 / (inputs * side * side))
        self.put(f"{name}.weight", (outputs, inputs, side, side), -bound, bound)
        if bias:
            self.put(f"{name}.bias", (outputs,), -1.0, 1.0)

    def normalisation(self, name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.put(f"{name}.{part}", (channels,), 0.5, 1.5)
        if self.counted:
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(80_000)

    def deep_stem(self, name: str, half: int, full: int) -> None:
        """Three 3×3 convolutions to half, half and full channels, as a Sequential 0,1,(2),3,4,(5),6,7,(8)."""
        for index, outputs, inputs in ((0, half, 3), (3, half, half), (6, full, half)):
            self.convolution(f"{name}.{index}", outputs, inputs, 3)
            self.normalisation(f"{name}.{index + 1}", outputs)

    def residual_layers(self, prefix: str, depth: int, stem_channels: int = 64) -> None:
        """layer1 … layer4 of bottlenecks under the names that torchvision gave them."""
        inputs = stem_channels
        for layer, (planes, blocks) in enumerate(zip((64, 128, 256, 512), BLOCKS[depth], strict=True), 1):
            for block in range(blocks):
                name = f"{prefix}layer{layer}.{block}"
                shapes = ((planes, inputs, 1), (planes, planes, 3), (4 * planes, planes, 1))
                for number, shape in enumerate(shapes, 1):
                    self.convolution(f"{name}.conv{number}", *shape, gain=0.25 if number == 3 else 1.0)
                    self.normalisation(f"{name}.bn{number}", shape[0])
                if block == 0:
                    self.convolution(f"{name}.downsample.0", 4 * planes, inputs, 1)
                    self.normalisation(f"{name}.downsample.1", 4 * planes)
                inputs = 4 * planes

    def put(self, name: str, shape: tuple[int, ...], low: float, high: float) -> None:
        assert name not in self.state, name
        if self.generator is None:
            self.state[name] = torch.ones((), dtype=torch.float64).expand(shape)
        else:
            drawn = torch.empty(shape, dtype=torch.float32).uniform_(low, high, generator=self.generator)
            self.state[name] = drawn.double()


class Layers:
    """Layers in eval mode as functions of a state dict and a name in it; `x` is (N,C,H,W) float64."""

    blocks = BLOCKS

    def convolution(
        self, state: State, name: str, x: Tensor, *, stride: int = 1, padding: int = 0, dilation: int = 1
    ) -> Tensor:
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        return functional.conv2d(x, weight, bias, stride, padding, dilation)

    def normalisation(self, state: State, name: str, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=1e-5)

    def unit(
        self, state: State, names: tuple[str, str], x: Tensor, *,
        stride: int = 1, padding: int = 0, dilation: int = 1,
    ) -> Tensor:  # fmt: skip
        """Convolution, normalisation, ReLU."""
        y = self.convolution(state, names[0], x, stride=stride, padding=padding, dilation=dilation)
        return self.normalisation(state, names[1], y).relu()

    def deep_stem(self, state: State, name: str, x: Tensor) -> Tensor:
        for index, stride in ((0, 2), (3, 1), (6, 1)):
            x = self.unit(state, (f"{name}.{index}", f"{name}.{index + 1}"), x, stride=stride, padding=1)
        return x

    def bottleneck(self, state: State, name: str, x: Tensor, *, stride: int, dilation: int) -> Tensor:
        """1×1, 3×3 with the stride and the dilation, 1×1; the shortcut strides with it."""
        y = self.unit(state, (f"{name}.conv1", f"{name}.bn1"), x)
        y = self.unit(state, (f"{name}.conv2", f"{name}.bn2"), y,
                      stride=stride, padding=dilation, dilation=dilation)  # fmt: skip
        y = self.normalisation(state, f"{name}.bn3", self.convolution(state, f"{name}.conv3", y))
        if f"{name}.downsample.0.weight" in state:
            x = self.convolution(state, f"{name}.downsample.0", x, stride=stride)
            x = self.normalisation(state, f"{name}.downsample.1", x)
        return (x + y).relu()

    def residual_layer(
        self, state: State, name: str, x: Tensor, *, stride: int, dilations: Sequence[int]
    ) -> Tensor:
        """One bottleneck per dilation; the first one strides."""
        assert f"{name}.{len(dilations)}.conv1.weight" not in state, "a block would be left out"
        for block, dilation in enumerate(dilations):
            x = self.bottleneck(
                state, f"{name}.{block}", x, stride=stride if block == 0 else 1, dilation=dilation
            )
        return x

    def resized(self, x: Tensor, size: Sequence[int], *, align_corners: bool) -> Tensor:
        return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


class Agreement:
    """What an imported network must do to be the one the reference computes."""

    def equal(self, got: Tensor, wanted: Tensor) -> None:
        assert got.dtype == wanted.dtype == torch.float64
        assert got.shape == wanted.shape
        difference = float((got - wanted).abs().max()) / max(1.0, float(wanted.abs().max()))
        assert difference <= 1e-10, f"relative difference {difference:.3g}"

    def network(
        self, imported: Any, image: Tensor, reference: tuple[Tensor, Tensor], *, align_corners: bool
    ) -> None:
        """Logits, the auxiliary logits, and the logits at the image's size are the reference's."""
        logits, auxiliary = reference
        assert not imported.network.training
        network = imported.network.double()
        with torch.inference_mode():
            got, got_auxiliary = network.forward_training(image)
        self.equal(got, logits)
        self.equal(got_auxiliary, auxiliary)
        size = tuple(image.shape[2:])
        ours, theirs = (
            functional.interpolate(x, size=size, mode="bilinear", align_corners=aligned)
            for x, aligned in ((got, network.geometry.align_corners), (logits, align_corners))
        )
        self.equal(ours, theirs)

    def forward(self, imported: Any, image: Tensor, logits: Tensor) -> None:
        """The network's own call gives the reference's logits."""
        with torch.inference_mode():
            self.equal(imported.network.double()(image), logits)

    def bands(self, imported: Any, wanted: Sequence[tuple[str, float, float]]) -> None:
        assert [band.name for band in imported.bands] == [name for name, _, _ in wanted]
        assert [band.mean for band in imported.bands] == pytest.approx(
            [mean for _, mean, _ in wanted], abs=1e-3
        )
        assert [band.std for band in imported.bands] == pytest.approx([std for _, _, std in wanted], abs=1e-3)


class Saved(Protocol):
    """`saved(model, make)` → the state and the file of the document that `make` made of it.

    What was made for the latest model is kept: cases of one model that follow each other share it.
    """

    def __call__(self, model: Hashable, make: Callable[[], tuple[State, Any]]) -> tuple[State, Path]: ...


@pytest.fixture(scope="session")
def weights() -> type[Weights]:
    return Weights


@pytest.fixture(scope="session")
def layers() -> Layers:
    return Layers()


@pytest.fixture(scope="session")
def agreement() -> Agreement:
    return Agreement()


@pytest.fixture(scope="session")
def images() -> Callable[[Sequence[int]], Tensor]:
    """`images((N, H, W))` → (N,3,H,W) float64, as normalised images are: mean 0, deviation 1."""

    def draw(shape: Sequence[int]) -> Tensor:
        batch, height, width = shape
        generator = torch.Generator().manual_seed(height * width)
        return torch.randn(batch, 3, height, width, dtype=torch.float64, generator=generator)

    return draw


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], AbstractContextManager[Path]]:
    """`with stored(document) as path`: the file that torch.save writes, gone afterwards (they are large)."""

    @contextmanager
    def store(document: Any) -> Iterator[Path]:
        path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pth"
        torch.save(document, path)
        try:
            yield path
        finally:
            path.unlink()

    return store


@pytest.fixture(scope="module")
def saved(stored: Callable[[Any], AbstractContextManager[Path]]) -> Iterator[Saved]:
    with ExitStack() as open_files:
        held: dict[Hashable, tuple[State, Path]] = {}

        def get(model: Hashable, make: Callable[[], tuple[State, Any]]) -> tuple[State, Path]:
            if model not in held:
                held.clear()
                open_files.close()
                state, document = make()
                held[model] = state, open_files.enter_context(stored(document))
            return held[model]

        yield get


@pytest.fixture(scope="session")
def imported_from() -> Callable[[Path, str, str | None], Any]:
    """`imported_from(path, source, arch)` → what the importer makes of the file."""

    def read(path: Path, source: str, arch: str | None) -> Any:
        return import_checkpoint(read_checkpoint(path), source, arch=arch)

    return read
