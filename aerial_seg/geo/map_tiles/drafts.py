"""What `tile` opens in place of rasters lies in a temporary folder, gone when anybody reads of it: they are named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from aerial_seg.documents import listed
from aerial_seg.errors import AerialSegError

MOSAIC = "mosaic.vrt"


def drafts_of(names: Sequence[str], opened_as: Sequence[Path], folder: Path) -> dict[str, str]:
    """What messages call each VRT that may lie in `folder`: of these rasters, and of the mosaic of them."""
    called = {str(path): name for path, name in zip(opened_as, names, strict=True) if folder in path.parents}
    mosaic = folder / MOSAIC
    parts = {str(folder / f"{mosaic.stem}-{k}" / MOSAIC): name for k, name in enumerate(names)}
    whole = f"the mosaic of {len(names)} rasters ({listed(names, most=3)})"
    return {**called, **parts, str(mosaic): whole}


def as_told(text: str, drafts: Mapping[str, str]) -> str:
    """The message with the rasters' own names."""
    for path, name in drafts.items():
        text = text.replace(path, name)
    return text


@contextmanager
def telling_rasters(drafts: Mapping[str, str]) -> Iterator[None]:
    """An error of the block that a user can mend names rasters, see drafts_of."""
    try:
        yield
    except AerialSegError as error:
        error.args = (as_told(str(error), drafts),)
        raise
