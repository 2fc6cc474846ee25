"""`aerial-seg tile --dry-run`: problems first, then what would be made, and an exit code that a script can ask."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path


def test_a_dry_run_tells_what_would_be_made_and_makes_nothing(
    run: Callable, raster: Callable, labels: Path
) -> None:
    arguments = ("tile", raster("in.tif"), "--labels", labels, "--chip-size", 32, "--block", 1, "-o", "chips")
    result = run(*arguments, "--dry-run")
    assert (result.code, result.err) == (0, "")
    assert not Path("chips").exists()
    lines = result.out.splitlines()
    assert any(line.startswith("chips would hold ") for line in lines)
    assert any(" MiB on the disk, about 0 min " in line for line in lines)
    assert lines[-1].startswith("no errors, ")
    made = json.loads(run(*arguments, "--json").out)
    foretold = json.loads(run(*arguments[:-1], "others", "--dry-run", "--json").out)
    assert (foretold["chips"], foretold["class_pixels"]) == (made["chips"], made["class_pixels"])


def test_all_errors_come_first_with_options_in_their_remedies_and_the_code_is_1(
    run: Callable, raster: Callable, labels: Path
) -> None:
    image = raster("in.tif")
    result = run("tile", image, "gone.tif", "--labels", labels, "--val", "*.jp2", "-o", "chips", "--dry-run")
    assert (result.code, result.err) == (1, "")
    lines = result.out.splitlines()
    assert lines[0] == "error: gone.tif does not exist; check the path"
    assert lines[1].startswith("error: --val '*.jp2' matches none of the 1 sources")
    assert lines[-1].startswith("2 errors, ")
    plain = run("tile", image, "gone.tif", "--labels", "no.tif", "-o", "chips")
    assert plain.code == 1
    assert plain.err == (
        "Error: gone.tif does not exist; check the path (1 more error: `aerial-seg tile --dry-run` with the same "
        "arguments lists all)\n"
    )
