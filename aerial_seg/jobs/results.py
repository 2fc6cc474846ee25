"""From finished pieces to the files of a result, and to their place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from aerial_seg.geo.maps import write_class_map, write_confidence, write_probabilities
from aerial_seg.geo.segments import SegmentStore
from aerial_seg.jobs.stream import Definition
from aerial_seg.legend import Legend
from aerial_seg.progress import ProgressBar


def result_names(mask: str, definition: Definition) -> tuple[str, ...]:
    """The rasters of a result whose mask has this name: the mask, and MASK_confidence.tif, MASK_probabilities.tif."""
    path = Path(mask)
    extra = [name for name in ("confidence", "probabilities") if getattr(definition, name)]
    return (mask, *(f"{path.stem}_{name}{path.suffix}" for name in extra))


def write_results(
    store: SegmentStore,
    final: Path,
    *,
    legend: Legend,
    counts: Mapping[int, int],
    tags: Mapping[str, str],
    bar: ProgressBar,
) -> tuple[Path, ...]:
    """`final` and its companions lie in its folder, which holds nothing else; the mask comes first."""
    shutil.rmtree(final.parent, ignore_errors=True)
    final.parent.mkdir(parents=True)
    files: list[Path] = []
    for layer in store.layers:
        source = store.vrt(layer)
        if layer.name == "class":
            files += write_class_map(source, final, legend=legend, counts=counts, tags=tags)
        else:
            place = final.with_name(f"{final.stem}_{layer.name}{final.suffix}")
            if layer.name == "confidence":
                files += write_confidence(source, place, tags=tags)
            else:
                files += write_probabilities(source, place, legend=legend, tags=tags)
        bar.update()
    return tuple(files)


def place_results(folder: Path, final: Path) -> None:
    """All files of `folder` lie beside `final`, which came last: whoever sees it sees it whole."""
    for file in _mask_last(folder, final.name):
        file.replace(final.parent / file.name)


def _mask_last(folder: Path, name: str) -> Iterator[Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    yield from (file for file in files if file.name != name)
    yield from (file for file in files if file.name == name)
