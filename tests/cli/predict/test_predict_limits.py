"""What `predict` is told of memory and engines that cannot be."""

from __future__ import annotations

import re
from collections.abc import Callable


def test_too_little_memory_tells_how_much_is_enough(
    refused: Callable, raster: Callable, models: Callable
) -> None:
    said = refused("predict", models(), raster("in.tif"), "-o", "map.tif", "--max-memory", "30MB", code=2)
    assert re.search(
        r"--max-memory 30 MB is too little: .* for the narrowest panel; pass at least \d+MB", said
    )
    for option in (("--batch-size", "65536"), ("--tile-size", "65536")):
        said = refused("predict", models(), raster("in.tif"), "-o", "map.tif", *option, code=2)
        assert "pass a smaller --batch-size or --tile-size" in said


def test_options_of_the_engine_that_cannot_be(refused: Callable, raster: Callable, models: Callable) -> None:
    image = raster("in.tif")
    said = refused("predict", models(), image, "-o", "map.tif", "--tta", "flip", code=2)
    assert "there is no test-time augmentation 'flip'; did you mean 'flips'?" in said
    half = ("--precision", "fp16", "--device", "cpu")
    said = refused("predict", models(), image, "-o", "map.tif", *half, code=2)
    assert "fp16 needs a CUDA device" in said
