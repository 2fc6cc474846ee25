"""From finished pieces to the files of a result."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from aerial_seg.inference.definition import Definition
from aerial_seg.legend import Legend
from aerial_seg.outputs.durable import settled_file
from aerial_seg.outputs.maps import write_class_map, write_confidence, write_probabilities
from aerial_seg.outputs.qgis_style import SUFFIX, Style, read_style, shared_text, stays
from aerial_seg.outputs.segments import SegmentStore
from aerial_seg.progress import ProgressBar


def result_names(mask: str, definition: Definition) -> tuple[str, ...]:
    """Name the rasters of a result: the mask, and MASK_confidence.tif, MASK_probabilities.tif where asked for."""
    wanted = {"confidence": definition.confidence, "probabilities": definition.probabilities}
    return (mask, *(companion(Path(mask), layer).name for layer, asked in wanted.items() if asked))


def companion(mask: Path, layer: str) -> Path:
    """MASK_layer.tif beside MASK.tif."""
    return mask.with_name(f"{mask.stem}_{layer}{mask.suffix}")


def keep_styles(files: Iterable[Path], fresh: Path, target: Path) -> tuple[set[Path], tuple[str, ...]]:
    """Make the .qml files in the folder `fresh` fit to take their place: what others drew beside `target` is kept.

    files: all that the result consists of, at their final places. Returns those of them that stay somebody else's, and
    what is to be told. It can be called again after a crash.
    """
    foreign, notes = set(), []
    for place in files:
        if place.suffix != SUFFIX:
            continue
        draft = fresh / place.name
        drawn = shared_text(
            place, read_style(draft.read_text(encoding="utf-8")) if draft.exists() else Style()
        )
        if drawn is None:
            foreign.add(place)
            notes.append(stays(place, target.name))
            draft.unlink(missing_ok=True)
        elif draft.exists():
            with settled_file(draft) as partial:
                partial.write_bytes(drawn.encode())
    return foreign, tuple(notes)


def write_results(
    store: SegmentStore,
    final: Path,
    *,
    legend: Legend,
    counts: Mapping[int, int],
    tags: Mapping[str, str],
    bar: ProgressBar,
) -> tuple[Path, ...]:
    """Write `final` and its companions from the pieces to its folder, which holds nothing else; the mask first."""
    shutil.rmtree(final.parent, ignore_errors=True)
    final.parent.mkdir(parents=True)
    files: list[Path] = []
    for layer in store.layers:
        if layer.name == "class":
            files += write_class_map(store, layer, final, legend=legend, counts=counts, tags=tags)
        elif layer.name == "confidence":
            files += write_confidence(store, layer, companion(final, layer.name), tags=tags)
        else:
            files += write_probabilities(store, layer, companion(final, layer.name), legend=legend, tags=tags)
        bar.update()
    return tuple(files)
