"""Choices and settings that several classes of settings share, each defined once."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.mentions import setting
from aerial_seg.settings import MOST_PIXELS, Setting, byte_size

WindowName = Literal["linear", "cosine", "gaussian", "centre"]
BlendName = Literal["logits", "probabilities"]
EngineName = Literal["auto", "eager", "compile", "onnx", "openvino"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]
CarrierName = Literal["auto", "host", "device"]
MapTileRows = Literal["auto", "slippy", "tms", "off"]
SimplifyMethod = Literal["douglas-peucker", "visvalingam"]

_DEVICE = re.compile(r"auto|(cpu|cuda)(:[0-9]{1,4})?")


def check_device(name: str) -> None:
    """Raises SettingsError for a text that names no device."""
    if _DEVICE.fullmatch(name) is None:
        raise SettingsError(
            f"there is no such device, use auto, cpu, cuda or cuda:N{did_you_mean(name, ('auto', 'cpu', 'cuda'))}"
        )


def check_map_tiles(rows: str, *, georeferenced: bool) -> None:
    """Raises SettingsError where rasters are to be placed by their names and none is to be taken as placed."""
    if rows in ("tms", "slippy") and not georeferenced:
        raise SettingsError(
            f"{setting('map_tiles', rows)} places rasters by their names, and {setting('georeferenced', False)} takes "
            "none as placed; leave one of them out"
        )


Device = Annotated[
    str,
    Setting(
        "Where the network runs.",
        wanted="auto, cpu, cuda or cuda:N",
        metavar="auto|cpu|cuda[:N]",
        check=check_device,
    ),
]
NetworkEngine = Annotated[
    EngineName,
    Setting(
        "How the network runs; auto compiles it when there are tiles enough to pay for that. onnx and openvino run on "
        "the CPU and need pip install 'aerial-seg[onnx]' or 'aerial-seg[openvino]'."
    ),
]
NetworkPrecision = Annotated[
    PrecisionName, Setting("Numbers the network computes in; auto takes what the hardware is fast at.")
]
NetworkCarrier = Annotated[
    CarrierName,
    Setting(
        "Who cuts and blends tiles and makes pixels of them: the host, or the device that the network runs on, so that "
        "only bytes travel; auto: the device on CUDA, the host on a CPU."
    ),
]
Overwrite = Annotated[bool, Setting("Replace an existing output.")]
Restart = Annotated[bool, Setting("Forget what an interrupted run of this output had finished.")]
Georeferenced = Annotated[
    bool,
    Setting(
        "Accept rasters without CRS and work in pixel coordinates; polygons of them lie where QGIS shows the raster, "
        "row r at y = −r.",
        flag="--no-georef",
    ),
]
MapTiles = Annotated[
    MapTileRows,
    Setting(
        "How rasters without CRS that are named z/x/y, z-x-y or x-y-z count their rows: slippy from the north, tms "
        "from the south; auto: as labels lie, or else as most do; off: their names say nothing."
    ),
]
Nodata = Annotated[
    float | None,
    Setting(
        "Pixel value that means 'not measured' where all bands have it; for undeclared collars.",
        low=float("-inf"),
        high=float("inf"),
        may_be_nan=True,
        wanted="a number, or nan",
        metavar="FLOAT",
    ),
]
Scale = Annotated[
    Literal["auto", "off"],
    Setting(
        "Whether scale and offset that rasters declare are applied to their numbers; auto: in training where all "
        "declare them, in prediction as in training."
    ),
]
MemoryLimit = Annotated[
    int | None,
    Setting(
        "Memory the process may use, as 2GB or 800MB; the raster is then cut into column panels. The map does not "
        "depend on it. Default: half of the machine's.",
        low=1,
        high=2**63 - 1,
        wanted="an amount of memory, as 2GB or 800MB, or a number of bytes",
        read=byte_size,
        metavar="SIZE",
    ),
]
BatchSize = Annotated[
    int | None,
    Setting(
        "Tiles run at once; default: the model's, fewer where memory is short, and on a GPU what keeps it at work.",
        low=1,
        high=MOST_PIXELS,
        metavar="N",
    ),
]
ModelTile = Annotated[
    int | None, Setting("Side of a tile; default: the model's.", low=1, high=MOST_PIXELS, metavar="PX")
]
