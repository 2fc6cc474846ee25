"""The folder `qa/` of a dataset: what to look at before a day of training is spent on it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aerial_seg.files.durable import disk_errors
from aerial_seg.report.qa.chips import QaChip, random_chips, rare_chips
from aerial_seg.report.qa.page import class_csv, page
from aerial_seg.report.qa.sheets import ReadChip, contact_rows, draw_contact_sheet
from aerial_seg.report.qa.split_map import draw_split_map
from aerial_seg.training.manifest import DatasetDocument

QA = "qa"
PAGE, CLASSES = "index.html", "classes.csv"
RANDOM, RARE, SPLIT_MAP = "random.png", "rarest.png", "splits.png"


def write_qa(
    root: Path, document: DatasetDocument, chips: Sequence[QaChip], read: ReadChip, *, threads: int = 1
) -> None:
    """The folder `qa` in `root`, which is being made, holds a page, the class table and three pictures.

    At most 24 chips are read, in so many threads, whatever the dataset's size; equal datasets give equal bytes.
    """
    folder, legend, bands = root / QA, document.legend, document.bands
    by_chance: list[tuple[QaChip, int | None]] = [
        (chips[k], None) for k in random_chips(chips, document.seed)
    ]
    rare: list[tuple[QaChip, int | None]] = [
        (chips[k], channel) for k, channel in rare_chips(chips, document.seed)
    ]
    told = ", ".join(
        dict.fromkeys(legend.entries[channel].name for _, channel in rare if channel is not None)
    )
    pictures = (
        ("Chips at random", RANDOM),
        (f"Chips with the rarest classes: {told}", RARE),
        ("Where the splits lie", SPLIT_MAP),
    )
    with disk_errors(folder):
        folder.mkdir()
        titles = (f"{len(by_chance)} of {len(chips):,} chips at random", f"{pictures[1][0]}, at full size")
        rows = contact_rows([*by_chance, *rare], read=read, bands=bands, legend=legend, threads=threads)
        sheets = (rows[: len(by_chance)], RANDOM, titles[0]), (rows[len(by_chance) :], RARE, titles[1])
        # Most of it is compression, for which threads need not wait.
        with ThreadPoolExecutor(len(sheets)) as pool:
            drawn = [
                pool.submit(draw_contact_sheet, shown, folder / name, legend=legend, title=title)
                for shown, name, title in sheets
            ]
            draw_split_map(chips, legend, folder / SPLIT_MAP)
        for sheet in drawn:
            sheet.result()
        texts = {CLASSES: class_csv(chips, legend), PAGE: page(document, chips, pictures, document.notes)}
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
