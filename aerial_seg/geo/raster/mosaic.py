"""Several rasters as one: a VRT whose order is documented and whose pixels are copied, not interpolated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
from affine import Affine
from rasterio.enums import MaskFlags

from aerial_seg.band_names import role
from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.chosen_bands import add_declared, nodata_differs
from aerial_seg.geo.raster.opening import described
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.values.scaling import SCALED_DTYPE
from aerial_seg.geo.raster.vrt import (
    Box,
    add_band,
    add_mask,
    add_source,
    add_where_measured,
    as_text,
    new_vrt,
    place_source,
    source_name,
    take_least,
)
from aerial_seg.geo.turns import turn_of

_INEXACT = ("int64", "uint64")
"""GDAL combines sources as float64, which holds no more than 53 bits."""

_SAME_PLACE = 1e-3
"""Pixels; rasters half a pixel off, give or take this, all move the same way, so that neighbours stay neighbours."""


_Layer = tuple[RasterInfo, str, Box]
"""A raster, what GDAL opens for it, and where it lies."""


@dataclass(frozen=True, slots=True)
class Mosaic:
    """A written VRT; `largest_shift` is how far, in pixels, a source was moved to sit on the common grid.

    tags: what each source says of itself, as Raster.tags does. nodata: to open it with. is_scaled: the VRT itself shows
    what the sources' numbers mean, because they mean different things. tagged: of each source its path, and what its
    tags alone say of that.
    """

    path: Path
    sources: int
    largest_shift: float
    tags: tuple[Mapping[str, str], ...]
    nodata: float | None = None
    is_scaled: bool = False
    tagged: tuple[tuple[str, tuple[str, ...]], ...] = ()


def write_mosaic(
    paths: Sequence[Path], vrt: Path, nodata: float | None = None, scaled: Sequence[bool] = ()
) -> Mosaic:
    """`vrt` shows all rasters as one; where they overlap, the later one in `paths` lies on top where it measured.

    What was measured is what `Raster` says of each file alone, and the VRT's mask tells it; a `nodata` of the caller's
    replaces what the files declare, and is what the VRT declares and shows between them. Folders beside it hold a VRT
    of the same name for each file whose mask is put together. The common pixel is the finest of the sources.
    Web-mercator tiles stored in degrees differ slightly in pixel height from row to row: a source whose size rounds to
    its own number of pixels is copied pixel for pixel, any other one is resampled bilinearly by GDAL. Where all sources
    declare one scale and offset, so does the VRT; where they declare different ones, those of the bands that `scaled`
    marks are applied, and the others dropped. Raises
    InputError when CRS, bands, their order or dtype differ, for rotation, and for several rasters with a palette.
    """
    looked = [_look(path, nodata) for path in paths]
    infos = [one.info for one in looked]
    for info in infos:
        _check_alike(info, infos[0], nodata)
    if len(infos) > 1:
        _check_no_palette(infos)
    looked = [
        replace(one, info=replace(one.info, grid=grid))
        for one, grid in zip(looked, _together(infos), strict=True)
    ]
    infos = [one.info for one in looked]
    grid = _common_grid([info.grid for info in infos])
    apply = any(scaled) and len({info.scalings for info in infos}) > 1
    root = _imagery(infos, grid, None if apply else nodata, is_scaled=apply)
    add_mask(root)
    under: list[_Layer] = []
    over: list[_Layer] = []
    shift = 0.0
    for number, one in enumerate(looked):
        info = one.info
        name = _kept(_source(one, nodata), vrt.parent / f"{vrt.stem}-{number}" / vrt.name)
        box = _place(info.grid, grid)
        copy = _snapped(info.grid, box)
        over.append((info, name, copy or box))
        if copy is not None:
            shift = max(shift, *(abs(a - b) for a, b in zip(box, copy, strict=True)))
            if copy != tuple(map(_nearest, box)):
                # Copies of slightly larger pixels drift apart by a line, which is not to stay empty.
                under.append((info, name, box))
    for layer in (*under, *over):
        _add_raster(root, *layer, scaled=scaled if apply else ())
    Xml.ElementTree(root).write(vrt)
    return Mosaic(
        path=vrt,
        sources=len(infos),
        largest_shift=shift,
        tags=tuple(one.tags for one in looked),
        nodata=None if apply else nodata,
        is_scaled=apply,
        tagged=tuple((info.path, info.tagged) for info in infos),
    )


@dataclass(frozen=True, slots=True)
class _Facts:
    """All that a mosaic has to know of a raster, from opening it once.

    name: what GDAL opens. flags: of each of its bands of imagery. differs: whether they have not one nodata value.
    declared: those values.
    """

    info: RasterInfo
    name: str
    flags: tuple[Sequence[MaskFlags], ...]
    differs: bool
    declared: tuple[float | None, ...]
    tags: Mapping[str, str]


def _look(path: Path, nodata: float | None) -> _Facts:
    with (
        described(path) as dataset,
        Raster(path, nodata=nodata, georeferenced=False, opened=dataset) as raster,
    ):
        info = raster.info
        flags, values = dataset.mask_flag_enums, dataset.nodatavals
        return _Facts(
            info=info,
            name=source_name(dataset),
            flags=tuple(flags[band - 1] for band in info.bands),
            differs=nodata_differs(dataset, info.bands),
            declared=tuple(values[band - 1] for band in info.bands),
            tags=raster.tags,
        )


def _check_alike(info: RasterInfo, first: RasterInfo, nodata: float | None) -> None:
    if info.grid.transform.b or info.grid.transform.d or info.grid.transform.e >= 0:
        raise InputError(
            f"{info.path} is rotated or south-up, wanted north-up rasters in a mosaic; warp it first"
        )
    for what, got, wanted in (
        ("CRS", _crs_name(info.grid), _crs_name(first.grid)),
        ("number of bands", len(info.bands), len(first.bands)),
        ("dtype", info.dtype, first.dtype),
        # The caller's value replaces what the files declare.
        ("nodata value", *((repr(info.nodata), repr(first.nodata)) if nodata is None else ("", ""))),
    ):
        if got != wanted:
            raise InputError(
                f"{info.path} has {what} {got}, but {first.path} has {wanted}; a mosaic needs one: "
                "convert the odd one, or take them without mosaic"
            )
    # Only what both name, at other places: descriptions may also be dates or the like.
    order = [role(name) for name in first.names]
    if any(
        name is not None and name in order and order[k] != name
        for k, name in enumerate(map(role, info.names))
    ):
        raise InputError(
            f"{info.path} has the bands {', '.join(info.names)}, but {first.path} has {', '.join(first.names)}; "
            "a mosaic needs one order: put them in it (gdal_translate -b …) or predict them separately"
        )
    if info.dtype in _INEXACT:
        raise InputError(
            f"{info.path} has dtype {info.dtype}, wanted one of at most 32 bits or float64 in a mosaic; convert it"
        )


def _check_no_palette(infos: Sequence[RasterInfo]) -> None:
    for info in infos:
        if info.has_palette:
            raise InputError(
                f"{info.path} holds numbers of a palette's colours, which may mean others in the next raster; wanted "
                "colours in a mosaic: gdal_translate -expand rgb in.tif out.tif"
            )


def _crs_name(grid: Grid) -> str:
    return grid.crs.to_string() if grid.crs is not None else "none"


def _together(infos: Sequence[RasterInfo]) -> list[Grid]:
    """The rasters' grids; where longitudes come round, those west of the widest gap moved once around to the east.

    What lies on both sides of 180° is one piece of ground then, and not as wide as the earth.
    """
    grids = [info.grid for info in infos]
    turn = turn_of(grids[0].crs)
    if turn is None:
        return grids
    west = np.array([grid.bounds[0] for grid in grids])
    east = np.array([grid.bounds[2] for grid in grids])
    order = np.argsort(west)
    gaps = west[order][1:] - np.maximum.accumulate(east[order])[:-1]
    if not len(gaps) or gaps.max() <= turn / 2:
        return grids
    beyond = np.zeros(len(grids), bool)
    beyond[order[: gaps.argmax() + 1]] = True
    return [
        replace(grid, transform=Affine.translation(turn, 0) * grid.transform) if moves else grid
        for grid, moves in zip(grids, beyond.tolist(), strict=True)
    ]


def _common_grid(grids: Sequence[Grid]) -> Grid:
    boxes = [grid.bounds for grid in grids]
    left, bottom = min(b[0] for b in boxes), min(b[1] for b in boxes)
    right, top = max(b[2] for b in boxes), max(b[3] for b in boxes)
    across = min(grid.transform.a for grid in grids)
    down = min(-grid.transform.e for grid in grids)
    return Grid(
        crs=grids[0].crs,
        transform=Affine(across, 0, left, 0, -down, top),
        height=_nearest((top - bottom) / down),
        width=_nearest((right - left) / across),
    )


def _nearest(pixels: float) -> int:
    return math.floor(pixels + 0.5 + _SAME_PLACE)


def _place(source: Grid, common: Grid) -> Box:
    """The source's box in pixels of the common grid."""
    left, bottom, right, top = source.bounds
    to_pixels = ~common.transform
    (x0, y0), (x1, y1) = to_pixels * (left, top), to_pixels * (right, bottom)
    return x0, y0, x1, y1


def _snapped(source: Grid, box: Box) -> Box | None:
    """The box moved to whole pixels, if the source has as many as it covers."""
    left, top, right, bottom = box
    if (round(right - left), round(bottom - top)) != (source.width, source.height):
        return None
    x, y = _nearest(left), _nearest(top)
    return x, y, x + source.width, y + source.height


def _imagery(
    infos: Sequence[RasterInfo], grid: Grid, nodata: float | None, *, is_scaled: bool
) -> Xml.Element:
    """A VRT on this grid with the rasters' bands of imagery, empty: all `nodata`, where there is one."""
    first = infos[0]
    wkt = grid.crs.to_wkt("WKT1_GDAL") if grid.crs is not None else None
    root = new_vrt(height=grid.height, width=grid.width, transform=grid.transform, wkt=wkt)
    alike = not is_scaled and all(info.scalings == first.scalings for info in infos)
    for name, scaling in zip(first.names, first.scalings, strict=True):
        dtype = SCALED_DTYPE if is_scaled else first.dtype
        add_band(root, dtype, name=name, nodata=nodata, scaling=scaling if alike else None)
    return root


def _source(facts: _Facts, nodata: float | None) -> str:
    """What GDAL opens for the raster: as bands 1, 2, … its imagery, their mask being what `Raster` calls measured."""
    info, name, flags = facts.info, facts.name, facts.flags
    alpha, shape = info.alpha, info.grid.shape
    has_mask = MaskFlags.per_dataset in flags[0] and MaskFlags.alpha not in flags[0]
    has_value = nodata is not None or any(MaskFlags.nodata in of_band for of_band in flags)
    if alpha is None and nodata is None and (len(flags) == 1 or not has_value):
        return name
    root = _copied(info, name)
    mask = add_mask(root)
    if nodata is not None:
        told = [(band, nodata) for band in range(1, len(info.bands) + 1)]
        add_declared(mask, as_text(_copied(info, name, nodata)), told, info.dtype, shape)
    elif has_value:
        # A value that all bands declare is alpha's too, and alpha may be what differs from it.
        beside = () if alpha is None or facts.differs else (alpha,)
        add_declared(
            mask, name, list(zip(info.bands, facts.declared, strict=True)), info.dtype, shape, beside
        )
    if has_mask:
        _fill(add_where_measured(mask, name, f"mask,{info.bands[0]}"), info)
    if alpha is not None:
        _fill(add_where_measured(mask, name, alpha), info)
    take_least(mask)
    return as_text(root)


def _kept(source: str, place: Path) -> str:
    """A file's name as it is; a VRT's text lies at `place`: GDAL lists what a VRT is made of, and text is no file."""
    if not source.startswith("<"):
        return source
    place.parent.mkdir(exist_ok=True)
    place.write_text(source, encoding="utf-8", newline="\n")
    return str(place.absolute())


def _copied(info: RasterInfo, name: str, nodata: float | None = None) -> Xml.Element:
    root = new_vrt(height=info.grid.height, width=info.grid.width)
    for band in info.bands:
        _fill(add_source(add_band(root, info.dtype, nodata=nodata), name, band), info)
    return root


def _fill(source: Xml.Element, info: RasterInfo, box: Box | None = None) -> None:
    """The source is shown in the box, by default where it lies itself."""
    height, width = info.grid.height, info.grid.width
    place_source(source, box or (0.0, 0.0, float(width), float(height)), height=height, width=width)


def _add_raster(
    root: Xml.Element, info: RasterInfo, name: str, box: Box, *, scaled: Sequence[bool] = ()
) -> None:
    """The raster's measured pixels lie on top of what `root` shows already; scaled: of each band whether it is here."""
    flags = scaled or (False,) * len(info.bands)
    bands = zip(root.findall("VRTRasterBand"), info.scalings, flags, strict=True)
    for number, (band, scaling, flag) in enumerate(bands, start=1):
        source = add_source(band, name, number, kind="ComplexSource")
        source.set("resampling", "bilinear")
        _fill(source, info, box)
        Xml.SubElement(source, "UseMaskBand").text = "true"
        if flag and not scaling.says_nothing:
            Xml.SubElement(source, "ScaleOffset").text = repr(scaling.offset)
            Xml.SubElement(source, "ScaleRatio").text = repr(scaling.scale)
    for mask in root.findall("MaskBand/VRTRasterBand"):
        source = add_where_measured(mask, name, "mask,1")
        source.set("resampling", "bilinear")
        _fill(source, info, box)
