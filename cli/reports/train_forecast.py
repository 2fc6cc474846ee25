"""What a training run would take, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import console
from .recipe_text import toml_lines

if TYPE_CHECKING:
    from aerial_seg.jobs.train.dry_run import TrainForecast

_LABEL = 10
_MOST_NAMES = 12


def show(forecast: TrainForecast, *, as_json: bool) -> None:
    """The forecast is on stdout: a document, or the recipe as TOML and a few lines below it."""
    if as_json:
        console.print_json(forecast.as_json())
        return
    console.notes(forecast.notes)
    for one in forecast.later:
        console.notes(f"{one.stage}: {note}" for note in one.notes if note not in forecast.notes)
    for line in toml_lines(forecast.recipe.model_dump(mode="json")):
        console.say(console.one_line(line))
    for one in (forecast, *forecast.later):
        console.say()
        _one(one)
    if forecast.later:
        console.say()
        _line("in all", f"about {console.duration(forecast.seconds_of_all)} for all stages that are left")
    files = (name if size is None else f"{name} ({_bytes(size)})" for name, size in forecast.files.items())
    last = forecast.later[-1] if forecast.later else forecast
    kept = [] if last.stage is None else [f"stage-{k} (as much)" for k in range(1, last.stage.of)]
    _line("writes", f"into {forecast.run}: {', '.join([*files, *kept])}")
    if forecast.picture is not None:
        _line("picture", str(forecast.picture))


def _one(forecast: TrainForecast) -> None:
    """The lines of one stage, or of a run of one."""
    if forecast.stage is not None:
        _line("stage", f"{forecast.stage.number} of {forecast.stage.of} {forecast.stage.name}".rstrip())
    ground = "" if forecast.gsd is None else f", {forecast.gsd:.3g} m"
    chips = forecast.chips
    _line("data", f"{chips['train']:,} chips to train on, {chips['val']:,} to validate on")
    _line("classes", _some(forecast.classes))
    _line("bands", f"{_some(forecast.bands)}{ground}")
    model = forecast.recipe.model
    _line("network", f"{model.architecture} on {model.encoder}, {forecast.parameters:,} weights that learn")
    _line("hardware", f"{forecast.hardware}, {forecast.precision}")
    gpu = "" if forecast.gpu_memory is None else f", {_bytes(forecast.gpu_memory)} of the GPU"
    _line("memory", f"{_bytes(forecast.memory)} of the process{gpu}")
    images = forecast.recipe.training.batch_size / forecast.seconds_per_iteration
    _line("pace", f"{forecast.seconds_per_iteration:.3g} s per iteration, {images:.3g} images/s")
    if forecast.chips["val"]:
        _line("", f"{forecast.seconds_per_validation:.3g} s per validation")
    begun = f" after the {forecast.done:,} that are done" if forecast.done else ""
    left = forecast.iterations - forecast.done
    label = "in all" if forecast.stage is None else "time"
    _line(label, f"about {console.duration(forecast.seconds)} for {left:,} iterations{begun}")


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _bytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _line(label: str, text: str) -> None:
    console.say(f"{label:<{_LABEL}}{console.one_line(text)}")
