from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.benchmarks.protocol import (
    DATASETS,
    Member,
    Protocol,
    ResolvedProtocol,
    SlideWindow,
    default_protocol,
    load_protocol,
    protocol_names,
)
from aerial_seg.benchmarks.resize import ResizeRule
from aerial_seg.errors import SettingsError
from aerial_seg.recipe.loading import parse_document, recipe_names

NAMES = {
    "fcn", "deeplabv2", "deeplabv2-crf", "tensorpack-deeplab", "deeplabv3-as-trained", "deeplabv3-os16",
    "deeplabv3-os8", "deeplabv3-os8-ms", "deeplabv3-os8-ms-flip", "deeplabv3-cityscapes-test", "psp-ss", "psp-ms",
    "mmseg", "mmseg-slide", "semseg",
}  # fmt: skip
SIDES = st.integers(1, 3000)
HEAD = 'title = "mine"\nsource = "mine"\n'


def parsed(text: str) -> Protocol:
    return parse_document(HEAD + text, Protocol, "mine", what="protocol")


def test_the_shipped_protocols_are_these_and_none_of_them_is_a_recipe() -> None:
    assert set(protocol_names()) == NAMES
    folders = {name.split("/")[0] for name in recipe_names() if "/" in name}
    assert not folders & {"grids", "protocols", "published", "classes"}
    assert "deeplabv3" in recipe_names()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_shipped_protocol_says_what_to_do_on_each_of_its_datasets(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.title
    assert protocol.source
    for dataset in protocol.datasets:
        resolved = protocol.for_dataset(dataset)
        assert resolved.members[0] == Member(resolved.scales[0], mirrored=False)
        height, width = resolved.resize.shape(375, 500, 1.0)
        assert abs(height / width - 0.75) < 0.01


@pytest.mark.parametrize("name", ["psp-ss", "psp-ms", "semseg"])
@pytest.mark.parametrize(("dataset", "crop"), [("voc", 473), ("ade20k", 473), ("cityscapes", 713)])
def test_pspnet_slides_by_two_thirds_of_the_papers_crops(name: str, dataset: str, crop: int) -> None:
    window = load_protocol(name).for_dataset(dataset).window
    assert window is not None
    assert (window.crop, window.step) == (crop, math.ceil(Fraction(2 * crop, 3)))
    assert window.average == "probabilities"


def test_deeplabv3_takes_fewer_scales_on_cityscapes_and_flips_each() -> None:
    protocol = load_protocol("deeplabv3-os8-ms-flip")
    assert protocol.for_dataset("voc").scales == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    members = protocol.for_dataset("cityscapes").members
    assert [(m.scale, m.mirrored) for m in members] == [
        (0.75, False), (0.75, True), (1.0, False), (1.0, True), (1.25, False), (1.25, True)
    ]  # fmt: skip
    assert [load_protocol(f"deeplabv3-{part}").output_stride for part in ("os16", "os8")] == [16, 8]


def test_a_protocol_of_one_dataset_refuses_the_others() -> None:
    protocol = load_protocol("deeplabv3-cityscapes-test")
    resolved = protocol.for_dataset("cityscapes")
    assert (resolved.output_stride, min(resolved.scales), max(resolved.scales)) == (4, 0.75, 2.0)
    with pytest.raises(SettingsError, match=r"defined for cityscapes, not for voc; use another one .*psp-ss"):
        protocol.for_dataset("voc")
    with pytest.raises(SettingsError, match=r"no dataset 'cityscape'; did you mean 'cityscapes'\?"):
        protocol.for_dataset("cityscape")


def test_unknown_protocols_and_keys_name_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"no protocol 'psp-s'; did you mean 'psp-ss'\?"):
        load_protocol("psp-s")
    with pytest.raises(SettingsError, match=r"unknown key 'scale'; did you mean 'scales'\?"):
        parsed("scale = { default = [1.0] }")
    with pytest.raises(SettingsError, match=r"unknown key 'crop.citiscapes'; did you mean 'cityscapes'\?"):
        parsed('mode = "slide"\ncrop = { citiscapes = 9 }')
    with pytest.raises(SettingsError, match="'title' is missing"):
        parse_document('source = "x"', Protocol, "mine", what="protocol")


def test_a_file_is_read_like_a_shipped_protocol(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + 'flip = "image"\n', encoding="utf-8")
    assert [m.mirrored for m in load_protocol(str(path)).for_dataset("voc").members] == [False, True]
    with pytest.raises(SettingsError, match=r"does not exist; shipped protocols: .*mmseg"):
        load_protocol(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scales = { default = [] }", "scales"),
        ("scales = { default = [1.0, 0.0] }", "scales"),
        ("scales = { default = [inf] }", "scales"),
        ("scales = { cityscapes = [1.0] }", "scales has no value for voc"),
        ("datasets = []", "datasets"),
        ("crop = { default = 9 }", "crop is 9, but the image is run whole"),
        ('padding = "end"', "padding is end, but the image is run whole"),
        ('mode = "slide"\nstep = { default = 9 }\nwindow_average = "logits"', "crop is missing for voc"),
        ('mode = "slide"\ncrop = { default = 9 }\nstep = { default = 9 }', "window_average is missing"),
        (
            'mode = "slide"\ncrop = { default = 9, ade20k = 7 }\nstep = { default = 8 }\nwindow_average = "logits"',
            "step 8 of windows of 7 pixels",
        ),
        (
            'mode = "slide"\ncrop = { default = 9 }\nstep = { default = 8 }\nwindow_average = "probabilities"',
            "leaves no logits to average",
        ),
        ('resize = "fit"', "fit is missing"),
        ('resize = "long-side"', "long_side is missing"),
        ("long_side = { default = 512 }", "long_side is 512, which nothing reads"),
        ('resize = "long-side"\nlong_side = { voc = 512 }', "long_side is missing"),
        ('flip = "window"', 'is for mode = "slide"'),
        (
            'mode = "slide"\ncrop = { default = 9 }\nstep = { default = 8 }\n'
            'window_average = "logits"\nflip = "window-sum"',
            "added before a softmax",
        ),
        ("output_stride = 12", "output_stride"),
    ],
)
def test_nonsense_is_told(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parsed(text)


@pytest.mark.parametrize("step", [0, 10])
def test_windows_that_leave_gaps_cannot_be_made(step: int) -> None:
    with pytest.raises(SettingsError, match="leaves pixels unseen; use 1 to 9"):
        SlideWindow(crop=9, step=step, average="logits")


@pytest.mark.parametrize("scales", [(), (1.0, 0.0)])
def test_a_resolved_protocol_has_members(scales: tuple[float, ...]) -> None:
    good = ResolvedProtocol(None, ResizeRule("none"), (1.0,), None, "none", "logits")
    with pytest.raises(SettingsError, match="at least one, all above 0"):
        replace(good, scales=scales)


@given(SIDES, SIDES)
def test_no_resize_leaves_an_image_as_it_is_at_scale_1(height: int, width: int) -> None:
    assert ResizeRule("none").shape(height, width, 1.0) == (height, width)


@given(SIDES, SIDES, st.sampled_from([0.5, 0.75, 1.25, 1.75, 2.0]))
def test_scales_keep_the_first_and_last_pixels_distance(height: int, width: int, scale: float) -> None:
    shape = ResizeRule("none").shape(height, width, scale)
    for got, side in zip(shape, (height, width), strict=True):
        assert got - 1 <= Fraction(side - 1) * Fraction(scale) < got


@given(SIDES, SIDES, st.sampled_from([0.5, 1.0, 1.75]), st.sampled_from([512, 2048]))
def test_the_long_side_is_the_base_and_the_other_follows(
    height: int, width: int, scale: float, base: int
) -> None:
    for kind, extra in (("long-side", 0), ("long-side-plus-one", 1)):
        shape = ResizeRule(kind, long_side=base).shape(height, width, scale)
        assert max(shape) == base * scale + extra
        assert (shape[0] - shape[1]) * (height - width) >= 0
        exact = Fraction(max(shape)) * min(height, width) / max(height, width)
        assert abs(min(shape) - exact) <= Fraction(1, 2) + Fraction(1, 10**6) or min(shape) == 1


@given(SIDES, SIDES)
def test_an_image_fits_into_the_box_as_large_as_it_can(height: int, width: int) -> None:
    shape = ResizeRule("fit", fit=(2048, 512)).shape(height, width, 1.0)
    long, short = max(height, width), min(height, width)
    factor = min(Fraction(2048, long), Fraction(512, short))
    for got, side in zip(shape, (height, width), strict=True):
        assert abs(got - side * factor) <= Fraction(1, 2) + Fraction(1, 10**6) or got == 1
    assert max(shape) == 2048 or min(shape) == 512


def test_the_references_own_examples_of_sizes() -> None:
    box = ResizeRule("fit", fit=(2048, 512))
    assert box.shape(375, 500, 1.0) == (512, 683)
    assert box.shape(500, 375, 1.0) == (683, 512)
    assert ResizeRule("fit", fit=(2048, 1024)).shape(1024, 2048, 1.0) == (1024, 2048)
    # Halves: semseg's Python rounds them to even, the Caffe code's MATLAB up.
    assert ResizeRule("long-side", long_side=2).shape(5, 4, 1.0) == (2, 2)
    assert ResizeRule("long-side", long_side=10).shape(4, 1, 1.0) == (10, 2)
    assert ResizeRule("long-side-plus-one", long_side=9).shape(4, 1, 1.0) == (10, 3)
    assert ResizeRule("none").shape(513, 513, 0.5) == (257, 257)


def test_each_architecture_has_its_papers_protocol() -> None:
    assert default_protocol("fcn", output_stride=16) == "fcn"
    assert default_protocol("deeplabv3", output_stride=16) == "deeplabv3-os16"
    assert default_protocol("deeplabv3", output_stride=8) == "deeplabv3-os8"
    assert default_protocol("pspnet", output_stride=8) == "psp-ss"
    assert default_protocol("Unet", output_stride=16) == "mmseg"
    for name in ("fcn", "psp-ss", "mmseg"):
        assert load_protocol(name).output_stride is None
        assert set(load_protocol(name).datasets) == set(DATASETS)
