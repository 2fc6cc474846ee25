"""Whether a model and a raster fit together, and at which pixel size the network sees the raster."""

from __future__ import annotations

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.band_choice import ALL_BANDS, BandChoice
from aerial_seg.geo.raster.raster_info import RasterInfo, require_crs
from aerial_seg.inference.match_bands import check_bands
from aerial_seg.mentions import setting
from aerial_seg.models.file import ModelCard

GSD_TOLERANCE = 0.1
"""A raster's GSD may differ this much from the model's before it is resampled."""
ANISOTROPY_TOLERANCE = 0.05
"""A pixel may be this much longer on one axis than on the other before both are resampled to the model's GSD."""
GSD_LIMIT = 4.0
"""Beyond this factor the objects no longer look like those the model learnt."""


def check_compatible(
    info: RasterInfo,
    card: ModelCard,
    *,
    georeferenced: bool,
    choice: BandChoice = ALL_BANDS,
    scale: str = "auto",
) -> None:
    """Raise InputError unless the model can run on this raster: georeference, bands, dtype, scale and offset."""
    if georeferenced:
        require_crs(info)
    check_bands(info, card.bands, choice, scale=scale)


def is_square(gsd: tuple[float, float]) -> bool:
    """Tell whether a pixel is as long on one axis as on the other, within 5 %."""
    return max(gsd) / min(gsd) - 1 <= ANISOTROPY_TOLERANCE


def gsd_of(grid: Grid, name: str, *, georeferenced: bool = True) -> tuple[float, float] | None:
    """Return metres per pixel (down, across); None without CRS, and not `georeferenced` where they cannot be told.

    Raises InputError, naming the raster, where pixels have no size on the ground.
    """
    try:
        return grid.gsd()
    except InputError as error:
        if not georeferenced:
            return None
        raise InputError(
            f"{name}: {error}, or pass {setting('georeferenced', False)} to work on its own pixels"
        ) from error


def choose_run_grid(
    grid: Grid, model_gsd: float | None, force: bool, name: str, *, georeferenced: bool = True
) -> Grid:
    """Choose the grid that the network sees: the raster's own, or the same ground at the model's GSD on each axis.

    Its own where no axis is more than 10 % off and the pixels are square within 5 %: degrees hardly ever are. Raises
    InputError beyond a factor of 4 unless forced, and where pixels have no size on the ground: not `georeferenced`
    they are taken as they are.
    """
    gsd = gsd_of(grid, name, georeferenced=georeferenced)
    if gsd is None or model_gsd is None:
        return grid
    ratios = [metres / model_gsd for metres in gsd]
    if is_square(gsd) and all(abs(ratio - 1) <= GSD_TOLERANCE for ratio in ratios):
        return grid
    factor = max(max(ratio, 1 / ratio) for ratio in ratios)
    if factor > GSD_LIMIT and not force:
        raise InputError(
            f"{name} has a GSD of {gsd[1]:.3g} m, but the model was trained at {model_gsd:.3g} m, {factor:.1f} times "
            f"apart; use imagery of a similar GSD, or pass {setting('force_gsd', True)} to resample all the same"
        )
    return grid.at_gsd(model_gsd)
