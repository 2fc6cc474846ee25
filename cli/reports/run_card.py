"""A training run's state as text."""

from __future__ import annotations

from typing import Any

from .. import console

_LABEL = 8
_MOST_CLASSES = 20


def show(card: dict[str, Any]) -> None:
    """The card is on stdout."""
    _line("kind", card["kind"])
    _line("path", card["path"])
    done, all_of_them = card["iteration"], card["iterations"]
    share = f" ({done / all_of_them:.0%})" if all_of_them else ""
    _line("state", f"{card['state']}: {card['reason']}")
    for one in card["earlier"]:
        best = (
            "" if one["miou"] is None else f", best mIoU {_number(one['miou'])} at {one['best_iteration']:,}"
        )
        _line(
            "stage",
            f"{one['number']}{_called(one)} is finished: {one['iterations']:,} iterations{best}; {one['model']}",
        )
    if card["stage"] is not None:
        stage = card["stage"]
        _line("stage", f"{stage['number']} of {stage['of']}{_called(stage)}, of which all that follows is")
    _line("done", f"iteration {done:,} of {all_of_them:,}{share}")
    if card["seconds_per_iteration"] is not None:
        left = card["seconds_left"]
        to_go = "" if left is None else f"; about {console.duration(left)} to go"
        _line("pace", f"{card['seconds_per_iteration']:.3g} s per iteration, validations included{to_go}")
    if card["loss"] is not None:
        _line(
            "loss", f"{card['loss']:.4g}, the mean of the last iterations; rate {card['learning_rate']:.3g}"
        )
    _line("best", _scores(card["best"]))
    _line("last", _scores(card["last_validation"]))
    _line("recipe", ", ".join(f"{name} {value}" for name, value in card["recipe"].items()))
    _line("files", ", ".join(card["files"]) or "none yet")
    for note in card["notes"]:
        _line("note", note)


def _called(stage: dict[str, Any]) -> str:
    return f" ({stage['name']})" if stage["name"] else ""


def _scores(validation: dict[str, Any] | None) -> str:
    if validation is None:
        return "no validation yet"
    ious = validation["ious"]
    told = ", ".join(f"{name} {_number(iou)}" for name, iou in list(ious.items())[:_MOST_CLASSES])
    more = f" and {len(ious) - _MOST_CLASSES} more" if len(ious) > _MOST_CLASSES else ""
    at = (
        "an unknown iteration"
        if validation["iteration"] is None
        else f"iteration {validation['iteration']:,}"
    )
    return f"mIoU {_number(validation['miou'])} at {at}: IoU {told}{more}"


def _number(value: float | None) -> str:
    return "NaN" if value is None else console.number(value)


def _line(label: str, text: str) -> None:
    console.say(f"{label:<{_LABEL}}{console.one_line(text)}")
