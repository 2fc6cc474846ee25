"""`tile` leaves in `qa/` what it found: the same bytes for the same dataset, and every warning."""

from __future__ import annotations

from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
from PIL import Image
from tile_town import SETTINGS, run

from aerial_seg.training.manifest import open_manifest


def test_qa_holds_pictures_classes_and_every_warning(image: Path, polygons: Path) -> None:
    report = run([image], polygons)
    folder = report.dataset / "qa"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(files) == {"index.html", "classes.csv", "random.png", "rarest.png", "splits.png"}
    page = unescape(files["index.html"].decode())
    notes = open_manifest(report.dataset).document.notes
    assert notes
    assert all(f"<li>{note}</li>" in page for note in notes)
    assert f"<h2>{len(notes)} warning" in page
    sheet = np.asarray(Image.open(folder / "random.png"))
    for entry in report.legend.entries:
        assert (sheet == entry.rgb).all(axis=-1).any(), entry.name
    for split, pixels in report.class_pixels.items():
        for name, count in pixels.items():
            column = files["classes.csv"].decode().splitlines()[0].split(",").index(f"{split}_pixels")
            row = next(
                line for line in files["classes.csv"].decode().splitlines() if line.startswith(f"{name},")
            )
            assert row.split(",")[column] == str(count)

    run([image], polygons, replace(SETTINGS, overwrite=True))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
