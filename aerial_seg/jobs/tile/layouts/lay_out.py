"""Which layouts there are, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

from aerial_seg.errors import SettingsError
from aerial_seg.jobs.tile.layouts.coco import FOLDER, write_coco
from aerial_seg.jobs.tile.layouts.folders import write_folders
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.mentions import setting
from aerial_seg.training.manifest import open_manifest


def check_layout(settings: TileSettings) -> None:
    """Raises SettingsError for a layout of images that are not to be written."""
    if settings.layout != "chips" and settings.index_only:
        raise SettingsError(
            f"{setting('layout', settings.layout)} lays image chips out, but {setting('index_only', True)} writes "
            "none; leave one of them out"
        )


def layout_of(root: Path) -> str:
    """The layout that the dataset in `root` has besides its own."""
    if (root / FOLDER).is_dir():
        return "coco"
    return "folders" if (root / "train" / "images").is_dir() else "chips"


def lay_out(work: Path, layout: str) -> tuple[str, ...]:
    """The dataset in `work`, whole already, holds this layout besides; notes."""
    if layout == "folders":
        return write_folders(open_manifest(work))
    if layout == "coco":
        return write_coco(open_manifest(work))
    return ()
