"""How `tile` is asked to cut and to split."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from aerial_seg.choices import Georeferenced, Nodata, Overwrite, Scale
from aerial_seg.geo.raster.band_choice import ALL_BANDS, Bands
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.settings import MOST_PIXELS, Setting, settings

if TYPE_CHECKING:
    from aerial_seg.jobs.tile.splits import Share


def _as_text(value: Any) -> Any:
    """A fraction is taken as a number too."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value


def _check_share(setting_name: str, text: str) -> None:
    from aerial_seg.jobs.tile.splits import parse_share

    parse_share(text, setting_name=setting_name)


@settings
@dataclass(frozen=True, slots=True)
class TileSettings:
    """Say how to cut rasters and labels into chips, and how to split these."""

    labels: Annotated[LabelSettings, Setting("How labels are read.")] = field(default_factory=LabelSettings)
    mosaic: Annotated[
        bool,
        Setting(
            "Cut all rasters as one, so that chips reach across their edges; later ones lie on top, as in predict."
        ),
    ] = False
    map_tiles: Annotated[
        Literal["auto", "slippy", "tms", "off"],
        Setting(
            "How rasters without CRS that are named z/x/y, z-x-y or x-y-z count their rows: slippy from the north, tms "
            "from the south; auto: as the labels lie; off: their names say nothing."
        ),
    ] = "auto"
    gsd: Annotated[
        float | None,
        Setting(
            "Resample to M metres per pixel; without it the rasters keep their own.",
            low=1e-9,
            high=1e6,
            metavar="M",
        ),
    ] = None
    chip_size: Annotated[
        int, Setting("Side of a chip.", low=1, high=MOST_PIXELS, mistyped_below=16, metavar="PX")
    ] = 512
    split_by: Annotated[
        Literal["block", "source"],
        Setting(
            "What is never divided between training, validation and test: squares of chips, or whole rasters."
        ),
    ] = "block"
    block: Annotated[
        int | None,
        Setting(
            "Side of a split block. Default: 2, or 1 where validation or test ground would be fewer than 4 blocks.",
            low=1,
            high=MOST_PIXELS,
            metavar="CHIPS",
        ),
    ] = None
    val: Annotated[
        str,
        Setting(
            "Validation chips: a fraction, or the sources whose file name matches.",
            wanted="a fraction from 0 to below 1, or a glob on file names",
            read=_as_text,
            check=partial(_check_share, "val"),
            metavar="FRACTION|GLOB",
        ),
    ] = "0.15"
    test: Annotated[
        str,
        Setting(
            "Test chips, likewise.",
            wanted="a fraction from 0 to below 1, or a glob on file names",
            read=_as_text,
            check=partial(_check_share, "test"),
            metavar="FRACTION|GLOB",
        ),
    ] = "0.15"
    seed: Annotated[int, Setting("Seed of the split.", low=0, high=2**63 - 1)] = 0
    bands: Bands = ALL_BANDS
    nodata: Nodata = None
    scale: Scale = "auto"
    georeferenced: Georeferenced = True
    overwrite: Overwrite = False

    def shares(self) -> dict[str, Share]:
        """What goes into `val` and `test`."""
        from aerial_seg.jobs.tile.splits import parse_share

        return {
            "val": parse_share(self.val, setting_name="val"),
            "test": parse_share(self.test, setting_name="test"),
        }
