"""Which bands a model gets: the result is that of the raster one would have had to make by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from aerial_seg.bands import Band
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.raster.band_choice import ALL_BANDS, BandChoice
from aerial_seg.geo.raster.raster import Raster, raster_info
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.inference.match_bands import check_bands, scene_notes
from aerial_seg.jobs.predict import one_scene as map_scene
from aerial_seg.jobs.predict.job import forecast_prediction, predict
from aerial_seg.jobs.predict.settings import PredictReport, PredictSettings
from aerial_seg.mentions import settings_in
from aerial_seg.models.file import TrainedModel

HEIGHT, WIDTH = 70, 90
Write = Callable[..., Path]


def pixels(bands: int, seed: int = 0, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (bands, HEIGHT, WIDTH)).astype(dtype)


def named(path: Path, names: Sequence[str]) -> Path:
    with rasterio.open(path, "r+") as file:
        file.descriptions = tuple(names)
    return path


@pytest.fixture
def model(
    pointwise: Callable[..., TrainedModel], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TrainedModel]:
    """Puts a model of two bands in place, called and measured as told."""

    def place(
        names: tuple[str, str] = ("band 1", "band 2"), *, gsd: float | None = None, **band: Any
    ) -> TrainedModel:
        plain = pointwise(stride=4, origin_step=4, gsd=gsd)
        bands = tuple(
            old.model_copy(update={"name": name, **band})
            for old, name in zip(plain.card.bands, names, strict=True)
        )
        trained = replace(plain, card=plain.card.model_copy(update={"bands": bands}))
        monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: trained)
        return trained

    return place


def run(path: Path, choice: BandChoice = ALL_BANDS, **options: Any) -> tuple[np.ndarray, PredictReport]:
    out = path.with_name(f"mask of {path.stem}.tif")
    settings = PredictSettings(bands=choice, overwrite=True, **options)
    (report,) = predict(Path("m"), [str(path)], out, settings)
    with rasterio.open(out) as mask:
        return mask.read(1), report


@pytest.mark.parametrize("resampled", [False, True])
@pytest.mark.parametrize("numbers", [(3, 1), (2, 2), (4, 2)])
def test_the_mask_is_that_of_a_raster_of_the_chosen_bands(
    write_raster: Write, model: Callable, tmp_path: Path, numbers: tuple[int, int], resampled: bool
) -> None:
    model(gsd=2.0 if resampled else None)
    image, valid = pixels(4), np.ones((HEIGHT, WIDTH), bool)
    valid[10:20, 30:60] = False
    whole = write_raster(tmp_path / "whole.tif", image, valid=valid, photometric="MINISBLACK", alpha="NO")
    by_hand = write_raster(tmp_path / "two.tif", image[np.array(numbers) - 1], valid=valid)
    got, report = run(whole, BandChoice(numbers))
    assert (report.resampled_to == 2.0) == resampled
    np.testing.assert_array_equal(got, run(by_hand)[0])


def test_named_bands_reach_the_model_in_its_order(
    write_raster: Write, model: Callable, tmp_path: Path
) -> None:
    model(("nir", "red"))
    image = pixels(3)
    whole = write_raster(tmp_path / "whole.tif", image)
    by_hand = named(write_raster(tmp_path / "two.tif", image[[2, 0]]), ["NIR", "red"])
    roles = BandChoice((1, 2, 3), ("red", "green", "nir"))
    np.testing.assert_array_equal(run(whole, roles)[0], run(by_hand)[0])
    with pytest.raises(
        SettingsError,
        match=r"`bands=BandChoice\(names=...\)` names red, green.*trained on nir, red.*which band is nir",
    ):
        run(whole, BandChoice((1, 2), ("red", "green")))


def test_a_stack_is_predicted_as_the_raster_of_all_its_bands(
    write_raster: Write, model: Callable, tmp_path: Path
) -> None:
    model()
    image, valid = pixels(2), np.ones((HEIGHT, WIDTH), bool)
    valid[:, :9] = False
    image[1, 30:40] = 0
    path = write_raster(tmp_path / "grey.tif", image[:1], valid=valid)
    height = write_raster(tmp_path / "height.tif", image[1:], nodata=0)
    by_hand = write_raster(tmp_path / "both.tif", image, valid=valid & (image[1] > 0))
    got, _ = run(path, BandChoice(stack=(str(height),)))
    np.testing.assert_array_equal(got, run(by_hand)[0])
    assert (got[:, :9] == 255).all()
    assert (got[30:40] == 255).all()


def test_several_rasters_and_a_stack_are_refused(
    write_raster: Write, model: Callable, tmp_path: Path
) -> None:
    model()
    paths = [str(write_raster(tmp_path / f"{k}.tif", pixels(1))) for k in range(3)]
    with pytest.raises(SettingsError, match="goes with one raster, but 2 were given"):
        predict(
            Path("m"),
            paths[:2],
            tmp_path / "out.tif",
            PredictSettings(mosaic=True, bands=BandChoice(stack=(paths[2],))),
        )
    assert not (tmp_path / "out.tif").exists()


def test_a_mosaic_takes_the_chosen_bands_too(write_raster: Write, model: Callable, tmp_path: Path) -> None:
    model()
    image = pixels(3)
    one = write_raster(tmp_path / "one.tif", image)
    halves = [
        write_raster(tmp_path / "west.tif", image[:, :, :40]),
        write_raster(tmp_path / "east.tif", image[:, :, 40:], corner=(500_040.0, 5_200_000.0)),
    ]
    choice = BandChoice((3, 1))
    out = tmp_path / "mosaic.tif"
    predict(Path("m"), [str(half) for half in halves], out, PredictSettings(mosaic=True, bands=choice))
    with rasterio.open(out) as mask:
        np.testing.assert_array_equal(mask.read(1), run(one, choice)[0])


def test_another_choice_is_another_result(
    write_raster: Write, model: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun with other bands, or another file stacked, is not gone on with, and the mask tells its bands."""
    model()
    path = write_raster(tmp_path / "in.tif", pixels(3))
    jobs: list[dict[str, Any]] = []
    job = map_scene._job
    monkeypatch.setattr(map_scene, "_job", lambda *given: jobs.append(job(*given)) or jobs[-1])
    heights = [write_raster(tmp_path / f"h{k}.tif", pixels(1, k)) for k in range(2)]
    for choice in (
        BandChoice((1, 2)),
        BandChoice((2, 1)),
        *(BandChoice((1, 4), stack=(str(height),)) for height in heights),
    ):
        run(path, choice)
    told = [json.dumps(one, sort_keys=True, default=str) for one in jobs]
    assert len(set(told)) == 4
    assert all(str(height) in one["input"] for height, one in zip(heights, jobs[2:], strict=True))
    with rasterio.open(tmp_path / "mask of in.tif") as mask:
        assert json.loads(mask.tags()["AERIAL_SEG_PARAMETERS"])["bands"] == {
            "numbers": [1, 4],
            "stack": ["h1.tif"],
        }


def info(names: Sequence[str], *, dtype: str = "uint8", alpha: int | None = None) -> RasterInfo:
    numbers = [k for k in range(1, len(names) + 2) if k != alpha][: len(names)]
    return RasterInfo(
        path="in.tif",
        grid=None,
        bands=tuple(numbers),
        names=tuple(names),
        dtype=dtype,
        nodata=None,
        alpha=alpha,
    )  # type: ignore[arg-type]


def bands(*names: str) -> tuple[Band, ...]:
    return tuple(Band(name=name, dtype="uint8", mean=1, std=1, p2=0, p98=9) for name in names)


@pytest.mark.parametrize(
    ("raster", "trained"),
    [
        (["red", "green", "blue"], ["red", "green", "blue"]),
        (["Red", "G", "blue "], ["red", "green", "blue"]),
        (["gray", "undefined"], ["red", "nir"]),
        (["red", "near infrared"], ["band 1", "NIR"]),
        (["band 2", "Band_1"], ["band 1", "band 2"]),
    ],
)
def test_names_that_agree_or_say_nothing_fit(raster: list[str], trained: list[str]) -> None:
    check_bands(info(raster), bands(*trained))


@pytest.mark.parametrize(
    ("raster", "alpha", "trained", "remedy"),
    [
        (["blue", "green", "red"], None, ["red", "green", "blue"], "`bands=BandChoice(numbers=(3, 2, 1))`"),
        (
            ["red", "green", "blue", "nir"],
            None,
            ["nir", "red", "green"],
            "`bands=BandChoice(numbers=(4, 1, 2))`",
        ),
        (
            ["red", "green", "blue", "nir"],
            1,
            ["nir", "red", "green"],
            "`bands=BandChoice(numbers=(5, 2, 3))`",
        ),
        (
            ["red", "green", "blue"],
            4,
            ["red", "green", "blue", "nir"],
            "`bands=BandChoice(numbers=(1, 2, 3, 4))`",
        ),
        (
            ["cyan", "magenta", "yellow"],
            None,
            ["red", "green", "blue"],
            '`bands=BandChoice(numbers=(1, 2, 3), names=("red", "green", "blue"))`',
        ),
        (["band 1", "band 2"], None, ["red", "green", "height"], '`bands=BandChoice(stack=("FILE",))`'),
        (["band 1", "band 2", "band 3"], None, ["red", "green"], "`bands=BandChoice(numbers=(1, 2, ...))`"),
    ],
)
def test_bands_that_differ_are_refused_with_both_sides_and_what_would_mend_it(
    raster: list[str], alpha: int | None, trained: list[str], remedy: str
) -> None:
    with pytest.raises(InputError) as refusal:
        check_bands(info(raster, alpha=alpha), bands(*trained))
    line = str(refusal.value)
    assert "\n" not in line
    assert remedy in line
    assert all(name in line for name in (*raster, *trained))


def test_bands_chosen_by_number_are_the_users_word_but_not_their_count() -> None:
    check_bands(info(["blue", "green"]), bands("red", "green"), BandChoice((1, 2)))
    with pytest.raises(InputError, match="has 2 bands"):
        check_bands(info(["blue", "green"]), bands("red", "green", "blue"), BandChoice((1, 2)))


def test_a_wrong_count_of_chosen_bands_asks_for_the_right_one() -> None:
    chosen = replace(info(["blue", "green"]), alpha=3)
    with pytest.raises(
        InputError,
        match=r"has 2 bands .* trained on 3 .*; choose 3 bands \(`bands=BandChoice.numbers=...\)`, `",
    ):
        check_bands(chosen, bands("red", "green", "blue"), BandChoice((3, 2)))


def test_of_a_stack_every_file_may_have_the_wrong_dtype() -> None:
    with pytest.raises(InputError, match=r"in\.tif with h\.tif holds uint16, .*; convert what is not uint8"):
        check_bands(info(["red", "h"], dtype="uint16"), bands("red", "h"), BandChoice(stack=("h.tif",)))


def test_the_remedy_that_is_told_works(write_raster: Write, model: Callable, tmp_path: Path) -> None:
    model(("nir", "red"))
    path = named(
        write_raster(tmp_path / "in.tif", pixels(4), photometric="MINISBLACK"), ["blue", "red", "x", "nir"]
    )
    with pytest.raises(InputError, match=r"pass `bands=BandChoice\(numbers=\(4, 2\)\)` ") as refusal:
        run(path)
    (told,) = settings_in(str(refusal.value))
    run(path, BandChoice(**told.value.keywords))


@pytest.mark.parametrize(
    ("trained", "values", "says"),
    [
        ((0, 255), (1, 255), False),
        ((20, 180), (1, 255), False),
        ((200, 3000), (100, 4000), False),
        ((200, 3000), (1, 255), True),  # 8-bit values in a 16-bit file
        ((0, 255), (0, 10_000), True),
        ((200, 3000), (9000, 9500), True),
        ((5, 5), (5, 6), False),
    ],
)
def test_a_range_far_outside_of_the_trainings_is_told(
    write_raster: Write,
    model: Callable,
    tmp_path: Path,
    trained: tuple[int, int],
    values: tuple[int, int],
    says: bool,
) -> None:
    low, high = trained
    model(dtype="uint16", p2=low, p98=high, std=max(1, high - low) / 4, mean=(low + high) / 2)
    image = np.random.default_rng(0).integers(*values, (2, HEIGHT, WIDTH)).astype("uint16")
    path = write_raster(tmp_path / "in.tif", image)
    _, report = run(path)
    found = [note for note in report.notes if "far outside" in note]
    assert len(found) == says
    if says:
        assert str(path) in found[0]
        assert f"trained on {low}..{high}" in found[0]
    (forecast,) = forecast_prediction(Path("m"), [str(path)], tmp_path / "other.tif", PredictSettings())
    assert any("far outside" in note for note in forecast.notes) == says


def test_one_band_far_beyond_is_enough(write_raster: Write, model: Callable, tmp_path: Path) -> None:
    model(("red", "height"), dtype="int16", p2=0, p98=255)
    image = pixels(2, dtype="int16")
    image[1] += 3000
    _, report = run(write_raster(tmp_path / "in.tif", image))
    (note,) = [note for note in report.notes if "far outside" in note]
    assert "height 3" in note
    assert "red" not in note


def test_a_collar_that_nothing_declares_is_told_with_its_remedy(
    write_raster: Write, model: Callable, tmp_path: Path
) -> None:
    model()
    image = pixels(2)
    image[:, :, :15] = 0
    path = write_raster(tmp_path / "in.tif", image)
    mask, report = run(path)
    (note,) = [note for note in report.notes if "`nodata=" in note]
    assert "17%" in note
    assert "`nodata=0`" in note
    assert not (mask == 255).any()
    mask, report = run(path, nodata=0)
    assert not any("nodata=" in note for note in report.notes)
    np.testing.assert_array_equal(mask == 255, (image == 0).all(axis=0))


def test_nodata_in_some_bands_only_is_told_with_its_remedy(
    write_raster: Write, model: Callable, tmp_path: Path
) -> None:
    model()
    image = pixels(2)
    image[0, :3] = 0
    image[:, 3:5] = 0
    path = write_raster(tmp_path / "in.tif", image, nodata=0)
    mask, report = run(path)
    (note,) = [note for note in report.notes if "some bands" in note]
    assert f"{3 * WIDTH:,} of the {(HEIGHT - 2) * WIDTH:,} pixels of {path}" in note
    assert "have the nodata value 0 in some bands, not in all" in note
    assert "write it into all bands there" in note
    np.testing.assert_array_equal(mask == 255, (image == 0).all(axis=0))
    mended = write_raster(tmp_path / "mended.tif", np.where((image == 0).any(axis=0), 0, image), nodata=0)
    mask, report = run(mended)
    assert not any("some bands" in note for note in report.notes)
    np.testing.assert_array_equal(mask == 255, (image == 0).any(axis=0))


def test_the_numbers_of_a_palette_are_told_with_their_remedy(
    write_raster: Write, model: Callable, tmp_path: Path
) -> None:
    path = write_raster(tmp_path / "in.tif", pixels(1), photometric="PALETTE")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {value: (value, 255 - value, 7, 255) for value in range(256)})
    model(("band 1", "height"))
    heights = str(write_raster(tmp_path / "height.tif", pixels(1)))
    for choice in (BandChoice(stack=(heights,)), BandChoice((1, 2), stack=(heights,))):
        (note,) = [
            note for note in run(path, choice)[1].notes if "the numbers of a palette's colours" in note
        ]
        assert "-expand rgb" in note
    with pytest.raises(InputError, match=r"has 1 bands \(palette uint8\).*-expand rgb"):
        check_bands(raster_info(path), bands("red", "green", "blue"))
    plain = write_raster(tmp_path / "plain.tif", pixels(2))
    assert not any("palette's" in note for note in run(plain)[1].notes)


def test_pixels_that_cannot_be_read_are_told_by_who_needs_them(
    write_raster: Write, model: Callable, tmp_path: Path
) -> None:
    trained = model()
    path = write_raster(
        tmp_path / "in.tif", pixels(2), compress="deflate", tiled=True, blockxsize=16, blockysize=16
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\0" * (len(content) - len(content) // 2)
    path.write_bytes(content)
    with Raster(path) as raster:
        assert scene_notes(raster, trained.card.bands) == ()
    with pytest.raises(InputError, match=r"in\.tif could not be read at row"):
        run(path)


def test_the_facts_of_chosen_bands_are_numbered_as_they_were_asked_for(
    write_raster: Write, tmp_path: Path
) -> None:
    path = write_raster(tmp_path / "in.tif", pixels(4), photometric="MINISBLACK")
    assert raster_info(path, BandChoice((4, 1))).bands == (4, 1)
