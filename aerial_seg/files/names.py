"""The one door for names: what a library must be told to open exactly this file, or why it cannot be used.

Libraries take some names for more than names: GDAL reads `NETCDF:x` and `<VRTDataset…` as orders, rasterio reads
`zip:x` as an address, pyogrio looks for what follows the last `!` in an archive and drops what follows a `;`. A name
that goes through here means the file of that name, whatever it is, or ends in one line before anything runs.
"""

from __future__ import annotations

import errno
import ntpath
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aerial_seg.errors import AerialSegError, InputError, OutputError
from aerial_seg.files import operating_system
from aerial_seg.printable import written_out

ROOM = 40
"""Bytes kept free at the end of an output's name, for what is derived from it: OUT_probabilities.tif.partial, say."""

_LONGEST_NAME, _LONGEST_PATH = 255, 4095
"""Bytes, where the system does not say."""
_LONGEST_OUTPUT = 1700
"""Bytes of an output's path: GDAL joins the files of a VRT in 2,048 bytes, and work folders lie below the output."""

_LAYER = "|layername="
"""How QGIS writes a layer of a file with several."""
_ORDER = "<VRTDataset"
"""GDAL takes a name that holds this for the XML of a VRT, wherever in the name it stands."""
_PLAIN = re.compile(r"[\w.\-][^:]*")
"""Relative names that nothing takes for anything else."""
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_HALF_ROOTED = re.compile(r"[A-Za-z]:(?![\\/])")
"""`C:a.tif`, the file in the folder that the drive C is at: GDAL takes it, Python's own joining does not."""
_TURNED = re.compile(r"\\vsi\w+\\|(/vsicurl/)?(https?|s3|gs|az):[\\/]", re.IGNORECASE)
"""How what has slashes on every system begins when a Path of Windows has turned them around."""
_PARSED_ON_WINDOWS = re.compile(r"[!;#]")
_ADDRESS = re.compile(r"(https?|s3|gs|az):([\\/]+)(.*)", re.IGNORECASE | re.DOTALL)
_MARKS = re.compile(r"[!;?#\\\x00-\x1f\x7f]")
"""Letters that pyogrio, or GDAL beneath it, may parse wherever in a name they stand."""
_OGR_ARCHIVES = (".gpkg.zip", ".shp.zip")
"""Archives that GDAL opens by itself."""


def exact(path: Path | str) -> str:
    """The file of this machine as rasterio and GDAL must be told it: they parse no name that begins with / or ./.

    What GDAL reads through its virtual file systems (/vsi…) stays as it is.
    """
    text = as_typed(path)
    if operating_system.WINDOWS:
        return _exact_on_windows(text)
    if text.startswith("//"):
        return "/" + text.lstrip("/")  # one and the same folder here, a host for who parses addresses
    if text.startswith("/") or _PLAIN.fullmatch(text):
        return text
    return "./" + text.removeprefix("./")


def _exact_on_windows(text: str) -> str:
    r"""As `exact`: with a drive (C:\) or a server (\\server\share) a name is whole, and none holds another colon."""
    if text.startswith(("/", "\\")) or _DRIVE.match(text) or _PLAIN.fullmatch(text):
        return text
    if _HALF_ROOTED.match(text):
        return ntpath.abspath(text)
    return "./" + text.removeprefix("./").removeprefix(".\\")


def as_typed(path: Path | str) -> str:
    """The name with the slashes that an address or a name of GDAL's has: a Path of Windows has turned them around."""
    text = str(path)
    if operating_system.WINDOWS and _TURNED.match(text):
        return text.replace("\\", "/")
    return text


class OgrName:
    """A name that pyogrio and geopandas hand on to GDAL for reading without parsing it.

    They parse texts and Paths, but take what a file-like object reads as it is. They write to texts only: see
    `writing_folder`.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def read(self) -> str:
        """What GDAL is told."""
        return self._text

    def __repr__(self) -> str:
        return self._text


def ogr_name(path: Path | str) -> OgrName:
    """The vector file to read: exactly the one of this name, in a .zip the layer inside.

    A name that GDAL's virtual file systems know is taken as it is.
    """
    text = exact(path)
    zipped = text.lower().endswith(".zip") and not text.lower().endswith(_OGR_ARCHIVES)
    return OgrName(f"/vsizip/{text}" if zipped and not text.startswith("/vsi") else text)


def is_plain(text: str) -> bool:
    """Whether pyogrio takes an absolute path of this text, or a name in it, as it is."""
    return _MARKS.search(text) is None


@contextmanager
def writing_folder(folder: Path) -> Iterator[Path]:
    """The folder under a name that pyogrio writes to without parsing it; what it writes lies in the folder.

    A name of ours leads there for as long as the block lasts where the folder's own would be parsed. Raises OutputError
    where even that is.
    """
    whole = Path(exact(folder.absolute()))
    if operating_system.WINDOWS:
        _require_unparsed_on_windows(str(whole))
        yield whole
        return
    if is_plain(str(whole)):
        yield whole
        return
    with tempfile.TemporaryDirectory(prefix="aerial-seg-") as place:
        link = Path(exact(Path(place).absolute())) / "folder"
        if not is_plain(str(link)):
            raise OutputError(
                f"{shown(folder)} and the folder for temporary files, {shown(place)}, hold one of ! ; ? # \\ in their "
                "names, which pyogrio does not take as they are; set TMPDIR to a folder of a plain name"
            )
        link.symlink_to(whole, target_is_directory=True)
        yield link


def _require_unparsed_on_windows(folder: str) -> None:
    """Raises OutputError for a folder that pyogrio parses: links need a privilege there, but drives are left alone."""
    parsed = _PARSED_ON_WINDOWS.search(folder) is not None
    if _DRIVE.match(folder):
        parsed = folder.partition("!")[0].endswith(".zip")
    if parsed:
        raise OutputError(
            f"{shown(folder)} holds one of ! ; # in its name, which pyogrio does not take as it is; map the server's "
            "folder to a drive letter (net use), or choose another output"
        )


def split_layer(text: Path | str) -> tuple[str, str]:
    """The file and the layer that `areas.gpkg|layername=north` names, cut where there is such a file.

    A file of the whole name counts first.
    """
    whole = str(text)
    if _LAYER not in whole or os.path.lexists(whole):
        return whole, ""
    cuts = [match.start() for match in re.finditer(re.escape(_LAYER), whole)]
    cut = next((cut for cut in cuts if os.path.lexists(whole[:cut])), cuts[0])
    return whole[:cut], whole[cut + len(_LAYER) :]


def shown(path: Path | str) -> str:
    """The name as one line can show it: what has no letter is written as \\x.. or \\u...."""
    text = str(path)
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else written_out(letter) for letter in text)


def check_input(path: Path | str) -> None:
    """Raises InputError for a name that no library opens as it is: call it before anything is opened."""
    text = str(path)
    _check(text, InputError, "rename it")
    if not os.path.isabs(text):  # noqa: PTH117
        # VRTs name their rasters by the whole path.
        _check(os.getcwd(), InputError, "rename that folder")  # noqa: PTH109
    _check_reachable(text, InputError, "rename it")


def check_output(path: Path | str) -> None:
    """Raises OutputError unless a file or folder of this name, and all that is derived from it, can be made."""
    text, remedy = str(path), "choose another output"
    problem = operating_system.name_problem(text)
    if problem is not None:
        raise OutputError(f"{shown(text)} cannot be made: {shown(problem)}; {remedy}")
    whole = os.path.abspath(text)  # noqa: PTH100 - Path.absolute keeps `..`
    _check(whole, OutputError, remedy)
    _check_reachable(whole, OutputError, remedy)
    name, longest = os.path.basename(whole), _longest_name(os.path.dirname(whole)) - ROOM  # noqa: PTH119, PTH120
    if len(os.fsencode(name)) > longest:
        raise OutputError(
            f"{shown(name[:30])}… is a name of {len(os.fsencode(name))} bytes, wanted at most {longest}, so that there "
            f"is room for the names derived from it; {remedy}"
        )
    if len(os.fsencode(whole)) > _LONGEST_OUTPUT:
        raise OutputError(
            f"…{shown(whole[-60:])} is a path of {len(os.fsencode(whole)):,} bytes, wanted at most "
            f"{_LONGEST_OUTPUT:,} for an output; {remedy}"
        )
    _check_room_on_windows(whole, len(name), remedy)


def _check_room_on_windows(whole: str, name: int, remedy: str) -> None:
    """Raises OutputError where the files of the work folder, OUT.work/result/OUT_probabilities.tif.partial, say, would
    have paths that most programs of Windows cannot open.
    """
    longest = operating_system.longest_path()
    room = name + ROOM + len(".work/result/")
    if longest is not None and len(whole) + room > longest:
        raise OutputError(
            f"…{shown(whole[-60:])} is a path of {len(whole)} letters, wanted at most {longest - room}, so that there "
            "is room for the files derived from it; enable long paths in Windows (LongPathsEnabled), or "
            + remedy
        )


def _check(text: str, kind: type[AerialSegError], remedy: str) -> None:
    """Raises `kind` for letters that a name may not have here."""
    if text.isascii() and text.isprintable() and _ORDER not in text:
        return
    what = name_trouble(text)
    if what is not None:
        raise kind(f"{shown(text)} holds {what} in its name, wanted letters that can be shown; {remedy}")
    if _ORDER in text:
        raise kind(f"{text} holds '{_ORDER}', which GDAL takes for the XML of a VRT; {remedy}")


def name_trouble(text: str) -> str | None:
    """The first letter that no name may have: lists, XML and terminals have no place for it, or GDAL for its bytes."""
    for letter in "" if text.isprintable() else text:
        kind = unicodedata.category(letter)
        if kind == "Cs":
            return "bytes that are not UTF-8"
        if letter == "\n":
            return "a line break"
        if kind in ("Cc", "Zl", "Zp"):
            return f"the control character U+{ord(letter):04X}"
    return None


def _check_reachable(text: str, kind: type[AerialSegError], remedy: str) -> None:
    """Raises `kind` for what the system itself refuses to look at."""
    try:
        os.stat(text)  # noqa: PTH116
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise kind(
                f"{shown(text)} lies in a loop of symbolic links, wanted a file or folder; mend the link, or {remedy}"
            ) from error
        if error.errno == errno.ENAMETOOLONG:
            raise kind(
                f"{shown(text[:30])}… is longer than the system's names ({len(os.fsencode(text)):,} bytes), wanted at "
                f"most {_LONGEST_NAME} for a name and {_LONGEST_PATH:,} for a path; {remedy}"
            ) from error


def _longest_name(folder: str) -> int:
    """Bytes that a name in the folder may have, or in the nearest folder above it that is there."""
    while folder != os.path.dirname(folder) and not os.path.isdir(folder):  # noqa: PTH112, PTH120
        folder = os.path.dirname(folder)  # noqa: PTH120
    return operating_system.longest_name(folder, _LONGEST_NAME)


def check_address(text: Path | str, *, typed: bool = False) -> None:
    """Raises InputError for an address with other slashes than `scheme://host/…` has, naming the one meant.

    A file of this machine that has exactly this name is no address. typed: it is as somebody wrote it, so that a single
    slash is a slip of the pen; a Path of ours has lost the other one.
    """
    found = _ADDRESS.match(as_typed(text))
    if found is None or os.path.lexists(text):
        return
    scheme, slashes, rest = found[1].lower(), found[2], found[3]
    # A key of a store may hold a backslash, and so may a question to a web server.
    path, mark, question = rest.partition("?")
    mended = path.replace("\\", "/") + mark + question if scheme.startswith("http") else rest
    if slashes not in (("//",) if typed else ("/", "//")) or mended != rest:
        raise InputError(
            f"{shown(text)} is no address as it is written, wanted {shown(f'{scheme}://{mended}')}; "
            "write its slashes like this"
        )
