"""Whether a model and a raster fit together, and at which pixel size the network sees the raster."""

from __future__ import annotations

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster import RasterInfo, require_crs
from aerial_seg.models.file import ModelCard

GSD_TOLERANCE = 0.1
"""A raster's GSD may differ this much from the model's before it is resampled."""
GSD_LIMIT = 4.0
"""Beyond this factor the objects no longer look like those the model learnt."""


def check_fit(info: RasterInfo, card: ModelCard, *, georeferenced: bool) -> None:
    """Raises InputError unless the model can run on this raster: georeference, bands, dtype."""
    if georeferenced:
        require_crs(info)
    model = ", ".join(f"{band.name} {band.dtype}" for band in card.bands)
    raster = ", ".join(f"{band} {info.dtype}" for band in info.names)
    if len(info.bands) != len(card.bands):
        raise InputError(
            f"{info.path} has {len(info.bands)} bands ({raster}), but the model was trained on "
            f"{len(card.bands)} ({model}); pick the same bands (gdal_translate -b …) or train a model on these"
        )
    if info.dtype != card.bands[0].dtype:
        raise InputError(
            f"{info.path} holds {info.dtype}, but the model was trained on {card.bands[0].dtype} ({model}); "
            "convert the raster to the same units (gdal_translate -ot … -scale …) or train a model on these"
        )


def choose_run_grid(grid: Grid, model_gsd: float | None, force: bool, name: str) -> Grid:
    """The grid the network sees: the raster's own within 10 % of the model's GSD, else the same ground at it.

    Raises InputError beyond a factor of 4 unless forced.
    """
    gsd = grid.gsd()
    if gsd is None or model_gsd is None:
        return grid
    ratios = [metres / model_gsd for metres in gsd]
    if all(abs(ratio - 1) <= GSD_TOLERANCE for ratio in ratios):
        return grid
    factor = max(max(ratio, 1 / ratio) for ratio in ratios)
    if factor > GSD_LIMIT and not force:
        raise InputError(
            f"{name} has a GSD of {gsd[1]:.3g} m, but the model was trained at {model_gsd:.3g} m, {factor:.1f} times "
            "apart; use imagery of a similar GSD, or pass --force-gsd to resample all the same"
        )
    return grid.at_gsd(model_gsd)
