"""When imagery was taken: what the user says, else what its files tell, and never without saying which of them did."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aerial_seg.errors import SettingsError
from aerial_seg.files.subdatasets import find_subdataset
from aerial_seg.geo.raster.remote import is_remote, last_modified, public_name
from aerial_seg.mentions import setting

_TAGS: Mapping[str, str] = {
    "ACQUISITIONDATETIME": "",
    "NITF_IDATIM": "",
    "EXIF_DateTimeOriginal": "",
    "TIFFTAG_DATETIME": ", which may be when the file was made",
}
"""Tags that tell a time, the most trustworthy first, and what has to be said of them."""
_IN_UTC = ("ACQUISITIONDATETIME", "NITF_IDATIM")
"""Tags whose times are in UTC by their own rules where they name no zone."""
_FORMS = (
    "%Y-%m-%dT%H:%M:%S%z",
    "%Y-%m-%dT%H:%M:%S.%f%z",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M:%S.%f",
    "%Y:%m:%d %H:%M:%S",
    "%Y:%m:%d %H:%M:%S%z",
    "%Y%m%d%H%M%S",
)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class Taken:
    """When imagery was taken: from `first` to `last`, in UTC; both None where nothing tells. source: who says so."""

    first: datetime | None
    last: datetime | None
    source: str

    @classmethod
    def at(cls, moment: datetime, source: str) -> Taken:
        """One moment."""
        return cls(moment.astimezone(UTC), moment.astimezone(UTC), source)


def parse_taken(text: str) -> Taken:
    """What the setting `taken` says: one time, or the first and the last with a slash between, as RFC 3339 writes them.

    Raises SettingsError for anything else, a time without a zone, and a first that comes after the last.
    """
    parts = text.split("/")
    moments = [_instant(part.strip(), text) for part in parts]
    if len(moments) > 2:
        raise SettingsError(f"{setting('taken', text)} names {len(moments)} times, wanted one or FIRST/LAST")
    first, last = moments[0], moments[-1]
    if first > last:
        raise SettingsError(f"{setting('taken', text)} ends before it begins; give the earlier time first")
    return Taken(first, last, "the setting taken")


def time_taken(raster: Path | str, tags: Mapping[str, str]) -> Taken:
    """When the raster was taken, as its tags tell (UTC where they name no zone); else when its file was written.

    tags: those of Raster.tags. Of a raster on a web server the server tells when the file was written.
    """
    name, odd = public_name(raster), []
    for tag in (tag for tag in _TAGS if tag in tags):
        found = _as_time(tags[tag])
        if found is None:
            odd.append(f"its {tag} '{tags[tag].strip()[:40]}' is no time")
            continue
        zone = "" if found.tzinfo or tag in _IN_UTC else ", taken as UTC"
        return Taken.at(
            found if found.tzinfo else found.replace(tzinfo=UTC), f"{tag} of {name}{_TAGS[tag]}{zone}"
        )
    why = f" ({'; '.join(odd)})" if odd else ""
    inner = find_subdataset(raster)
    path = Path(raster if inner is None else inner.file)
    if path.is_file():
        written = datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
        return Taken.at(written, f"when the file {name} was written, for want of anything better{why}")
    changed = last_modified(path) if is_remote(path) else None
    if changed is not None:
        return Taken.at(changed, f"when {name} changed on its server, for want of anything better{why}")
    return Taken(None, None, f"unknown: nothing tells when {name} was taken{why}")


def time_of_all(rasters: Sequence[tuple[Path | str, Mapping[str, str]]]) -> Taken:
    """From the earliest to the latest of several, each with its tags; unknown where one of them is."""
    each = [time_taken(raster, tags) for raster, tags in rasters]
    unknown = next((one for one in each if one.first is None), None)
    if unknown is not None or len(each) == 1:
        return unknown or each[0]
    first = min((one for one in each if one.first is not None), key=lambda one: (one.first, one.source))
    last = max((one for one in each if one.last is not None), key=lambda one: (one.last, one.source))
    if first.first == last.last:
        return first
    return Taken(first.first, last.last, f"{first.source}, to {last.source}")


def _as_time(text: str) -> datetime | None:
    for form in _FORMS:
        try:
            return datetime.strptime(text.strip(), form)
        except ValueError:
            continue
    return None


def _instant(text: str, whole: str) -> datetime:
    wanted = (
        "wanted 2024-05-03T10:00:00Z or 2024-05-03T00:00:00Z/2024-05-04T00:00:00Z (RFC 3339, with a zone)"
    )
    if _INSTANT.fullmatch(text.upper()) is None:
        raise SettingsError(f"{setting('taken', whole)}: '{text}' is no time; {wanted}")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise SettingsError(f"{setting('taken', whole)}: '{text}' is no time ({error}); {wanted}") from error
