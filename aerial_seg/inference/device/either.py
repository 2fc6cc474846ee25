"""Which of the two streams makes the rows of a map: the host's, or that of the device where the network runs."""

from __future__ import annotations

from aerial_seg.bands import Band
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.statistics import Readable
from aerial_seg.inference.definition import Definition
from aerial_seg.inference.device.stream import DeviceStream
from aerial_seg.inference.predictor import TilePredictor
from aerial_seg.inference.region import RegionTiles
from aerial_seg.inference.stream import MaskStream
from aerial_seg.legend import Legend


def open_stream(
    raster: Raster | ArrayRaster,
    source: Readable,
    region_tiles: RegionTiles,
    predictor: TilePredictor,
    definition: Definition,
    *,
    bands: tuple[Band, ...],
    legend: Legend,
) -> MaskStream | DeviceStream:
    """Return the stream that the predictor names; arguments and use are MaskStream's."""
    if predictor.carrier == "device":
        return DeviceStream(raster, source, region_tiles, predictor, definition, legend=legend)
    return MaskStream(raster, source, region_tiles, predictor, definition, bands=bands, legend=legend)
