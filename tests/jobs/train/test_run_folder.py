"""What becomes of a run that is there: gone on with, extended, replaced, forgotten or refused; what is told of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from ended_early import CPU, Asking, contents, fails
from laws import few
from shapely import box

from aerial_seg.errors import InputError, Interrupted, OutputError, SettingsError
from aerial_seg.files.lock import held
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.train import dry_run, time_limit
from aerial_seg.jobs.train.dry_run import forecast_training
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.run_folder import LOCK, read_run
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.models.file import load_model
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import change_recipe
from aerial_seg.training.log import read_log
from aerial_seg.training.manifest import open_manifest
from aerial_seg.training.validation.monitor import Monitor

MakeRecipe = Callable[..., Recipe]
Sums = Callable[[Path], dict[str, str]]


def test_a_finished_run_is_refused_with_both_remedies_and_either_works(
    chips: Path, small: MakeRecipe, finished: Path, sums: Sums
) -> None:
    before, told_of = contents(finished), sums(finished)
    with pytest.raises(
        OutputError, match=r"is a finished run of 7 iterations; pass `extend=\.\.\.`.*`overwrite=True`"
    ):
        train(chips, small(), finished, CPU)
    assert contents(finished) == before
    train(chips, small(), finished, TrainSettings(device="cpu", overwrite=True))
    assert sums(finished) == told_of
    assert read_run(finished).token != json.loads(before["run.json"])["run"]


def test_an_extended_run_goes_on_at_the_rate_of_a_run_of_the_whole_length(
    chips: Path, small: MakeRecipe, finished: Path, sums: Sums, tmp_path: Path
) -> None:
    begun = read_log(finished / "log.csv")
    copy = Path(shutil.copytree(finished, tmp_path / "stopped"))
    more, asking = TrainSettings(device="cpu", extend=4), Asking()
    report = train(chips, small(), finished, more, callbacks=[asking])
    assert asking.begun == [(7, 11)]
    assert (report.iterations, read_run(finished).iterations, read_run(finished).state) == (
        11,
        11,
        "finished",
    )
    rows = read_log(finished / "log.csv")
    assert rows.losses[:7] == begun.losses
    assert [row.iteration for row in rows.validations] == [3, 6, 7, 9, 11]
    wanted = [2e-3 * (1 - i / 11) ** 0.9 for i in range(7, 11)]
    assert [rate for _, _, rate in rows.losses[7:]] == pytest.approx(wanted, rel=1e-5)
    last = load_model(finished / "last.safetensors")
    assert (last.card.iteration, last.card.recipe.training.iterations, last.notes) == (11, 11, ())

    # Stopped while it is extended, the same call goes on; a call without it finishes it, too.
    with pytest.raises(Interrupted):
        train(chips, small(), copy, more, callbacks=[Asking(8)])
    assert "of iteration 8 of 11" in load_model(copy / "last.safetensors").notes[0]
    assert "unfinished" in load_model(copy / "best.safetensors").notes[0]
    with pytest.raises(OutputError, match=r"unfinished run \(iteration 8 of 11\); leave `extend` out"):
        train(chips, small(), copy, TrainSettings(device="cpu", extend=5))
    train(chips, small(), copy, more)
    assert sums(copy) == sums(finished)


@pytest.mark.parametrize("stopped", few([True, False], quick=1))
def test_a_run_whose_patience_was_over_is_extended_from_where_it_ended(
    stopped: bool, chips: Path, small: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No checkpoint is better than the first one: of patience 1 the second validation ends the run.
    monkeypatch.setattr(Monitor, "value", lambda *_: 0.5)
    monkeypatch.setattr(dry_run, "_SECONDS", 0.1)
    recipe = change_recipe(small(iterations=40, validate_every=2), {"training.patience": 1})
    run, more = tmp_path / "run", TrainSettings(device="cpu", extend=5)
    assert train(chips, recipe, run, CPU).iterations == 4
    if stopped:
        fails("killed", 5, chips, recipe, run, more)
    asking = Asking()
    # A new patience: one validation that is no better, after iteration 6, and there it ends again.
    assert train(chips, recipe, run, more, callbacks=[asking]).iterations == 6
    assert asking.begun == [(4, 9)]
    with pytest.raises(OutputError, match="is a finished run of 6 iterations"):
        train(chips, recipe, run, CPU)
    assert forecast_training(chips, recipe, run, more).iterations == 11
    assert train(chips, recipe, run, more).iterations == 8
    assert (read_run(run).iteration, read_run(run).iterations) == (8, 11)
    assert [row[0] for row in read_log(run / "log.csv").losses] == list(range(1, 9))


def test_what_cannot_be_extended_is_refused(
    chips: Path, small: MakeRecipe, finished: Path, tmp_path: Path
) -> None:
    more = TrainSettings(device="cpu", extend=4)
    with pytest.raises(OutputError, match="is no run, so there is nothing to train on"):
        train(chips, small(), tmp_path / "none", more)
    (finished / "training.safetensors").unlink()
    with pytest.raises(OutputError, match=r"holds no training\.safetensors.*older versions wrote none"):
        train(chips, small(), finished, more)
    with pytest.raises(
        SettingsError, match=r"`extend` goes on with a run, `overwrite` and `restart` begin one anew"
    ):
        TrainSettings(extend=1, overwrite=True)
    with pytest.raises(SettingsError, match=r"`time_limit` settles .* `extend` says how many more"):
        TrainSettings(extend=1, time_limit="1min")  # type: ignore[arg-type]


def test_a_run_of_a_version_with_fewer_keys_goes_on(
    chips: Path, small: MakeRecipe, unfinished: Path, made: Path, sums: Sums
) -> None:
    """It did what the defaults of the keys say that it did not know; one that did otherwise is of another job."""
    document = json.loads((unfinished / "run.json").read_text())
    del document["recipe"]["batch_norm"], document["recipe"]["training"]["freeze"]
    (unfinished / "run.json").write_text(json.dumps(document))
    with pytest.raises(
        OutputError, match=r"another job \(recipe\.batch_norm\.affine was trained, is frozen\)"
    ):
        train(chips, change_recipe(small(), {"batch_norm.affine": "frozen"}), unfinished, CPU)
    asking = Asking()
    train(chips, small(), unfinished, CPU, callbacks=[asking])
    assert asking.begun == [(4, 7)]
    assert sums(unfinished) == sums(made)


def test_class_weights_that_somebody_wrote_are_not_taken_for_counted_ones(
    chips: Path, small: MakeRecipe, unfinished: Path
) -> None:
    """A run whose weights were written is no run by median frequency; one that counted them is (test_resume)."""
    document = json.loads((unfinished / "run.json").read_text())
    assert document["counted_class_weights"] is False
    document["recipe"]["training"]["class_weights"] = {"building": 2.0}
    (unfinished / "run.json").write_text(json.dumps(document))
    with pytest.raises(OutputError, match=r"another job \(recipe\.training\.class_weights"):
        train(chips, change_recipe(small(), {"training.class_weights": "median"}), unfinished, CPU)


@pytest.mark.parametrize("how", ["plain", "overwrite", "killed"])
def test_an_unfinished_run_goes_on_also_with_overwrite(
    how: str, chips: Path, small: MakeRecipe, unfinished: Path, made: Path, sums: Sums
) -> None:
    if how == "killed":
        document = json.loads((unfinished / "run.json").read_text())
        (unfinished / "run.json").write_text(json.dumps(document | {"state": "running"}))
        (unfinished / LOCK).touch()
        for name in ("training.safetensors.partial", ".tmpNjc0H6"):  # ours, and safetensors' own
            (unfinished / name).write_bytes(b"half")
        with (unfinished / "log.csv").open("a") as log:
            log.write("5,0.1,0.001\r\n6,0.")
    assert read_run(unfinished).state == "stopped"
    asking = Asking()
    train(
        chips,
        small(),
        unfinished,
        TrainSettings(device="cpu", overwrite=how == "overwrite"),
        callbacks=[asking],
    )
    assert asking.begun == [(4, 7)]
    assert sums(unfinished) == sums(made)
    assert {path.name for path in unfinished.iterdir()} == {path.name for path in made.iterdir()}


def test_an_unfinished_run_of_another_job_is_refused_saying_what_changed_and_can_be_forgotten(
    chips: Path, small: MakeRecipe, unfinished: Path, tmp_path: Path
) -> None:
    before = contents(unfinished)
    for over in (False, True):
        with pytest.raises(
            OutputError,
            match=r"unfinished run of another job \(recipe\.training\.learning_rate was 0\.002, is 0\.001\); "
            r"repeat the former call to finish it, or pass `restart=True` to begin anew",
        ):
            train(chips, small(learning_rate="1e-3"), unfinished, TrainSettings(device="cpu", overwrite=over))
    other = tmp_path / "other"
    shutil.copytree(chips, other)
    one = next((other / "images").iterdir())
    one.write_bytes(one.read_bytes() + b"\0")
    with pytest.raises(OutputError, match=r"another job \(data\.bytes was [0-9]+, is [0-9]+\); repeat"):
        train(other, small(), unfinished, CPU)
    assert contents(unfinished) == before
    asking = Asking()
    again = TrainSettings(device="cpu", restart=True)
    train(chips, small(learning_rate="1e-3", iterations=2), unfinished, again, callbacks=[asking])
    assert asking.begun == [(0, 2)]
    assert [row[0] for row in read_log(unfinished / "log.csv").losses] == [1, 2]


def test_an_unfinished_run_whose_dataset_was_added_to_is_refused(
    chips: Path, small: MakeRecipe, unfinished: Path, tmp_path: Path
) -> None:
    """It must not go on with other chips than it began with."""
    before, grown = contents(unfinished), Path(shutil.copytree(chips, tmp_path / "grown"))
    place = Affine(0.5, 0, 500_100, 0, -0.5, 5_000_000)
    pixels = np.random.default_rng(3).integers(20, 200, (3, 64, 64)).astype(np.uint8)
    with rasterio.open(tmp_path / "more.tif", "w", driver="GTiff", height=64, width=64, count=3, dtype="uint8",
                       crs="EPSG:32633", transform=place) as file:  # fmt: skip
        file.write(pixels)
    roofs = [box(500_100 + 12 * k, 4_999_980, 500_106 + 12 * k, 4_999_990) for k in range(2)]
    table = geopandas.GeoDataFrame({"kind": ["building"] * 2}, geometry=roofs, crs="EPSG:32633")
    table.to_file(tmp_path / "more.gpkg")
    labels = LabelSettings(class_field="kind")
    settings = TileSettings(labels=labels, chip_size=32, block=1, val="0", test="0", append=True)
    tile(tmp_path / "more.tif", tmp_path / "more.gpkg", grown, settings)
    with pytest.raises(
        OutputError, match=r"another job \(.*data_fingerprint was .*\); repeat the former call to"
    ):
        train(grown, small(), unfinished, CPU)
    assert contents(unfinished) == before


def test_a_run_that_another_process_writes_is_refused_and_told_as_running(
    chips: Path, small: MakeRecipe, unfinished: Path
) -> None:
    document = json.loads((unfinished / "run.json").read_text())
    (unfinished / "run.json").write_text(json.dumps(document | {"state": "running"}))
    before = contents(unfinished)
    with held(unfinished / LOCK, unfinished):
        assert read_run(unfinished).state == "running"
        with pytest.raises(OutputError, match="is being written by another run; wait for it"):
            train(chips, small(), unfinished, CPU)
        (unfinished / LOCK).unlink()
    assert contents(unfinished) == before
    assert read_run(unfinished).state == "stopped"


def test_a_best_model_that_was_taken_away_is_noted(chips: Path, small: MakeRecipe, unfinished: Path) -> None:
    (unfinished / "best.safetensors").rename(unfinished.parent / "mine.safetensors")
    (unfinished / "last.safetensors").unlink()
    report = train(chips, small(), unfinished, CPU)
    assert [note for note in report.notes if "is not that of iteration 3 any more" in note] == list(
        report.notes
    )
    assert load_model(report.model).card.iteration in (6, 7)


def test_folders_of_others_are_not_written_to(
    chips: Path, small: MakeRecipe, finished: Path, tmp_path: Path
) -> None:
    (finished / "notes.txt").write_text("mine")
    before = contents(finished)
    with pytest.raises(OutputError, match=r"not made with it \(notes\.txt\)"):
        train(chips, small(), finished, TrainSettings(overwrite=True))
    assert contents(finished) == before
    for text, message in (("{}", "is not of a training run"), ("{", "it is not JSON")):
        (tmp_path / "else").mkdir(exist_ok=True)
        (tmp_path / "else" / "run.json").write_text(text)
        with pytest.raises(
            OutputError, match=rf"run\.json cannot be read \(.*{message}.*name another folder"
        ):
            train(chips, small(), tmp_path / "else", TrainSettings(overwrite=True))
        with pytest.raises(InputError, match=message):
            read_run(tmp_path / "else")
    with pytest.raises(InputError, match=r"holds no run\.json, so it is no run"):
        read_run(tmp_path)


def test_a_time_limit_settles_the_iterations_once_and_changes_nothing_else(
    chips: Path, small: MakeRecipe, tmp_path: Path, made: Path, sums: Sums, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[float] = []
    measure = time_limit._seconds_per_step

    def as_if(*given: object) -> float:
        timed.append(measure(*given))  # type: ignore[arg-type]
        return 1000.0

    monkeypatch.setattr(time_limit, "_seconds_per_step", as_if)
    monkeypatch.setattr(time_limit, "_LONGEST", 0.2)
    # 95 % of the time hold 7 steps of 1000 s, the time that went by until now and a bit.
    limit = TrainSettings(device="cpu", time_limit="2.2h")
    with pytest.raises(Interrupted):
        train(chips, small(iterations=900), tmp_path / "run", limit, callbacks=[Asking(4)])
    (step,) = timed
    assert 0 < step < 60
    assert read_run(tmp_path / "run").iterations == 7
    train(chips, small(iterations=900), tmp_path / "run", limit)
    assert len(timed) == 1
    assert sums(tmp_path / "run")["log.csv"] == sums(made)["log.csv"]
    assert load_model(tmp_path / "run" / "last.safetensors").card.recipe == small()
    with pytest.raises(SettingsError, match=r"`time_limit` is 60 s.* one iteration takes 1e\+03 s"):
        train(chips, small(), tmp_path / "short", TrainSettings(device="cpu", time_limit="1min"))
    assert not (tmp_path / "short").exists()


@pytest.mark.parametrize("text", ["2 hours", "h", "-1h", "1.5", "10 minutes"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="is no time; wanted a number with a unit, as 10min, 90s or 2h"):
        TrainSettings(checkpoint_every=text)  # type: ignore[arg-type]


def test_run_json_tells_the_environment_and_what_is_other_when_it_goes_on(
    chips: Path, small: MakeRecipe, unfinished: Path
) -> None:
    document = json.loads((unfinished / "run.json").read_text())
    facts = document["environment"]
    assert {"torch", "python", "device", "hardware", "precision", "threads"} <= facts.keys()
    manifest = open_manifest(chips)
    assert document["data"]["files"] == 2 * (len(manifest.split("train")) + len(manifest.split("val")))
    facts["threads"] = 77
    (unfinished / "run.json").write_text(json.dumps(document))
    report = train(chips, small(), unfinished, CPU)
    assert report.notes == ("the run goes on in another environment: threads was 77, is 1",)


def test_an_older_runs_document_knows_fewer_keys_and_is_gone_on_with(
    chips: Path, small: MakeRecipe, unfinished: Path, made: Path
) -> None:
    document = json.loads((unfinished / "run.json").read_text())
    del document["recipe_of_all_stages"], document["recipe"]["model"]["trained_stride"]
    del document["recipe"]["sampling"], document["recipe"]["training"]["dice_weight"]
    (unfinished / "run.json").write_text(json.dumps(document))
    asking = Asking()
    train(chips, small(), unfinished, CPU, callbacks=[asking])
    assert asking.begun == [(4, 7)]
    # What it did without saying so is not what today's default says.
    document["recipe"]["augmentation"].pop("stay_inside")
    (unfinished / "run.json").write_text(json.dumps(document | {"state": "stopped"}))
    with pytest.raises(OutputError, match=r"recipe\.augmentation\.stay_inside was False, is True"):
        train(chips, small(), unfinished, CPU)
