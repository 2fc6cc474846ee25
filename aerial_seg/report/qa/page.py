"""The page that opens in a browser: warnings first, then splits and classes in numbers, then the pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from aerial_seg.legend import Legend
from aerial_seg.printable import printable
from aerial_seg.report.qa.chips import QaChip
from aerial_seg.training.manifest import SPLITS, DatasetDocument

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1320px; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .5em 0 1em } th, td { padding: .25em .8em; text-align: right }
th:first-child, td:first-child { text-align: left } tr:nth-child(even) { background: #f4f4f4 }
.swatch { display: inline-block; width: 1em; height: 1em; border: 1px solid #444; vertical-align: -.15em }
.none { color: #b00020; font-weight: bold } li { margin: .3em 0; max-width: 60em } img { max-width: 100% }
""".strip()
_SHEET = (
    "Image, labels, and both: in the last picture borders must follow what you see. If they all lie off in one "
    "direction, the labels are shifted; what you see there and no colour covers was not drawn; stripes are unlabelled, "
    "chequers were not measured."
)


def page(
    document: DatasetDocument,
    chips: Sequence[QaChip],
    pictures: Iterable[tuple[str, str]],
    warnings: Sequence[str],
) -> str:
    """HTML of a dataset. pictures: title and file of each; warnings: all, each with its count."""
    ground = "" if document.gsd is None else f" at {document.gsd:.3g} m"
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Chips and labels</title>',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{len(chips):,} chips of {document.chip_size} px{ground}</h1>",
        f"<p>aerial-seg {_text(document.tool_version)}, {len(document.sources):,} sources, seed {document.seed}</p>",
        f"<h2>{len(warnings)} warning{'' if len(warnings) == 1 else 's'}</h2>",
        "<ol>" if warnings else "<p>There is nothing to warn of.</p>",
        *(f"<li>{_text(warning)}</li>" for warning in warnings),
        *(["</ol>"] if warnings else []),
        "<h2>Classes</h2>",
        *_table(class_rows(chips, document.legend), document.legend),
        "<h2>Splits</h2>",
        *_splits(chips, document.chip_size),
    ]
    for title, file in pictures:
        lines += [f"<h2>{_text(title)}</h2>", *([f"<p>{_SHEET}</p>"] if "split" not in file else [])]
        lines += [f'<a href="{_text(file)}"><img src="{_text(file)}" alt="{_text(title)}"></a>']
    return "\n".join((*lines, "</body></html>")) + "\n"


def class_rows(chips: Sequence[QaChip], legend: Legend) -> list[dict[str, str | int]]:
    """A row per class: name, value, colour, code, and of each split its pixels and the chips that hold it."""
    counts = {
        split: np.array([chip.counts for chip in chips if chip.split == split]).reshape(-1, len(legend))
        for split in SPLITS
    }
    rows: list[dict[str, str | int]] = []
    for k, entry in enumerate(legend.entries):
        code = "" if entry.code is None else entry.code
        row: dict[str, str | int] = {
            "class": entry.name, "value": entry.value, "colour": entry.colour, "code": code,
        }  # fmt: skip
        for split in SPLITS:
            row[f"{split}_pixels"] = int(counts[split][:, k].sum())
            row[f"{split}_chips"] = int((counts[split][:, k] > 0).sum())
        rows.append(row)
    return rows


def class_csv(chips: Sequence[QaChip], legend: Legend) -> str:
    """The rows as CSV."""
    rows = class_rows(chips, legend)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _table(rows: Sequence[dict[str, str | int]], legend: Legend) -> list[str]:
    totals = {split: sum(int(row[f"{split}_pixels"]) for row in rows) for split in SPLITS}
    used = [split for split in SPLITS if totals[split]]
    codes = ["code"] if legend.has_codes else []
    head = ["class", "value", *codes, *(f"{split} share</th><th>pixels</th><th>chips" for split in used)]
    lines = ["<table>", f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>"]
    for row in rows:
        swatch = f'<span class="swatch" style="background:{row["colour"]}"></span> '
        cells = [f"<td>{swatch}{_text(str(row['class']))}</td>"]
        cells += [f"<td>{row[column]}</td>" for column in ("value", *codes)]
        for split in used:
            pixels = int(row[f"{split}_pixels"])
            none = "" if pixels else ' class="none"'
            share = f"{100 * pixels / totals[split]:.3g} %" if pixels else "none"
            cells += [f"<td{none}>{share}</td><td>{pixels:,}</td><td>{row[f'{split}_chips']:,}</td>"]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return [*lines, "</table>"]


def _splits(chips: Sequence[QaChip], size: int) -> list[str]:
    lines = [
        "<table>",
        "<tr><th>split</th><th>chips</th><th>labelled</th><th>unlabelled</th><th>not measured</th></tr>",
    ]
    for split in SPLITS:
        own = [chip for chip in chips if chip.split == split]
        whole = len(own) * size**2
        labelled = sum(int(chip.counts.sum()) for chip in own)
        measured = sum(chip.valid for chip in own)
        shares = (labelled, measured - labelled, whole - measured)
        cells = "".join(f"<td>{100 * part / whole:.3g} %</td>" if whole else "<td>–</td>" for part in shares)
        none = "" if own else ' class="none"'
        lines.append(f"<tr><td>{split}</td><td{none}>{len(own):,}</td>{cells}</tr>")
    return [*lines, "</table>"]


def _text(text: str) -> str:
    """As a browser is to show it: names come from outside."""
    return escape(printable(text, lines=False))
