"""The chips as other programs read them: folders of equal names, and regions as COCO has them."""

from __future__ import annotations

import ast
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rasterio.features import rasterize
from scipy.ndimage import label
from shapely import Polygon
from tile_town import CHIP, SETTINGS, index, run

from aerial_seg.errors import SettingsError
from aerial_seg.jobs.tile.layouts.coco import regions
from aerial_seg.labels.class_table import class_table
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, Legend, LegendEntry
from aerial_seg.training.manifest import SPLITS, open_manifest


def as_mmseg_lists(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Source: mmsegmentation 1.2, BaseSegDataset.load_data_list, with the suffixes that README.md names."""
    text = (root / "README.md").read_text(encoding="utf-8")
    told = dict(line.strip().rstrip(",").split("=", 1) for line in text.splitlines() if "suffix=" in line)
    img_suffix, seg_map_suffix = (ast.literal_eval(told[key]) for key in ("img_suffix", "seg_map_suffix"))
    images, labels = root / split / "images", root / split / "labels"
    names = sorted(path.name for path in images.iterdir() if path.name.endswith(img_suffix))
    return [(images / name, labels / (name[: -len(img_suffix)] + seg_map_suffix)) for name in names]


@pytest.mark.parametrize(
    ("classes", "with_links"),
    [(None, True), ("4=background,9=road,2=roof", False)],
    ids=["linked", "numbered"],
)
def test_folders_hold_the_chips_with_numbered_labels(
    image: Path, polygons: Path, monkeypatch: pytest.MonkeyPatch, classes: str | None, with_links: bool
) -> None:
    if not with_links:
        monkeypatch.setattr(os, "link", _refuse)
    labels = LabelSettings(class_field="kind", classes=None if classes is None else class_table(classes))
    report = run([image], polygons, replace(SETTINGS, layout="folders", labels=labels))
    root, own = report.dataset, open_manifest(report.dataset)
    assert any("files were copied" in note for note in report.notes) is not with_links
    numbers = {entry.value: k for k, entry in enumerate(own.document.legend.entries)} | {IGNORE: IGNORE}
    for split in SPLITS:
        pairs = as_mmseg_lists(root, split)
        assert [image.stem for image, _ in pairs] == sorted(chip.name for chip in own.split(split))
        assert sorted((root / split / "labels").iterdir()) == [labels for _, labels in pairs]
        for pixels, labels in pairs:
            assert pixels.read_bytes() == (root / "images" / pixels.name).read_bytes()
            with rasterio.open(root / "labels" / labels.name) as one, rasterio.open(labels) as other:
                wanted = np.vectorize(numbers.get)(one.read(1))
                np.testing.assert_array_equal(other.read(1), wanted)
                assert (other.transform, other.crs, other.nodata) == (one.transform, one.crs, IGNORE)
                colours = other.colormap(1)
            # As mmsegmentation decodes it: numbers of a palette, not colours.
            np.testing.assert_array_equal(np.asarray(Image.open(labels)), wanted)
            assert [colours[k][:3] for k in range(3)] == [entry.rgb for entry in own.document.legend.entries]
    again = run([image], polygons, replace(SETTINGS, layout="folders", overwrite=True))
    assert again.chips == report.chips


def _refuse(*_: Any, **__: Any) -> None:
    raise PermissionError(1, "Operation not permitted")


LEGEND = Legend(
    entries=tuple(
        LegendEntry(value=10 * k, name=f"class {k}", colour="#000000", background=k == 0) for k in range(4)
    )
)
PARTLY: Any = SimpleNamespace(document=SimpleNamespace(legend=LEGEND))


def decoded(found: dict[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """The oracle is pycocotools where it is there, else GDAL."""
    try:
        from pycocotools import mask
    except ImportError:
        rings = [Polygon(np.reshape(part, (-1, 2))) for part in found["segmentation"]]
        return np.asarray(rasterize(rings, out_shape=shape), bool)
    return np.asarray(mask.decode(mask.merge(mask.frPyObjects(found["segmentation"], *shape))), bool)


@given(
    small=st.lists(
        st.lists(st.sampled_from([0, 1, 2, 3, IGNORE]), min_size=7, max_size=7), min_size=7, max_size=7
    ),
    times=st.integers(1, 3),
)
def test_regions_of_coco_are_the_labels(small: list[list[int]], times: int) -> None:
    """Every region is one piece of one class, with holes where it has some, its area and box; all are all."""
    channels = np.kron(np.array(small, np.uint8), np.ones((times, times), np.uint8))
    rebuilt = np.zeros_like(channels)
    count = 0
    for found in regions(channels, PARTLY):
        own = decoded(found, channels.shape)
        count += 1
        assert own.sum() == found["area"]
        assert label(own)[1] == 1
        rows, cols = np.nonzero(own)
        assert found["bbox"] == [
            cols.min(),
            rows.min(),
            cols.max() - cols.min() + 1,
            rows.max() - rows.min() + 1,
        ]
        assert all(Polygon(np.reshape(part, (-1, 2))).is_valid for part in found["segmentation"])
        assert not rebuilt[own].any()
        rebuilt[own] = found["category_id"] - 1
    np.testing.assert_array_equal(rebuilt, np.where(channels == IGNORE, 0, channels))
    assert count == sum(label(channels == k)[1] for k in (1, 2, 3))


def test_coco_documents_name_images_and_classes(image: Path, polygons: Path) -> None:
    report = run([image], polygons, replace(SETTINGS, layout="coco"))
    frame = index(report).set_index("chip")
    hidden = 0
    for split in SPLITS:
        document = json.loads((report.dataset / "annotations" / f"{split}.json").read_text(encoding="utf-8"))
        assert [one["name"] for one in document["categories"]] == ["road", "roof"]
        numbers = {one["name"]: one["id"] for one in document["categories"]}
        assert [one["id"] for one in document["annotations"]] == list(
            range(1, len(document["annotations"]) + 1)
        )
        assert {one["file_name"] for one in document["images"]} == {
            f"{name}.tif" for name in frame.index[frame.split == split]
        }
        for one in document["images"]:
            assert (report.dataset / "images" / one["file_name"]).is_file()
            assert (one["width"], one["height"]) == (CHIP, CHIP)
            row = frame.loc[Path(one["file_name"]).stem]
            for name in ("road", "roof"):
                area = sum(
                    found["area"]
                    for found in document["annotations"]
                    if found["image_id"] == one["id"] and found["category_id"] == numbers[name]
                )
                assert area == row[f"px_{name}"]
            assert one["unlabelled_px"] == CHIP**2 - sum(row[f"px_{name}"] for name in report.legend.names)
            hidden += one["unlabelled_px"]
    assert hidden
    assert any(f"no word for the {hidden:,} pixels" in note for note in report.notes)
    assert any(note.endswith("none of background, which is background") for note in report.notes)


@pytest.mark.parametrize("layout", ["folders", "coco"])
def test_a_layout_of_images_that_are_not_written_is_refused(image: Path, polygons: Path, layout: str) -> None:
    with pytest.raises(
        SettingsError, match=f'`layout="{layout}"` lays image chips out, but `index_only=True`'
    ):
        run([image], polygons, replace(SETTINGS, layout=layout, index_only=True))
    assert not (polygons.parent / "out").exists()
