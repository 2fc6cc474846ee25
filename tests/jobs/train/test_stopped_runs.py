"""What stops a run leaves what was finished, says so in one line, and the same call goes on where it can."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from aerial_seg.errors import AerialSegError, Incomplete, Interrupted, OutputError
from aerial_seg.files import durable
from aerial_seg.files.state_header import read_state
from aerial_seg.geo.raster.unchanged import ChangedError
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.run_folder import read_run
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.models.device import OutOfMemory
from aerial_seg.models.file import load_model
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe
from aerial_seg.training.callbacks import Callback, Checkpoint, Step
from aerial_seg.training.crops import CropDataset
from aerial_seg.training.loop import TrainingError
from aerial_seg.training.loss import SegmentationLoss
from aerial_seg.training.manifest import open_manifest
from aerial_seg.training.samples.batch import Batch

MakeRecipe = Callable[..., Recipe]
Sums = Callable[[Path], dict[str, str]]
CPU = TrainSettings(device="cpu")


class AtValidation(Callback):
    """Raises when it is told of the validation after an update."""

    def __init__(self, iteration: int, error: Exception) -> None:
        self._iteration, self._error = iteration, error

    def on_validation(self, checkpoint: Checkpoint) -> None:
        if checkpoint.iteration == self._iteration:
            raise self._error


class After(Callback):
    """Does something once, after an update."""

    def __init__(self, iteration: int, deed: Callable[[], object]) -> None:
        self._iteration, self._deed = iteration, deed
        self.begun_at: int | None = None

    def on_start(self, iteration: int, iterations: int) -> None:
        self.begun_at = iteration

    def on_step(self, step: Step) -> None:
        if step.iteration == self._iteration:
            self._deed()


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C is heard, also where the tests run in the background of a script, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def whole(chips: Path, small: MakeRecipe, sums: Sums) -> dict[str, str]:
    """An uninterrupted run."""
    return sums(train(chips, small(), chips.parent / "uninterrupted", CPU).run)


def check_kept(error: BaseException, run: Path, *, last: int, best: bool = True) -> None:
    """One line that says what is kept; models that say that the run is unfinished; a run that is stopped."""
    said = str(error)
    assert "\n" not in said
    assert f"the first {last} iterations are kept in {run}" in said
    for name in ("best", "last") if best else ("last",):
        model = load_model(run / f"{name}.safetensors")
        assert model.notes == (
            f"{name}.safetensors is of an unfinished run: of iteration {model.card.iteration} of 7",
        )
    assert load_model(run / "last.safetensors").card.iteration == last
    assert not list(run.glob("*.partial"))
    standing = read_run(run)
    assert (standing.state, standing.iteration, standing.iterations) == ("stopped", last, 7)


def check_goes_on(chips: Path, recipe: Recipe, run: Path, *, begun_at: int) -> None:
    seen = After(0, lambda: None)
    report = train(chips, recipe, run, CPU, callbacks=[seen])
    assert seen.begun_at == begun_at
    assert load_model(report.model).notes == ()
    assert read_run(run).state == "finished"


@pytest.mark.parametrize(
    "name",
    [
        "SIGINT",
        pytest.param("SIGTERM", marks=pytest.mark.slow),
        pytest.param("SIGUSR1", marks=pytest.mark.slow),
    ],
)
def test_being_asked_to_end_within_a_step_waits_for_its_end(
    name: str, chips: Path, small: MakeRecipe, sums: Sums, tmp_path: Path, whole: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if not hasattr(signal, name):
        pytest.skip(f"there is no {name} on this system")
    steps = 0
    step = torch.optim.AdamW.step

    def asked(self: torch.optim.AdamW, *given: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 4:
            os.kill(os.getpid(), getattr(signal, name))
        return step(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.AdamW, "step", asked)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(Interrupted, match="interrupted; the first 4 iterations are kept") as told:
        train(chips, small(), tmp_path / "run", CPU)
    assert told.value.exit_code == 130
    check_kept(told.value, tmp_path / "run", last=4)
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    check_goes_on(chips, small(), tmp_path / "run", begun_at=4)
    assert sums(tmp_path / "run") == whole


def test_asked_twice_it_ends_at_once_with_what_was_checkpointed(
    chips: Path, small: MakeRecipe, sums: Sums, tmp_path: Path, whole: dict[str, str]
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as told:
        train(chips, small(), tmp_path / "run", CPU, callbacks=[After(5, twice)])
    check_kept(told.value, tmp_path / "run", last=3)
    check_goes_on(chips, small(), tmp_path / "run", begun_at=3)
    assert sums(tmp_path / "run") == whole


def test_interrupted_before_the_first_update_it_leaves_nothing(
    chips: Path, small: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CropDataset, "fill", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        train(chips, small(), tmp_path / "new" / "run", CPU)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "training.safetensors",
        *(
            pytest.param(f"{one}", marks=pytest.mark.slow)
            for one in ("last.safetensors", "best.safetensors", "run.json")
        ),
    ],
)
def test_a_full_disk_leaves_the_checkpoint_before(
    name: str, chips: Path, small: MakeRecipe, sums: Sums, tmp_path: Path, whole: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settle, seen = durable.settle, 0

    def full(draft: Path, final: Path) -> None:
        nonlocal seen
        seen += final.name == "training.safetensors"
        if seen >= 2 and final.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        settle(draft, final)

    monkeypatch.setattr(durable, "settle", full)
    with pytest.raises(Incomplete, match="no space left on the disk") as told:
        train(chips, small(), tmp_path / "run", CPU)
    assert told.value.exit_code == 3
    monkeypatch.setattr(durable, "settle", settle)
    # The state is written first: what it tells is kept, and models of before are made anew from it.
    state = read_state(tmp_path / "run" / "training.safetensors")
    assert state is not None
    last = state["iteration"]
    assert last == 3 if name == "training.safetensors" else last in (6, 7)
    assert f"the first {last} iterations are kept" in str(told.value)
    for one in ("best", "last"):
        # With all updates made the models are renewed one after the other as those of a finished run.
        assert load_model(tmp_path / "run" / f"{one}.safetensors").notes or last == 7
    assert not list((tmp_path / "run").glob("*.partial"))
    check_goes_on(chips, small(), tmp_path / "run", begun_at=last)
    assert sums(tmp_path / "run") == whole


def test_a_log_that_the_disk_does_not_take_is_told(
    chips: Path, small: MakeRecipe, sums: Sums, tmp_path: Path, whole: dict[str, str], disk_of: Callable[..., object]
) -> None:  # fmt: skip
    run = tmp_path / "run"
    with (
        _limited(disk_of, run, 5) as callback,
        pytest.raises(Incomplete, match=r"log\.csv could not be written") as told,
    ):
        train(chips, small(), run, CPU, callbacks=[callback])
    check_kept(told.value, run, last=3)
    check_goes_on(chips, small(), run, begun_at=3)
    assert sums(run) == whole


@contextmanager
def _limited(disk_of: Callable[..., object], run: Path, iteration: int) -> Iterator[Callback]:
    """From this update on no file grows beyond what the log has now."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, ((run / "log.csv").stat().st_size, before[1]))

    with disk_of(before[0]):  # type: ignore[attr-defined]
        yield After(iteration, limit)


def test_a_loss_that_is_no_number_names_the_chips_and_keeps_all(
    chips: Path, small: MakeRecipe, sums: Sums, tmp_path: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    calls, loss = 0, SegmentationLoss.forward

    def broken(self: SegmentationLoss, *given: object, **named: object) -> Tensor:
        nonlocal calls
        calls += 1
        found = loss(self, *given, **named)  # type: ignore[arg-type]
        return found * float("nan") if calls == 6 else found

    monkeypatch.setattr(SegmentationLoss, "forward", broken)
    read: list[str] = []
    fill = CropDataset.fill

    def noted(self: CropDataset, batch: Batch, indices: Sequence[int]) -> bool:
        read.extend(map(self.chip_of, indices))
        return fill(self, batch, indices)

    monkeypatch.setattr(CropDataset, "fill", noted)
    with pytest.raises(TrainingError, match="the loss became nan at iteration 6") as told:
        train(chips, small(), tmp_path / "run", CPU)
    assert told.value.exit_code == 1
    batch = read[10:12]
    assert f"on {batch[0]}, {batch[1]}; lower training.learning_rate" in str(told.value)
    check_kept(told.value, tmp_path / "run", last=3)
    assert len((tmp_path / "run" / "log.csv").read_text().splitlines()) == 1 + 5
    check_goes_on(chips, small(), tmp_path / "run", begun_at=3)
    assert sums(tmp_path / "run") == whole


@pytest.mark.parametrize("deed", ["deleted", pytest.param("changed", marks=pytest.mark.slow)])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_chip_that_goes_in_the_middle_stops_the_run_and_back_it_goes_on(
    deed: str, workers: int, chips: Path, small: MakeRecipe, sums: Sums, tmp_path: Path
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(chips, data)
    recipe = small(workers=workers)
    chip = open_manifest(data).split("train")[0].image
    content = chip.read_bytes()

    def spoil() -> None:
        chip.unlink() if deed == "deleted" else chip.write_bytes(content + b"more")

    with pytest.raises(Incomplete) as told:
        train(data, recipe, run, CPU, callbacks=[After(4, spoil)])
    assert isinstance(told.value.__cause__, ChangedError)
    how = "it is gone" if deed == "deleted" else f"it had {len(content):,} bytes and has {len(content) + 4:,}"
    assert f"{chip} changed while it was read ({how}); put it back as it was" in str(told.value)
    check_kept(told.value, run, last=3)
    with pytest.raises(
        AerialSegError, match=f"first {chip}" if deed == "deleted" else r"data\.bytes was"
    ) as again:
        train(data, recipe, run, CPU)
    assert "\n" not in str(again.value)
    chip.write_bytes(content)
    report = train(data, recipe, run, CPU)
    (note,) = [one for one in report.notes if one.startswith("1 files of the dataset were written again")]
    assert note.endswith(str(chip))
    train(chips, recipe, tmp_path / "whole", CPU)
    assert sums(run) == sums(tmp_path / "whole")


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemory("CUDA out of memory. Tried to allocate"),
        pytest.param(RuntimeError("odd"), marks=pytest.mark.slow),
    ],
)
def test_what_a_step_raises_leaves_the_checkpoint_before(
    error: RuntimeError, chips: Path, small: MakeRecipe, sums: Sums, tmp_path: Path, whole: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    calls, forward = 0, Network.forward_members

    def broken(self: Network, image: Tensor) -> object:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise error
        return forward(self, image)

    monkeypatch.setattr(Network, "forward_members", broken)
    run = tmp_path / "run"
    if isinstance(error, OutOfMemory):
        with pytest.raises(
            Incomplete,
            match=r"2 crops of 32 pixels at once do not fit into the memory of .*, 1 does; use .accumulate=2.",
        ) as told:
            train(chips, small(), run, CPU)
        check_kept(told.value, run, last=3)
    else:
        with pytest.raises(RuntimeError, match="odd") as defect:
            train(chips, small(), run, CPU)
        assert any("the first 3 iterations are kept" in note for note in defect.value.__notes__)
    check_goes_on(chips, small(), run, begun_at=3)
    assert sums(run) == whole


@pytest.mark.slow
def test_a_callback_that_fails_leaves_the_checkpoint_before(
    chips: Path, small: MakeRecipe, tmp_path: Path
) -> None:
    def fail() -> None:
        raise OutputError("no more")

    with pytest.raises(
        Incomplete, match=r"^no more; make the same call again to go on: the first 3 iterations"
    ):
        train(chips, small(), tmp_path / "run", CPU, callbacks=[After(5, fail)])


def test_a_callback_that_fails_at_a_validation_loses_nothing_of_it(
    chips: Path, small: MakeRecipe, sums: Sums, tmp_path: Path, whole: dict[str, str]
) -> None:
    failing = AtValidation(6, OutputError("no more"))
    with pytest.raises(Incomplete, match=r"^no more; .*: the first 6 iterations are kept") as told:
        train(chips, small(), tmp_path / "run", CPU, callbacks=[failing])
    check_kept(told.value, tmp_path / "run", last=6)
    check_goes_on(chips, small(), tmp_path / "run", begun_at=6)
    assert sums(tmp_path / "run") == whole


def test_a_callback_that_fails_at_a_validation_leaves_it_with_its_pictures(
    chips: Path, small: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not told of it again when the run goes on."""
    seen: list[int] = []

    class Drawing(Callback):
        def on_validation(self, checkpoint: Checkpoint) -> None:
            seen.append(checkpoint.iteration)

    monkeypatch.setattr(
        "aerial_seg.jobs.train.job.pictures", lambda *given, events: nullcontext((Drawing(),))
    )
    with pytest.raises(Incomplete):
        train(chips, small(), tmp_path / "run", CPU, callbacks=[AtValidation(6, OutputError("no more"))])
    train(chips, small(), tmp_path / "run", CPU)
    assert seen == [3, 6, 7]


def test_a_lack_of_memory_in_a_callback_is_not_blamed_on_the_crops(
    chips: Path, small: MakeRecipe, tmp_path: Path
) -> None:
    error = OutOfMemory("CUDA out of memory. Tried to allocate")
    with pytest.raises(OutOfMemory, match=r"^CUDA out of memory") as told:
        train(chips, small(), tmp_path / "run", CPU, callbacks=[AtValidation(6, error)])
    assert any("the first 6 iterations are kept" in note for note in told.value.__notes__)
