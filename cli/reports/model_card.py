"""A model's card as text: groups of aligned lines, no wider than 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from aerial_seg.recipe.crop_size import size_text

from .. import console

_WIDTH, _LABEL = 80, 14


def show(card: dict[str, Any]) -> None:
    """The card is on stdout."""
    _line("kind", card["kind"], indent="")
    _line("path", card["path"], indent="")
    _group("what it is")
    _network(card["network"])
    _group("what it expects")
    _input(card["input"])
    _group("what it says")
    _output(card["output"])
    _group("how it is run, unless told otherwise")
    _prediction(card["prediction"], card["network"])
    _group("how it was trained, and how well it does")
    _training(card)
    _group("the file")
    _file(card["file"])


def _network(network: dict[str, Any]) -> None:
    counts = network["parameters"]
    _line("architecture", f"{network['architecture']} on {network['encoder']}")
    _line("choices", _pairs(network["choices"]) or "all as by default")
    auxiliary = f", and {counts['auxiliary']:,} in the auxiliary head" if counts["auxiliary"] else ""
    _line("parameters", f"{counts['network']:,}{auxiliary}")
    place = "on pixels (align_corners)" if network["align_corners"] else "amid their pixels"
    if crop := network["choices"].get("stretched_side"):
        place = f"as stretched over training crops of {crop} px"
    _line(
        "strides",
        f"output {network['output_stride']}, logits {network['logit_stride']}, origins {network['origin_step']} px; "
        f"cells lie {place}",
    )
    _line("sees", _sight(network["receptive_field"]))


def _sight(field: dict[str, Any]) -> str:
    if field["side"] is None:
        return f"the whole image ({field['reason']})"
    rows, cols = field["rows"], field["cols"]
    return f"{rows['side']} × {cols['side']} px, its receptive field"


def _input(expected: dict[str, Any]) -> None:
    gsd = expected["gsd_m"]
    _line("pixel size", "not georeferenced" if gsd is None else f"{gsd:.4g} m")
    head = ["band", "name", "dtype", "mean", "std", "p2", "p98"]
    rows = [
        [str(band["number"]), band["name"], band["dtype"], *(f"{band[k]:.5g}" for k in head[3:])]
        for band in expected["bands"]
    ]
    _table(head, rows, left=3)


def _output(said: dict[str, Any]) -> None:
    classes = said["classes"]
    biased = any(entry["bias"] for entry in classes)
    coded = any("code" in entry for entry in classes)
    head = ["channel", "value", *(["code"] if coded else []), "colour", *(["bias"] if biased else []), "name"]
    rows = [
        [
            str(entry["channel"]),
            str(entry["value"]),
            *([str(entry.get("code", ""))] if coded else []),
            entry["colour"],
            *([f"{entry['bias']:+.4g}"] if biased else []),
            entry["name"] + (" (background)" if entry["background"] else ""),
        ]
        for entry in classes
    ]
    _table(head, rows, left=0, last_left=True)


def _prediction(run: dict[str, Any], network: dict[str, Any]) -> None:
    if run["problem"] is not None:
        _line("tiles", f"cannot run as it is: {run['problem']}")
        return
    _line(
        "tiles",
        f"{run['tile_size']} px, of which neighbours share {run['overlap']}, in batches of {run['batch_size']}",
    )
    halo, needed = run["halo"], network["receptive_field"]["halo"]
    if run["halo_covers"]:
        text = f"{halo} px, all that a logit sees"
    elif needed is not None:
        text = f"{halo} px of the {needed} px with which tiles would not change a logit"
    elif network["receptive_field"]["side"] is None:
        text = f"{halo} px; a tile is all that its logits see of the image"
    else:
        text = f"{halo} px; logits depend on the tile ({network['receptive_field']['reason']})"
    _line("halo", text)


def _training(card: dict[str, Any]) -> None:
    training, validation = card["training"], card["validation"]
    if training["origin"] == "imported":
        _line("imported", f"from {training['source']}")
    else:
        _recipe(training, auxiliary=card["network"]["parameters"]["auxiliary"] > 0)
    miou, iteration = validation["miou"], validation["iteration"]
    _line("validation", "not measured" if miou is None else f"mIoU {miou:.4f} at iteration {iteration:,}")
    if validation["intervals"] is not None:
        _intervals(validation)
    if card["eight_bits"] is not None:
        _eight_bits(card["eight_bits"])


def _eight_bits(told: dict[str, Any]) -> None:
    kept = f", {len(told['kept'])} kept in float32" if told["kept"] else ""
    _line(
        "8 bits",
        f"{told['layers']} layers{kept}; on the validation chips mIoU {told['miou']:.4f}, in float32 "
        f"{told['source_miou']:.4f}",
    )
    _line("made of", told["source_sha256"])


def _intervals(validation: dict[str, Any]) -> None:
    """How sure the scores are, and what keeps them from being believed."""
    low_high = validation["intervals"].get("miou")
    units = f"{validation['units']} {validation['unit']}{'s' if validation['units'] != 1 else ''}"
    if low_high is not None:
        low, high = low_high
        _line("95 % interval", f"mIoU {low:.3f} to {high:.3f}, over {units}, on whole {validation['on']}")
    if validation["value"] is not None and validation["monitor"] != "miou":
        _line("chosen by", f"{validation['monitor']} {validation['value']:.4f}")
    for doubt in validation["doubts"]:
        _line("doubt", doubt)


def _crop(crop: int | list[int]) -> str:
    """As the card has it: a side, or height and width."""
    return size_text(crop if isinstance(crop, int) else (crop[0], crop[1]))


def _recipe(training: dict[str, Any], *, auxiliary: bool) -> None:
    data = training["data"]
    splits = f"{data['train']}, validated on {data['val']}"
    _line("data", f"{data['benchmark'] or 'chips'}: {splits}")
    start = training["initial_weights"]
    _line("began with", "random weights" if start == "none" else f"an encoder from {start}")
    _line(
        "iterations",
        f"{training['iterations']:,} of {training['batch_size']} crops of {_crop(training['crop'])} px",
    )
    _line(
        "optimizer",
        f"{training['optimizer']}, learning rate {training['learning_rate']:g}, "
        f"weight decay {training['weight_decay']:g}"
        + (f", average of weights {training['ema_decay']:g}" if training["ema_decay"] else "")
        + f", seed {training['seed']}",
    )
    weights = {
        training["loss"]: training["loss"] != "none",
        "auxiliary": training["auxiliary_weight"] * auxiliary,
        "Dice": training["dice_weight"],
        "Lovász": training["lovasz_weight"],
    }
    loss = _pairs({name: float(weight) for name, weight in weights.items() if weight})
    if training["label_smoothing"]:
        loss += f"; labels smoothed by {training['label_smoothing']:g}"
    if training["loss_at"] == "logits":
        loss += "; labels taken at the logits' cells"
    classes = training["class_weights"]
    _line("loss", loss + (f"; classes {_pairs(classes)}" if classes else ""))
    augmentation = training["augmentation"]
    smallest, largest = augmentation["scale"]
    _line("augmentation", _pairs({**augmentation, "scale": f"{smallest:g}–{largest:g}"}))


def _file(file: dict[str, Any]) -> None:
    _line("size", f"{file['bytes']:,} bytes")
    _line("sha256", file["sha256"])
    _line("written by", f"aerial-seg {file['tool_version']}, schema {file['schema_version']}")
    _line("fingerprint", file["data_fingerprint"])
    for note in file["notes"]:
        _line("note", note)


def _group(title: str) -> None:
    console.say(f"\n{title}")


def _line(label: str, text: str, *, indent: str = "  ") -> None:
    lead = f"{indent}{label:<{_LABEL - len(indent)}}  "
    wrapped = textwrap.wrap(
        console.one_line(text),
        width=_WIDTH,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in wrapped or [lead.rstrip()]:
        console.say(line)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int, last_left: bool = False) -> None:
    """Aligned columns: the first `left`, and perhaps the last one, to the left, the others to the right."""
    lines = [[console.one_line(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    for line in lines:
        cells = [
            cell.ljust(width) if k < left or (last_left and k == len(head) - 1) else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        console.say(f"  {'  '.join(cells)}".rstrip())


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return f"({_pairs(value)})"
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
