"""Recipe settings of the training crops: how often each chip is taken, and how it is changed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aerial_seg.recipe.section import Fraction, Pixels, PixelValue, Section, Zoom


class AugmentationSettings(Section):
    """Changes of a training crop; validation sees none of them.

    flips: up-down and left-right, each by chance; "horizontal": left-right only, for photographs that have an up.
    scale: smallest and largest zoom. scale_distribution: how zooms lie between them: `log-uniform`; `uniform` (semseg's
    RandScale, mmseg's ratio_range); `grid`: every scale_step from the smallest on, all equally often (the DeepLab
    authors' code, preprocess_utils.get_random_scale: 0.25). base_size: the longer and the shorter side that zoom 1
    fits an image into, as mmseg's and ssseg's [2048, 512]; None: zoom 1 is the image as it is. aspect: height and width
    have zooms of their own, whose ratio differs from 1 by less than this; pairs that differ more are drawn again, up to
    50 times, and then both are alike (tensorpack's RandomResize; 0.15 in the DeepLab code of seed 001).
    stay_inside: only zooms whose window fits into the chip,
    log-uniform from crop / chip (where `scale` begins below it) to the largest: a crop as large as its chip is never
    zoomed out, and nothing is padded but where even the largest zoom asks for more than there is. False, as in the
    papers' recipes: all of `scale`, and what lies beyond the image is padded with the training mean.
    rotation: by up to so many degrees to either side, uniform, of a crop in rotation_probability of all (PSPNet 5.1:
    10; semseg's RandRotate: half of the time). It comes after the zoom. With stay_inside the crop turns about its own
    centre, and zooms are those whose turned window fits; without, the zoomed image turns about its centre inside its
    own frame, as in semseg, and what was not in it is ignored and the training mean. Images bilinear, labels nearest.
    blur: part of the crops that are blurred, after the rotation, by OpenCV's Gaussian kernel of blur_side pixels where
    no sigma is given, 1 4 6 4 1 for 5 (semseg's RandomGaussianBlur: 0.5).
    brightness and contrast: largest change, in units of the training standard deviation, of all bands alike;
    band_noise: what each band adds to that on its own, as a part of it. contrast_about: what contrast leaves as it is:
    the training `mean`, or `zero` of the pixels' own units (mmseg's and ssseg's PhotoMetricDistortion: 0.5).
    hue: largest turn of the hue, in degrees; saturation: largest change of the factor of the saturation, both of HSV
    and for images of red, green and blue only (PhotoMetricDistortion: 0.5, and 36 degrees: its hue_delta of 18 is in
    OpenCV's steps of two). They come before contrast and brightness, and nothing is clipped. light_range: the least and
    the largest value of a pixel, as PhotoMetricDistortion's [0, 255]: pixels are clipped to it after each change, bytes
    lose their fractions, and changes come in its order: brightness, whose unit is the range's length then; contrast in
    half of the crops; saturation and hue; contrast in the other half. light_probability: part of the crops in which
    each of brightness, contrast, saturation and hue is changed, by a chance of its own (PhotoMetricDistortion: 0.5).
    cat_max_ratio: a crop of whose labelled pixels one class has this share or more is placed anew, up to 10 times in
    all; the last place stays (mmseg's and ssseg's RandomCrop: 0.75). 1: wherever it falls. Unlabelled pixels do not
    count. Labels are looked at first, so that chips that memory has no room for are read whole.
    """

    flips: Literal["horizontal"] | bool = True
    rot90: bool = True
    scale: tuple[Zoom, Zoom] = (0.5, 2.0)
    scale_distribution: Literal["log-uniform", "uniform", "grid"] = "log-uniform"
    scale_step: Annotated[float, Field(ge=0.001, le=100)] | None = None
    base_size: tuple[Pixels, Pixels] | None = None
    aspect: Annotated[float, Field(ge=0, lt=1)] = 0.0
    stay_inside: bool = True
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    rotation_probability: Fraction = 1.0
    blur: Fraction = 0.0
    blur_side: Literal[3, 5, 7] = 5
    brightness: Annotated[float, Field(ge=0, le=100)] = 0.2
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.2
    contrast_about: Literal["mean", "zero"] = "mean"
    band_noise: Annotated[float, Field(ge=0, le=100)] = 0.25
    hue: Annotated[float, Field(ge=0, le=180)] = 0.0
    saturation: Fraction = 0.0
    light_range: tuple[PixelValue, PixelValue] | None = None
    light_probability: Fraction = 1.0
    cat_max_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _grid_has_a_step(self) -> AugmentationSettings:
        has_step, is_grid = self.scale_step is not None, self.scale_distribution == "grid"
        if is_grid and not has_step:
            raise ValueError(
                "scale_distribution is 'grid', wanted a scale_step with it; add scale_step = 0.25, or take 'uniform'"
            )
        if has_step and not is_grid:
            raise ValueError(
                f"scale_step is {self.scale_step}, but scale_distribution is '{self.scale_distribution}', which has no "
                "steps; set it to 'grid', or leave scale_step out"
            )
        return self

    @model_validator(mode="after")
    def _light_range_rises(self) -> AugmentationSettings:
        if self.light_range is not None and not self.light_range[0] < self.light_range[1]:
            raise ValueError(
                f"light_range is {list(self.light_range)}, wanted the least value of a pixel and then the largest; "
                "write [0.0, 255.0] for bytes"
            )
        return self


class SamplingSettings(Section):
    """Which training chips are taken how often, and where crops of them lie; validation takes each once.

    repeat_threshold: a class that a smaller share of the training chips holds is rare, and chips that hold it come
    √(threshold / share) times as often as others (LVIS' repeat factor sampling); 0: every chip as often as any other.
    repeat_classes: by class name how many times as often chips that hold the class come (DeepLabv3 doubles the images
    with bicycle, chair, diningtable, pottedplant and sofa, section 4.3); of several factors a chip has the largest.
    A benchmark's labels are all read for these two when a run begins.
    balanced_crops: part of the crops that are placed where they hold a pixel of a class that is drawn first, from those
    of the chip's labels; the pixel is any of its pixels. A crop that cannot hold it where it is turned, near an edge of
    the image, is not turned. Labels are looked at first, so that chips that memory has no room for are read whole.
    balanced_by: each class of the chip is as likely as any other (`class`), or the more so the fewer pixels it
    has in all training chips, in inverse proportion (`rarity`; a benchmark's labels are all read for it).
    They raise no class's weight in the loss, see training.class_weights.
    """

    repeat_threshold: Fraction = 0.0
    repeat_classes: dict[str, Annotated[float, Field(ge=1, le=1000)]] = {}  # noqa: RUF012
    balanced_crops: Fraction = 0.0
    balanced_by: Literal["class", "rarity"] = "class"
