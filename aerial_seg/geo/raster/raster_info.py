"""What a raster file says of itself, without its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.georeference import Place, Unplaced, place_of
from aerial_seg.geo.raster.same_grid import require_same_grid
from aerial_seg.geo.raster.values.scaling import Scaling, tagged_scalings
from aerial_seg.mentions import setting
from aerial_seg.printable import cleaned_name


def grid_of(dataset: DatasetReader) -> Grid:
    """The grid of an opened raster; its CRS is None when its pixels have no place in one."""
    return _grid(dataset, place_of(dataset))


def _grid(dataset: DatasetReader, place: Place) -> Grid:
    return Grid(crs=place.crs, transform=place.transform, height=dataset.height, width=dataset.width)


@dataclass(frozen=True, slots=True)
class RasterInfo:
    """What a raster file holds, without its pixels. `bands` are the 1-based numbers that are not `alpha`.

    alpha_of_file: the number of the file's own alpha band, also where it is none of the chosen ones. has_palette: its
    pixels are the numbers of colours, which lie in a table. files: that GDAL reads it from. scalings: what each band
    declares, nothing most often; empty where nobody can say, as of an array. tagged: what tags say of that besides.
    """

    path: str
    grid: Grid
    bands: tuple[int, ...]
    names: tuple[str, ...]
    dtype: str
    nodata: float | None
    unplaced: Unplaced | None = None
    alpha: int | None = None
    alpha_of_file: int | None = None
    has_palette: bool = False
    files: tuple[str, ...] = ()
    scalings: tuple[Scaling, ...] = ()
    tagged: tuple[str, ...] = ()

    @classmethod
    def of(cls, dataset: DatasetReader, path: Path | str) -> RasterInfo:
        """The facts of an opened raster. Raises InputError for complex numbers."""
        # rasterio asks GDAL for all bands at every look at one of these: once, or thousands of bands take minutes.
        meanings, kinds = dataset.colorinterp, dataset.dtypes
        descriptions = [cleaned_name(name or "") for name in dataset.descriptions]
        bands = tuple(b for b, meaning in enumerate(meanings, start=1) if meaning != ColorInterp.alpha)
        if not bands:
            raise InputError(f"{path} holds only an alpha band; wanted at least one band of imagery")
        dtypes = [kinds[b - 1] for b in bands]
        # By name: numpy does not know GDAL's complex_int16.
        if any(dtype.startswith("complex") for dtype in dtypes):
            raise InputError(
                f"{path} holds complex numbers ({dtypes[0]}); wanted integers or floats: convert it first"
            )
        dtype = str(np.result_type(*dict.fromkeys(dtypes)))
        names = tuple(descriptions[b - 1] or meanings[b - 1].name for b in bands)
        if len(set(names)) < len(names):
            names = tuple(descriptions[b - 1] or f"band {b}" for b in bands)
        place = place_of(dataset)
        alpha = meanings.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in meanings else None
        return cls(
            path=str(path),
            grid=_grid(dataset, place),
            bands=bands,
            names=names,
            dtype=dtype,
            nodata=dataset.nodata,
            unplaced=place.unplaced,
            alpha=alpha,
            alpha_of_file=alpha,
            has_palette=ColorInterp.palette in meanings,
            files=tuple(dataset.files),
            scalings=(scalings := scalings_of(dataset, bands)),
            tagged=_tagged(dataset, bands, scalings),
        )


def scalings_of(dataset: DatasetReader, bands: Sequence[int]) -> tuple[Scaling, ...]:
    """Scale and offset that these bands of an opened raster declare, 1 and 0 without."""
    scales, offsets = dataset.scales, dataset.offsets  # rasterio asks GDAL for all bands
    return tuple(Scaling(float(scales[band - 1]), float(offsets[band - 1])) for band in bands)


def _tagged(dataset: DatasetReader, bands: Sequence[int], scalings: Sequence[Scaling]) -> tuple[str, ...]:
    """The tags that tell scale and offset of bands that declare none."""
    silent = [band for band, own in zip(bands, scalings, strict=True) if own.says_nothing]
    if not silent:
        return ()
    told = (tagged_scalings(dataset.tags(band)) for band in (0, *silent))
    return tuple(dict.fromkeys(tag for tags in told for tag in tags))


def require_crs(info: RasterInfo) -> None:
    """Raises InputError, telling the remedies, unless the raster is georeferenced."""
    if info.unplaced is not None:
        raise InputError(
            f"{info.path} {info.unplaced.got}, wanted a georeferenced raster; {info.unplaced.remedy}, "
            f"or pass {setting('georeferenced', False)} to work in pixel coordinates"
        )


def require_value(info: RasterInfo, nodata: float) -> None:
    """Raises InputError for a `nodata` that no pixel of the raster can have."""
    dtype = np.dtype(info.dtype)
    if dtype.kind == "f":
        return
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if not (low <= nodata <= high and nodata == int(nodata)):
        raise InputError(
            f"{setting('nodata', nodata)} cannot occur in {info.path}, whose pixels are {info.dtype}; "
            f"wanted a whole number {low}..{high}, or leave it out"
        )


def stacked_info(infos: Sequence[RasterInfo], counts: Sequence[int], order: Sequence[int]) -> RasterInfo:
    """The facts of files read as one, numbered on over their counts. Raises InputError when their grids differ."""
    first, *others = infos
    if not others:
        return first
    for other in others:
        require_same_grid(other.grid, first.grid, got_name=other.path, wanted_name=first.path)
    names = [name for info in infos for name in info.names]
    scalings = [one for info in infos for one in info.scalings]
    names = [names[k] for k in order] if order else names
    scalings = [scalings[k] for k in order] if order else scalings
    bands = [sum(counts[:k]) + band for k, info in enumerate(infos) for band in info.bands]
    if len(set(names)) < len(names):
        names = [f"band {k}" for k in range(1, len(names) + 1)]
    return replace(
        first,
        bands=tuple(bands),
        names=tuple(names),
        dtype=str(np.result_type(*(info.dtype for info in infos))),
        files=tuple(file for info in infos for file in info.files),
        scalings=tuple(scalings),
        tagged=tuple(dict.fromkeys(tag for info in infos for tag in info.tagged)),
    )
