"""The files that a VRT is made of, looked for before anything is read from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from aerial_seg.errors import InputError

_LISTED = 5


def require_members(path: Path) -> None:
    """Raises InputError that lists the missing files of a VRT on this machine; other rasters have none.

    GDAL opens such a VRT and fails where the hole is read, hours later; at a pipe it waits for ever.
    """
    try:
        missing = list(dict.fromkeys(_missing(path, set())))
    except OSError as error:
        raise InputError(
            f"the files of {path} cannot be looked for ({error.strerror or error}); check their names and permissions"
        ) from error
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise InputError(
            f"{path} is a VRT of files that are not there: {', '.join(missing[:_LISTED])}{more}; copy them beside it, "
            "or make the VRT again from the files that you have"
        )


def _missing(path: Path, seen: set[Path]) -> Iterator[str]:
    """Each file is looked into once, whoever names it."""
    if path.suffix.lower() != ".vrt" or not path.is_file() or path.resolve() in seen:
        return
    seen.add(path.resolve())
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (ElementTree.ParseError, ValueError, LookupError):  # the last two: an encoding that is none
        return  # GDAL says what is wrong with it
    for tag in ("SourceFilename", "SourceDataset"):
        for source in root.iter(tag):
            name = (source.text or "").strip()
            # Subdatasets, servers and GDAL's virtual files are not ours to look for.
            if not name or ":" in name[2:] or name.startswith(("/vsi", "<")):
                continue
            is_relative = source.get("relativeToVRT", source.get("relativetoVRT", "0")) == "1"
            member = path.parent / name if is_relative else Path(name)
            if not member.is_file() and not member.is_dir():
                yield str(member)
            else:
                yield from _missing(member, seen)
