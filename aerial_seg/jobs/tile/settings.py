"""How `tile` is asked to cut and to split."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from aerial_seg.choices import Georeferenced, MapTiles, Nodata, Overwrite, Scale, check_map_tiles
from aerial_seg.errors import SettingsError
from aerial_seg.geo.raster.band_choice import ALL_BANDS, Bands
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.mentions import setting
from aerial_seg.settings import MOST_PIXELS, Setting, settings

if TYPE_CHECKING:
    from aerial_seg.jobs.tile.shares import Share


_USUAL = "0.15"
"""Of the chips for validation, and for test."""


def _as_text(value: Any) -> Any:
    """A fraction is taken as a number too."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value


def _check_share(setting_name: str, text: str) -> None:
    from aerial_seg.jobs.tile.shares import parse_share

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
    map_tiles: MapTiles = "auto"
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
    stride: Annotated[
        int | None,
        Setting(
            "Pixels from one training chip to the next; below the chip's side they overlap, each other only. Default: "
            "the chip's side.",
            low=1,
            high=MOST_PIXELS,
            metavar="PX",
        ),
    ] = None
    min_valid: Annotated[
        float,
        Setting(
            "Leave out chips of whose pixels a smaller share is measured.", low=0, high=1, metavar="SHARE"
        ),
    ] = 0.0
    min_labelled: Annotated[
        float,
        Setting(
            "Leave out chips of whose pixels a smaller share is labelled.", low=0, high=1, metavar="SHARE"
        ),
    ] = 0.0
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
    split_layer: Annotated[
        str | None,
        Setting(
            "Polygons whose field 'split' says train, val or test. A file, or a layer of the labels' file. A labelled "
            "area with such a field is one by itself.",
            metavar="LAYER",
        ),
    ] = None
    split_field: Annotated[
        str | None,
        Setting(
            "Field of the split layer, or without one of the label polygons: train, val, test, or names of groups that "
            "are never divided.",
            metavar="FIELD",
        ),
    ] = None
    folds: Annotated[
        int | None,
        Setting(
            "Divide what is not test ground into K folds, one of them for validation.",
            low=2,
            high=1000,
            metavar="K",
        ),
    ] = None
    fold: Annotated[
        int | None,
        Setting("The fold that is for validation, from 1 to K.", low=1, high=1000, metavar="I"),
    ] = None
    val: Annotated[
        str,
        Setting(
            "Validation chips: a fraction of those that no name, area or fold decides, or the sources (or groups) "
            "whose name matches.",
            wanted="a fraction from 0 to below 1, or a glob on file names",
            read=_as_text,
            check=partial(_check_share, "val"),
            metavar="FRACTION|GLOB",
        ),
    ] = _USUAL
    test: Annotated[
        str,
        Setting(
            "Test chips, likewise.",
            wanted="a fraction from 0 to below 1, or a glob on file names",
            read=_as_text,
            check=partial(_check_share, "test"),
            metavar="FRACTION|GLOB",
        ),
    ] = _USUAL
    seed: Annotated[int, Setting("Seed of the split.", low=0, high=2**63 - 1)] = 0
    bands: Bands = ALL_BANDS
    nodata: Nodata = None
    scale: Scale = "auto"
    georeferenced: Georeferenced = True
    index_only: Annotated[
        bool,
        Setting(
            "Write no images, only labels and index: training reads windows of the rasters, the same to the bit."
        ),
    ] = False
    layout: Annotated[
        Literal["chips", "folders", "coco"],
        Setting(
            "Lay the chips out for other programs besides: folders {train,val,test}/{images,labels}, or COCO polygons."
        ),
    ] = "chips"
    append: Annotated[
        bool,
        Setting(
            "Add the chips to the dataset that is there, of equal chips, bands and classes; the split of none of its "
            "own changes."
        ),
    ] = False
    overwrite: Overwrite = False

    def check_together(self) -> None:
        """Raises SettingsError for settings that contradict each other."""
        if self.append and self.overwrite:
            raise SettingsError(
                f"{setting('append', True)} adds to a dataset that {setting('overwrite', True)} replaces; leave one of "
                "them out"
            )
        if self.append and self.folds is not None:
            raise SettingsError(
                f"{setting('append', True)} cannot divide ground into {setting('folds')}: a dataset does not tell the "
                "folds of the chips that it holds; leave it out, or cut all rasters at once"
            )
        if self.stride is not None and self.stride > self.chip_size:
            raise SettingsError(
                f"{setting('stride', self.stride)} would leave ground between chips of {self.chip_size} px out; wanted "
                f"at most the chip's side"
            )
        if (self.folds is None) != (self.fold is None):
            there, absent = ("folds", "fold") if self.fold is None else ("fold", "folds")
            raise SettingsError(
                f"{setting(there)} needs {setting(absent)}, too: fold 1 of 5, fold 2 of 5 and so on"
            )
        if self.folds is not None and self.fold is not None:
            if self.fold > self.folds:
                raise SettingsError(
                    f"{setting('fold', self.fold)} is none of the {self.folds} folds, wanted 1 to {self.folds}"
                )
            if self.val != _USUAL:
                raise SettingsError(
                    f"{setting('val', self.val)} and {setting('fold', self.fold)} both say what is for validation; "
                    "leave one of them out"
                )
        if (self.split_field or self.split_layer) and self.split_by != "block":
            raise SettingsError(
                f"{setting('split_by', self.split_by)} and "
                f"{setting('split_layer' if self.split_layer else 'split_field')} both say what is never divided; "
                "leave one of them out"
            )

        if self.block is not None and self.split_by == "source":
            raise SettingsError(
                f"{setting('block', self.block)} cannot apply where {setting('split_by', 'source')} keeps rasters "
                "whole; leave one of them out"
            )
        check_map_tiles(self.map_tiles, georeferenced=self.georeferenced)

    def shares(self) -> dict[str, Share]:
        """What goes into `val` and `test`."""
        from aerial_seg.jobs.tile.shares import parse_share

        return {
            "val": parse_share(self.val, setting_name="val"),
            "test": parse_share(self.test, setting_name="test"),
        }
