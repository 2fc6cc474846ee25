"""Rasters inside a file as GDAL names them: `NETCDF:"file.nc":var`, `GPKG:file.gpkg:table`, `GTIFF_DIR:2:file.tif`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aerial_seg.files import operating_system
from aerial_seg.files.names import as_typed

_PREFIXES = frozenset((
    "NETCDF", "HDF5", "BAG", "S102", "S104", "S111", "GPKG", "GTIFF_DIR", "HDF4_SDS", "HDF4_EOS", "NITF_IM",
    "NITF_TOC_ENTRY", "ECRG_TOC_ENTRY", "PDF", "PDS4", "DIMAP", "ADRG", "RASTERLITE", "DERIVED_SUBDATASET",
    "SENTINEL2_L1B", "SENTINEL2_L1B_WITH_GEOLOC", "SENTINEL2_L1C", "SENTINEL2_L1C_TILE", "SENTINEL2_L2A",
))  # fmt: skip
"""Of GDAL's drivers that read a file of this machine."""

_START = re.compile(r"([A-Za-z][A-Za-z0-9_]+):(.+)", re.DOTALL)
_QUOTED = re.compile(r'"([^"]+)"')
_ROOTED = ("HDF5", "BAG", "S102", "S104", "S111")
"""What is in a file is called `//group/name`; a Path has lost one of these slashes."""


@dataclass(frozen=True, slots=True)
class Subdataset:
    """text: what GDAL is told. file: as it stands there. before, after: all else that names the raster in the file."""

    text: str
    prefix: str
    before: str
    file: str
    after: str

    @property
    def name(self) -> str:
        """For tags and messages to others: the file without its folders, and what is in it: `file.nc:var`."""
        return f"{Path(self.file).name}:{self.inside}"

    @property
    def inside(self) -> str:
        """What tells it from other rasters of the file."""
        return ":".join(part for part in (_bare(self.before), _bare(self.after)) if part)

    @property
    def stem(self) -> str:
        """What results made of it are called: `file_var`."""
        inside = re.sub(r"[^\w.-]+", "_", self.inside).strip("_")
        return f"{Path(self.file).stem}_{inside}"

    def absolute(self) -> str:
        """The same wherever it is opened from."""
        return f"{self.prefix}:{self.before}{Path(self.file).absolute()}{self.after}"


def find_subdataset(path: Path | str) -> Subdataset | None:
    """The raster inside a file that the text names; None for any other text, also where a file has that very name.

    Whether the file is there is not looked at, but where the text can be cut in several ways, the file that is there
    counts.
    """
    text = as_typed(path)
    found = _START.fullmatch(text)
    if found is None or found[1].upper() not in _PREFIXES or os.path.lexists(text):
        return None
    prefix, rest = found[1].upper(), found[2]
    before, file, after = _cut(rest, first=prefix not in ("GTIFF_DIR", "NITF_IM", "DERIVED_SUBDATASET"))
    file = as_typed(file)
    if prefix in _ROOTED:
        after = after.replace("\\", "/") if operating_system.WINDOWS else after
        after = re.sub(r'^("?:)/(?!/)', r"\1//", after)
    return Subdataset(f"{found[1]}:{before}{file}{after}", found[1], before, file, after)


def _cut(rest: str, *, first: bool) -> tuple[str, str, str]:
    """What stands before the file, the file, and what stands after it.

    first: where no file is there, the file is what comes first, else what comes last.
    """
    quoted = _QUOTED.search(rest)
    if quoted is not None:
        return rest[: quoted.start(1)], quoted[1], rest[quoted.end(1) :]
    for before, file, after in _slices(rest):
        if file.startswith("/vsi") or os.path.isfile(file):  # noqa: PTH113
            return before, file, after
    if first:
        drive, rest = _drive(rest)
        file, mark, after = rest.partition(":")
        return "", drive + file, mark + after
    before, mark, file = rest.rpartition(":")
    if operating_system.WINDOWS and len(before.rpartition(":")[2]) == 1:  # the colon of a drive
        before, mark, drive = before.rpartition(":")
        file = f"{drive}:{file}"
    return before + mark, file, ""


def _drive(text: str) -> tuple[str, str]:
    """`C:` and what follows it, on Windows."""
    cut = 2 if operating_system.WINDOWS and text[1:2] == ":" else 0
    return text[:cut], text[cut:]


def _slices(rest: str) -> Iterator[tuple[str, str, str]]:
    """All ways to cut a file out between colons (commas end it, too), longest first."""
    ends = [match.start() for match in re.finditer(r"[:,]", rest)] + [len(rest)]
    starts = [0] + [match.end() for match in re.finditer(":", rest)]
    cuts = [(start, end) for start in starts for end in ends if start < end]
    for start, end in sorted(cuts, key=lambda cut: cut[0] - cut[1]):
        yield rest[:start], rest[start:end], rest[end:]


def _bare(text: str) -> str:
    return text.strip('":,/')
