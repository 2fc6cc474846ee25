"""How `tile` is asked to cut and to split."""

from __future__ import annotations

from dataclasses import dataclass, field

from aerial_seg.geo.labels.settings import LabelSettings
from aerial_seg.geo.raster.band_choice import ALL_BANDS, BandChoice
from aerial_seg.jobs.tile.splits import Share, parse_share


@dataclass(frozen=True, slots=True)
class TileSettings:
    """Say how to cut rasters into chips.

    chip_size: pixels of a chip's side. gsd: metres per pixel to resample to; None keeps the rasters' own.
    split_by: `block` (squares of `block` × `block` chips) or `source` (whole rasters). val, test: a fraction, or a
    glob on source file names. nodata: a value that means "not measured" in rasters that do not say so. bands: which
    are read, what they are called, and what is stacked on the raster.
    """

    labels: LabelSettings = field(default_factory=LabelSettings)
    chip_size: int = 512
    gsd: float | None = None
    split_by: str = "block"
    block: int = 2
    val: str = "0.15"
    test: str = "0.15"
    seed: int = 0
    nodata: float | None = None
    bands: BandChoice = ALL_BANDS
    georeferenced: bool = True
    overwrite: bool = False

    def shares(self) -> dict[str, Share]:
        """What goes into `val` and `test`. Raises SettingsError for a fraction that is none."""
        return {"val": parse_share(self.val, "--val"), "test": parse_share(self.test, "--test")}
