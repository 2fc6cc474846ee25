"""What a mask file says of itself: its classes, and what it was made from."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree as Xml

from pydantic import ValidationError
from rasterio.io import DatasetReader

from aerial_seg.documents import DocumentError, parse_json, problem_of
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.raster.opening import described, open_dataset
from aerial_seg.geo.raster.remote import public_name
from aerial_seg.legend import IGNORE, Legend, legend_from_colormap
from aerial_seg.paths import StrPath, as_name
from aerial_seg.printable import printable, shortened

LEGEND_TAG = "AERIAL_SEG_LEGEND"
_SOURCES_TAG, _MODEL_TAG = "AERIAL_SEG_SOURCES", "AERIAL_SEG_MODEL_SHA256"


def read_legend(path: StrPath) -> Legend | None:
    """Return the classes that a mask tells of: our tag, else GDAL's category names with the palette; or None."""
    path = as_name(path, "path")
    with described(path) as dataset:
        text = dataset.tags().get(LEGEND_TAG)
        if text is not None:
            try:
                # Strict, and from JSON because there lists are tuples: "1" or true is no number.
                return Legend.model_validate_json(json.dumps(parse_json(text)), strict=True)
            except ValidationError as error:
                raise _damaged(path, LEGEND_TAG, problem_of(error)) from error
            except DocumentError as error:
                raise _damaged(path, LEGEND_TAG, str(error)) from error
        return _legend_of_categories(dataset)


def read_origin(path: Path) -> dict[str, str]:
    """`source`: the rasters that the mask was made from, else its own name; `model_id`: of the models, if it tells.

    Raises InputError for tags of ours that hold something else.
    """
    with described(path) as dataset:
        tags = dataset.tags()
    sources = _sources(path, tags.get(_SOURCES_TAG, "[]"))
    more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
    origin = {"source": printable(sources[0] if sources else public_name(path), lines=False) + more}
    model = tags.get(_MODEL_TAG)
    if not model:
        return origin
    if not re.fullmatch(r"[0-9a-f]{12,64}(,[0-9a-f]{12,64})*", model):
        raise _damaged(path, _MODEL_TAG, f"it is '{shortened(model)}', wanted hexadecimal digits")
    return origin | {"model_id": ",".join(one[:12] for one in model.split(","))}


def _sources(path: Path, text: str) -> list[str]:
    try:
        names = parse_json(text)
    except DocumentError as error:
        raise _damaged(path, _SOURCES_TAG, str(error)) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _damaged(path, _SOURCES_TAG, f"it is {shortened(text)}, wanted a list of names as JSON")
    return names


def _damaged(path: Path | str, tag: str, how: str) -> InputError:
    return InputError(
        f"{path} has a damaged {tag} tag ({how}); run predict again, or take the tag away "
        f"(gdal_edit.py -unsetmd {tag} FILE)"
    )


def is_ours(path: Path) -> bool:
    """Whether the file is a mask that says that we made it."""
    try:
        with open_dataset(path) as dataset:
            return "AERIAL_SEG_MODEL_SHA256" in dataset.tags()
    except InputError:
        return False


def _legend_of_categories(dataset: DatasetReader) -> Legend | None:
    """rasterio does not show category names: they are read from the sidecar that carries them."""
    sidecar = Path(dataset.name + ".aux.xml")
    if not os.path.exists(sidecar):  # noqa: PTH110 - a Path raises for names that are too long
        return None
    try:
        # Of the first band: those of an error map come once for each class.
        band = _sidecar(sidecar).find("PAMRasterBand[@band='1']")
    except Xml.ParseError as error:
        raise InputError(f"{sidecar} is not XML ({error}); delete it or write it again") from error
    names = [] if band is None else [element.text or "" for element in band.iter("Category")]
    if not any(names):
        return None
    try:
        colormap = dataset.colormap(1)
    except ValueError:
        colormap = {}
    # 255 is nodata whatever its name; a colour table of 256 entries names it all the same.
    named = [name or f"class {k}" for k, name in enumerate(names[:IGNORE])]
    try:
        return legend_from_colormap(named, colormap)
    except SettingsError as error:
        raise InputError(f"{sidecar} has unusable category names: {error}") from error


def _sidecar(path: Path) -> Xml.Element:
    """GDAL takes bytes that are no UTF-8 as they come."""
    return Xml.fromstring(path.read_bytes().decode("utf-8", "replace"))


def provenance(**facts: object) -> dict[str, str]:
    """Facts as TIFF tags `AERIAL_SEG_…`; texts stay as they are, everything else becomes JSON."""
    return {
        f"AERIAL_SEG_{key.upper()}": value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in facts.items()
    }
