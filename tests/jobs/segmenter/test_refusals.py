"""What a model in memory cannot see is refused in one line, before any work."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from affine import Affine
from in_memory import NODATA, noise, segmenter
from rasterio.transform import from_origin
from rasterio.windows import Window

from aerial_seg.errors import AerialSegError, SettingsError
from aerial_seg.geo.raster.band_choice import BandChoice
from aerial_seg.inference.settings import SegmentSettings
from aerial_seg.models.file import TrainedModel

CORNER = (500_000.0, 5_200_000.0)
Models = Callable[..., TrainedModel]


def refused(pointwise: Models) -> dict[str, tuple[Callable[[], object], str]]:
    one = segmenter(pointwise(gsd=1.0))
    image = noise(1, 20, 30)
    whole = np.ones((20, 30), bool)
    rgb = np.zeros((3, 20, 30), np.uint8)
    utm = {"crs": "EPSG:32633", "transform": from_origin(*CORNER, 1, 1)}
    return {
        "bands": (
            lambda: one(rgb),
            r"has 3 bands .* trained on 2 \(band 1 uint8, band 2 uint8\); pick the same",
        ),
        "last": (lambda: one(np.moveaxis(image, 0, -1)), "pass channels_last=True"),
        "dtype": (
            lambda: one(image.astype(np.float32)),
            r"holds float32, .* trained on uint8 .*astype\('uint8'\)",
        ),
        "bfloat16": (lambda: one(torch.from_numpy(image).bfloat16()), r"torch.bfloat16 .*convert it"),
        "batch": (
            lambda: one(image[None]),
            r"shape \(1, 2, 20, 30\), wanted \(2, height, width\): one image",
        ),
        "nothing": (lambda: one(image[:, :0]), "0 × 30 pixels holds nothing"),
        "path": (lambda: one("a.tif"), r"'a.tif', a str, wanted a numpy array.*use aerial_seg.predict"),
        "list": (lambda: one(image.tolist()), "of type list, wanted a numpy array"),
        "crs alone": (lambda: one(image, crs="EPSG:32633"), "pass transform too"),
        "no crs": (lambda: one(image, crs="EPSG:x", transform=utm["transform"]), "which is no CRS"),
        "twice": (lambda: one(image, gsd=1.0, **utm), "gsd and crs both say how large"),
        "no gsd": (lambda: one(image, gsd=0.0), "wanted metres per pixel, as 0.5"),
        "flat": (lambda: one(image, crs="EPSG:32633", transform=Affine.scale(0, 1)), "that places pixels"),
        "far": (lambda: one(image, gsd=9.0), "GSD of 9 m, but the model was trained at 1 m"),
        "valid": (
            lambda: one(image, valid=np.ones((30, 20), bool)),
            r"valid is bool of shape \(30, 20\), wanted",
        ),
        "valid ints": (lambda: one(image, valid=np.ones((20, 30), int)), r"valid is int64 .* wanted bool"),
        "nodata": (lambda: one(image, nodata=300), "`nodata=300` cannot occur in the array"),
        "bands=": (lambda: one(image, bands=[]), r"bands is \[\], wanted the numbers of bands from 1 on"),
        "a band": (lambda: one(image, bands=2), "bands is 2, wanted the numbers"),
        "bands as text": (lambda: one(image, bands="21"), "bands is '21', wanted the numbers"),
        "band 3": (lambda: one(image, bands=[1, 3]), r"band 3 was asked for, .* shape \(2, 20, 30\)"),
        "stack": (lambda: one(image, bands=BandChoice((1, 2), stack=("a.tif",))), "bands stacks files"),
        "meta": (lambda: one(torch.zeros(2, 9, 9, device="meta")), "of no data .* holds pixels"),
        "sparse": (lambda: one(torch.from_numpy(image).to_sparse()), r"sparse_coo .*\.to_dense\(\)"),
        "tensor": (lambda: one(torch.zeros(2, 9, 9).add(7.0)), r"convert it \(image\.to\(torch\.uint8\)\)"),
        "fractions": (
            lambda: one((image / 255).astype(np.float32)),
            r"convert it \(\(image \* 255\)\.round\(\)\.astype\('uint8'\)\)",
        ),
        "fractions of a tensor": (
            lambda: one(torch.from_numpy(image / 255)),
            r"\(\(image \* 255\)\.round\(\)\.to\(torch\.uint8\)\)",
        ),
        "not numbers": (
            lambda: one(np.where(image == NODATA, np.nan, image)),
            "NaN would become zeros.*masked=True",
        ),
        "ragged": (
            lambda: one(image, valid=[[True], [True, False]]),
            "valid is no array, wanted bool of shape",
        ),
        "masked valid": (lambda: one(image, valid=np.ma.masked_array(whole, whole)), "which says twice"),
        "masked and valid": (
            lambda: one(np.ma.masked_array(image, image == NODATA), valid=whole),
            "valid is given, but a masked array says that itself",
        ),
        "window": (lambda: one((image, Window(0, 0, 5, 5))), "cut arrays by slicing"),
        "blend": (
            lambda: SegmentSettings(blend="probability"),
            "wanted one of logits, probabilities; did you mean",
        ),
        "tile": (
            lambda: segmenter(pointwise(stride=8, origin_step=8), SegmentSettings(tile_size=30)),
            "try 24 or 32",
        ),
    }


def test_what_cannot_be_seen_is_refused_in_one_line(pointwise: Models) -> None:
    for name, (call, words) in refused(pointwise).items():
        with pytest.raises(AerialSegError, match=words) as told:
            call()
        assert "\n" not in str(told.value), name


def test_what_does_not_fit_into_memory_is_refused_before_any_work(
    pointwise: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = segmenter(pointwise(), SegmentSettings(probabilities=True))
    monkeypatch.setattr(
        "aerial_seg.inference.segmenter.open_stream", lambda *_, **__: pytest.fail("work began")
    )
    # Zero strides: as large as a country, and a few bytes.
    country = np.broadcast_to(np.zeros((2, 1, 1), np.uint8), (2, 2_000_000, 1_000_000))
    with pytest.raises(SettingsError, match=r"1,000,000 × 2,000,000 pixels take 8.* use aerial_seg.predict"):
        one(country)


def test_what_the_refusals_name_works(pointwise: Models) -> None:
    one, image = segmenter(pointwise(gsd=1.0)), noise(1, 20, 30)
    wanted = one(image).classes
    fractions = torch.from_numpy(image / 255)
    assert (one((fractions * 255).round().to(torch.uint8)).classes == wanted).all()
    assert (one((fractions.numpy() * 255).round().astype("uint8")).classes == wanted).all()
    turned = image[[1, 0]]
    for bands in ([2, 1], np.array([2, 1]), BandChoice((2, 1))):
        assert (one(turned, bands=bands).classes == wanted).all()
        assert (one(np.moveaxis(turned, 0, -1), bands=bands, channels_last=True).classes == wanted).all()
    assert (one(turned).classes != wanted).any()
