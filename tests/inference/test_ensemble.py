"""Several models as one: the mean of what each says of its own input, or one line that says why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from torch import Tensor, nn

from aerial_seg.bands import Band, normalise
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.ensemble import Ensemble, EnsemblePredictor, mean_of_probabilities, model_paths
from aerial_seg.legend import make_legend
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe
from aerial_seg.tiling.cut import Planes, cut_window, make_zero
from aerial_seg.tiling.geometry import ModelGeometry

FP32 = EngineSettings("eager", "fp32", "cpu")
SIDE = 8
PATHS = (Path("a.safetensors"), Path("b.safetensors"), Path("c.safetensors"))


class Looking(Network):
    """A convolution of 3×3 at logit stride 2."""

    def __init__(
        self, bands: int, classes: int, seed: int, *, origin_step: int = 2, align: bool = False
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.geometry = ModelGeometry(2, 2, origin_step, align_corners=align)
        self.look = nn.Conv2d(bands, classes, 3, stride=2, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,H/2,W/2)."""
        logits: Tensor = self.look(image)
        return logits


def band(name: str, *, mean: float = 100.0, std: float = 50.0) -> Band:
    return Band(name=name, dtype="uint8", mean=mean, std=std, p2=0, p98=255)


RGN = (band("red"), band("green", mean=80), band("nir", std=20))


def model(
    seed: int,
    bands: Sequence[Band] = RGN,
    *,
    classes: Sequence[str] = ("background", "road", "water"),
    gsd: float | None = 0.5,
    origin_step: int = 2,
    align: bool = False,
) -> TrainedModel:
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(),
        legend=make_legend(dict(enumerate(classes))),
        bands=tuple(bands),
        gsd=gsd,
        class_bias=tuple(0.25 * seed * k for k in range(len(classes))),
        iteration=1,
        validation_miou=None,
        data_fingerprint="none",
    )
    network = Looking(len(bands), len(classes), seed, origin_step=origin_step, align=align)
    return TrainedModel(network.eval(), card, f"{seed}" * 64)


def predictor_of(*models: TrainedModel, batch_size: int = 2) -> EnsemblePredictor:
    ensemble = Ensemble.of(models, PATHS[: len(models)])
    made = ensemble.predictor(settings=FP32, batch_size=batch_size, side=SIDE, tiles=1)
    assert isinstance(made, EnsemblePredictor)
    return made


def alone(one: TrainedModel, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The model's probabilities (h,w,K) on its own input, by torch alone in float64."""
    names = [band.name for band in RGN]
    own = image[[names.index(band.name) for band in one.card.bands]]
    tensor = torch.from_numpy(normalise(own, valid, one.card.bands))[None].double()
    with torch.inference_mode():
        logits = nn.functional.conv2d(
            tensor, one.network.look.weight.double(), one.network.look.bias.double(), stride=2, padding=1
        )[0] + torch.tensor(one.card.class_bias).double().reshape(-1, 1, 1)
        return logits.softmax(0).permute(1, 2, 0).numpy()


def planes_of(made: EnsemblePredictor, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The input of all members together, (P,H,W)."""
    out = np.empty((SIDE, SIDE, made.planes), np.float32)
    everywhere, nowhere = np.arange(SIDE), (np.arange(0),) * 2
    there = np.ascontiguousarray(image.transpose(1, 2, 0))
    cut_window(out, there, everywhere, 0, planes=Planes.of(made.inputs), mirrored=nowhere)
    make_zero(out, valid, everywhere)
    return out.transpose(2, 0, 1)


statistics = st.tuples(st.floats(-20, 250), st.floats(0.5, 90))


@st.composite
def members(draw: st.DrawFn) -> list[TrainedModel]:
    """The first has three bands; the others any of them in any order, with statistics of their own or the first's."""
    made = [model(0)]
    for seed in range(1, draw(st.integers(2, 3))):
        bands = draw(st.permutations(RGN))[: draw(st.integers(1, 3))]
        if draw(st.booleans()):
            bands = [band(one.name, mean=m, std=s) for one in bands for m, s in (draw(statistics),)]
        made.append(model(seed, bands))
    return made


@settings(max_examples=examples(40))
@given(models=members(), seed=st.integers(0, 99))
def test_an_ensemble_is_the_mean_of_its_members_probabilities_each_on_its_own_input(
    models: list[TrainedModel], seed: int
) -> None:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (3, 3, SIDE, SIDE)).astype(np.uint8)
    images[0, 0, :3] = 100  # the first model's mean: valid, and 0 to it, but not to the others
    valid = random.random((3, SIDE, SIDE)) > 0.3
    made = predictor_of(*models)
    inputs = [planes_of(made, image, known) for image, known in zip(images, valid, strict=True)]
    assert all(one.shape == (made.planes, SIDE, SIDE) for one in inputs)
    assert not any(one[:, ~known].any() for one, known in zip(inputs, valid, strict=True))
    got = np.exp(made.run(inputs))
    for image, known, own in zip(images, valid, got, strict=True):
        wanted = np.mean([alone(one, image, known) for one in models], axis=0)
        np.testing.assert_allclose(own, wanted, rtol=1e-3, atol=1e-5)


def test_members_with_the_same_input_share_its_planes() -> None:
    other_percentiles = tuple(one.model_copy(update={"p2": 9.0}) for one in RGN)
    assert predictor_of(model(0), model(1), model(2, other_percentiles)).planes == 3
    assert predictor_of(model(0), model(1, RGN[::-1])).planes == 6


def test_the_same_model_twice_says_what_it_says_alone() -> None:
    images = [np.random.default_rng(0).normal(size=(3, SIDE, SIDE)).astype(np.float32)]
    one = Ensemble.of([model(1)], PATHS[:1]).predictor(settings=FP32, batch_size=2, side=SIDE, tiles=1)
    logits = one.run(images).astype(np.float64)
    wanted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(predictor_of(model(1), model(1)).run(images), wanted, rtol=1e-5, atol=1e-5)


def test_a_class_that_no_member_believes_in_stays_finite() -> None:
    logits = np.array([0.0, -1e4], np.float32).reshape(1, 1, 1, 2)
    assert np.isfinite(mean_of_probabilities([logits, logits])).all()


def test_the_run_is_recorded_as_all_models_in_their_order() -> None:
    ensemble = Ensemble.of([model(1), model(2)], PATHS[:2])
    assert ensemble.as_one.sha256 == "1" * 64 + "," + "2" * 64
    assert ensemble.as_one.card is ensemble.models[0].card
    assert Ensemble.of([model(1)], PATHS[:1]).as_one.sha256 == "1" * 64


def test_tiles_keep_the_steps_of_every_member() -> None:
    models = [model(0, origin_step=4), model(1, origin_step=6)]
    geometry = Ensemble.of(models, PATHS[:2]).geometry
    assert geometry == ModelGeometry(2, 2, 12)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            model(1, classes=("background", "water", "road")),
            "background, water, road; train them on the same",
        ),
        (model(1, align=True), r"\(2 px a cell and 2 px a cell, align_corners\); train them with the same"),
        (model(1, gsd=0.56), r"0.5 m and 0.56 m per pixel, more than 10% apart; train them at one GSD"),
        (model(1, [band("blue")]), r"\(blue uint8\) are not among the first's \(red uint8, green uint8, nir"),
        (
            model(1, [RGN[0].model_copy(update={"dtype": "uint16"})]),
            "red uint16.*name the one with more bands",
        ),
    ],
)
def test_models_that_do_not_fit_are_both_named_with_the_remedy(other: TrainedModel, said: str) -> None:
    fits = model(2, gsd=0.54)
    with pytest.raises(
        InputError, match=rf"a\.safetensors and c\.safetensors cannot be averaged: .*{said}"
    ) as error:
        Ensemble.of([model(0), fits, other], PATHS)
    assert "\n" not in str(error.value)


def test_the_model_that_knows_a_pixel_size_comes_first() -> None:
    blind, seeing = model(0, gsd=None), model(1, gsd=0.5)
    with pytest.raises(
        InputError, match=r"no pixel size on the ground, the second 0.5 m; name that one first"
    ):
        Ensemble.of([blind, seeing], PATHS[:2])
    assert Ensemble.of([seeing, blind], PATHS[:2]).as_one.card.gsd == 0.5


def test_a_comma_separates_models_unless_a_file_has_it_in_its_name(tmp_path: Path) -> None:
    assert model_paths(Path("a.safetensors")) == (Path("a.safetensors"),)
    assert model_paths(Path("x/a.st, /y/b.st,c.st")) == (Path("x/a.st"), Path("/y/b.st"), Path("c.st"))
    assert model_paths([Path("a,b"), Path("c")]) == (Path("a,b"), Path("c"))
    odd = tmp_path / "a,b.safetensors"
    odd.touch()
    assert model_paths(odd) == (odd,)
    with pytest.raises(SettingsError, match="empty name between commas"):
        model_paths(Path("a.safetensors,,b.safetensors"))


@dataclass
class Small:
    """A predictor whose device has memory for so many images."""

    batch_size: int
    engine: str = "eager"
    depth: int = 1

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"batch size {self.batch_size}",)

    @property
    def runtime(self) -> object:
        known = predictor_of(model(0), model(1)).runtime
        library = "a library 1.2" if self.engine == "onnx" else None
        return replace(known, engine=self.engine, batch_size=self.batch_size, library=library)


def test_all_members_run_at_the_batch_size_that_fits_the_largest() -> None:
    room = {"1" * 64: 8, "2" * 64: 3}
    made: list[int] = []

    def make(one: TrainedModel, size: int) -> Small:
        made.append(size)
        return Small(min(size, room[one.sha256]), engine=("eager", "onnx")[one.sha256 > "2"])

    ensemble = EnsemblePredictor([model(1), model(2)], make, batch_size=5)
    assert made == [5, 5, 3, 3]
    assert ensemble.batch_size == ensemble.runtime.batch_size == 3
    assert ensemble.runtime.engine == "eager,onnx"
    assert ensemble.runtime.library == "a library 1.2"
    assert ensemble.notes == ("batch size 3",)


def test_of_one_model_it_is_the_models_own_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Callable] = []
    monkeypatch.setattr(
        "aerial_seg.inference.ensemble.Predictor",
        lambda one, **facts: made.append(one) or SimpleNamespace(**facts),
    )
    only = model(1)
    result = Ensemble.of([only], PATHS[:1]).predictor(settings=FP32, batch_size=2, side=SIDE, tiles=7)
    assert made == [only]
    assert result == SimpleNamespace(settings=FP32, batch_size=2, side=SIDE, tiles=7)
