"""`predict --halo auto`: the halo is what a logit sees, where a quarter of the tile holds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from aerial_seg.cli.predict import command
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.segmenter import Segmenter
from aerial_seg.inference.settings import SegmentSettings
from aerial_seg.inference.tile_choice import Halo, choose_tile
from aerial_seg.models.file import TrainedModel

Models = Callable[..., TrainedModel]


def chosen(
    *models: TrainedModel, halo: Halo = "auto", tile_size: int | None = None, overlap: int | None = None
) -> tuple[int, tuple[str, ...]]:
    shape, notes = choose_tile(Ensemble(models), tile_size=tile_size, halo=halo, overlap=overlap)
    return shape.halo, notes


def test_a_halo_that_covers_what_a_logit_sees_is_taken(pointwise: Models, neighbourly: Models) -> None:
    assert chosen(pointwise(origin_step=8)) == (
        0,
        ("halo auto: 0 px cover all that a logit sees, so that tiles change none",),
    )
    # Two pixels around, and halos are multiples of the origin step.
    for step in (1, 2, 4, 8):
        halo, (note,) = chosen(neighbourly(origin_step=step))
        assert halo == -(-2 // step) * step
        assert f"{halo} px cover" in note
    # Of several models the one that sees farthest.
    assert chosen(pointwise(origin_step=8), neighbourly(origin_step=8))[0] == 8


def test_tiles_with_that_halo_change_no_pixel(
    neighbourly: Models, whole_logits: Callable[..., tuple[np.ndarray, np.ndarray]]
) -> None:
    model = neighbourly(origin_step=4)
    image = np.random.default_rng(0).integers(8, 256, (2, 70, 90), dtype=np.uint8)
    engine = EngineSettings("eager", "fp32", "cpu")
    one = Segmenter(Ensemble((model,)), SegmentSettings(halo="auto"), engine, batch_size=None)
    made = one(image)
    assert any("4 px cover all that a logit sees" in note for note in made.notes)
    logits, _ = whole_logits(image, model, ring=4)
    ranked = np.sort(logits, axis=0)
    clear = ranked[-1] - ranked[-2] > 1e-4
    wanted = model.card.legend.value_table()[logits.argmax(axis=0)]
    np.testing.assert_array_equal(made.classes[clear], wanted[clear])
    assert clear.mean() > 0.99


def test_one_that_is_too_dear_is_not_taken_and_the_remedy_affords_it(neighbourly: Models) -> None:
    model = neighbourly(origin_step=16)
    plain, _ = chosen(model, halo=None, tile_size=48, overlap=0)
    halo, (note,) = chosen(model, tile_size=48, overlap=0)
    assert halo == plain
    assert "the 16 px that cover what a logit sees are more than a quarter of the tile's 48 px" in note
    assert "a tile of 64 px can have them" in note
    assert chosen(model, tile_size=64)[0] == 16


@pytest.mark.parametrize("architecture", ["deeplabv3", "pspnet"])
def test_where_the_whole_image_counts_the_note_says_why(
    untrained: Callable[[str], TrainedModel], architecture: str
) -> None:
    model = untrained(architecture)
    halo, (note,) = chosen(model)
    assert halo == chosen(model, halo=None)[0]
    assert note.startswith(f"halo auto: {halo} px, as without it, because no halo covers what a logit sees: ")


def test_the_command_takes_auto_and_tells_what_it_came_to(
    neighbourly: Models,
    write_raster: Callable[..., Path],
    use: Callable[[TrainedModel], None],
    tmp_path: Path,
) -> None:
    use(neighbourly(origin_step=4))
    image = np.random.default_rng(1).integers(8, 256, (2, 50, 40), dtype=np.uint8)
    raster = write_raster(tmp_path / "image.tif", image)
    common = ["model.safetensors", str(raster), "--precision", "fp32", "--engine", "eager"]
    done = CliRunner().invoke(command, [*common, "-o", str(tmp_path / "auto.tif"), "--halo", "auto"])
    assert done.exit_code == 0, done.output
    assert "halo auto: 4 px cover all that a logit sees" in " ".join(done.output.split())
    CliRunner().invoke(command, [*common, "-o", str(tmp_path / "four.tif"), "--halo", "4"])
    # Recorded is the halo itself: the same result has the same bytes.
    assert (tmp_path / "auto.tif").read_bytes() == (tmp_path / "four.tif").read_bytes()
    with rasterio.open(tmp_path / "auto.tif") as file:
        assert '"halo": 4' in file.tags()["AERIAL_SEG_PARAMETERS"]
    wrong = CliRunner().invoke(command, [*common, "-o", str(tmp_path / "no.tif"), "--halo", "near"])
    assert wrong.exit_code == 2
    assert "'near' is neither a whole number nor auto" in wrong.output
