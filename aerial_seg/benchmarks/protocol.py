"""Evaluation protocols as data: what the network is shown of an image, and how its scores are averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field, model_validator

from aerial_seg.benchmarks.resize import ResizeKind, ResizeRule
from aerial_seg.crf.settings import DenseCrf
from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.paths import StrPath
from aerial_seg.recipe.loading import document_names, load_document
from aerial_seg.recipe.section import Pixels, Section, Zoom

Dataset = Literal["voc", "cityscapes", "ade20k"]
DATASETS: tuple[Dataset, ...] = ("voc", "cityscapes", "ade20k")

Average = Literal["logits", "probabilities"]
Flip = Literal["none", "image", "window", "window-sum"]
Padding = Literal["end", "centre", "none"]

Scales = Annotated[
    tuple[Zoom, ...],
    Field(min_length=1, max_length=64),
]
Value = TypeVar("Value")


class PerDataset(Section, Generic[Value]):
    """One value for each dataset; one that is not named takes `default`."""

    default: Value | None = None
    voc: Value | None = None
    cityscapes: Value | None = None
    ade20k: Value | None = None

    def of(self, dataset: str) -> Value | None:
        """The dataset's value, None where there is none for it."""
        own: Value | None = getattr(self, dataset)
        return self.default if own is None else own


class CrfTable(Section):
    """A DenseCRF after the network; what is left out is DeepLabv2's. See DenseCrf for what the parameters are."""

    iterations: int = DenseCrf().iterations
    pos_w: float = DenseCrf().pos_w
    pos_xy_std: float = DenseCrf().pos_xy_std
    bi_w: float = DenseCrf().bi_w
    bi_xy_std: float = DenseCrf().bi_xy_std
    bi_rgb_std: float = DenseCrf().bi_rgb_std

    @property
    def field(self) -> DenseCrf:
        """The field; raises SettingsError for parameters that cannot work."""
        return DenseCrf(**self.model_dump())


class Protocol(Section):
    """How a dataset is evaluated. Tables keyed by voc, cityscapes, ade20k and default hold a value per dataset.

    title, source: for people. datasets: those that it is defined for.
    output_stride: the one that the network is rebuilt with; None: as it was trained.
    resize, long_side, fit: the size of the image before the network, see ResizeRule; scales multiply it.
    scales: members of the average, in the order in which they are added.
    mode: the whole image at once, or windows of `crop` pixels every `step`. Windows only: `padding` of images smaller
    than the crop, at the end or around the centre, or none, which leaves the window as small as the image;
    `window_average`: of windows that overlap.
    flip: none; "image": each scale's mirror image is a member too; "window": each window's scores are averaged with
    those of its mirror image; "window-sum": their logits are added before the softmax.
    average: what is averaged over the members.
    crf: a field that the averaged probabilities go through at the image's original size, on the photograph itself.
    """

    title: str
    source: str
    datasets: Annotated[tuple[Dataset, ...], Field(min_length=1)] = DATASETS
    output_stride: Literal[4, 8, 16, 32] | None = None
    resize: ResizeKind = "none"
    long_side: PerDataset[Pixels] | None = None
    fit: PerDataset[tuple[Pixels, Pixels]] | None = None
    scales: PerDataset[Scales] = PerDataset(default=(1.0,))
    mode: Literal["whole", "slide"] = "whole"
    crop: PerDataset[Pixels] | None = None
    step: PerDataset[Pixels] | None = None
    padding: Padding | None = None
    window_average: Average | None = None
    flip: Flip = "none"
    average: Average = "logits"
    crf: CrfTable | None = None

    @model_validator(mode="after")
    def _can_be_carried_out(self) -> Protocol:
        for dataset in self.datasets:
            try:
                self.for_dataset(dataset)
            except SettingsError as error:
                raise ValueError(str(error)) from error
        return self

    def for_dataset(self, dataset: str) -> ResolvedProtocol:
        """What inference does on the images of one dataset.

        Raises SettingsError for a dataset that is unknown or that the protocol is not defined for.
        """
        if dataset not in DATASETS:
            raise SettingsError(
                f"there is no dataset '{dataset}'{did_you_mean(dataset, DATASETS)}; known: {', '.join(DATASETS)}"
            )
        if dataset not in self.datasets:
            raise SettingsError(
                f"the protocol of {self.title} is defined for {' and '.join(self.datasets)}, not for {dataset}; "
                f"use another one (shipped: {', '.join(protocol_names())})"
            )
        scales = self.scales.of(dataset)
        if scales is None:
            raise SettingsError(f"scales has no value for {dataset}; add {dataset} or default to it")
        return ResolvedProtocol(
            output_stride=self.output_stride,
            resize=ResizeRule(
                self.resize,
                long_side=_value(self.long_side, dataset),
                fit=_value(self.fit, dataset),
            ),
            scales=scales,
            window=self._window(dataset),
            flip=self.flip,
            average=self.average,
            crf=None if self.crf is None else self.crf.field,
        )

    def _window(self, dataset: str) -> SlideWindow | None:
        crop, step, average = _value(self.crop, dataset), _value(self.step, dataset), self.window_average
        given = {"crop": crop, "step": step, "window_average": average}
        if self.mode == "whole":
            for name, value in (given | {"padding": self.padding}).items():
                if value is not None:
                    raise SettingsError(
                        f'{name} is {value}, but the image is run whole; remove it or set mode = "slide"'
                    )
            return None
        if crop is None or step is None or average is None:
            missing = next(name for name, value in given.items() if value is None)
            raise SettingsError(f'with mode = "slide", {missing} is missing for {dataset}; add it')
        return SlideWindow(crop=crop, step=step, average=average, padding=self.padding or "end")


def _value(values: PerDataset[Value] | None, dataset: str) -> Value | None:
    return None if values is None else values.of(dataset)


@dataclass(frozen=True, slots=True)
class SlideWindow:
    """Windows of crop×crop pixels every `step` pixels; see Protocol for `average` and `padding`."""

    crop: int
    step: int
    average: Average
    padding: Padding = "end"

    def __post_init__(self) -> None:
        if not 1 <= self.step <= self.crop:
            raise SettingsError(
                f"step {self.step} of windows of {self.crop} pixels leaves pixels unseen; use 1 to {self.crop}"
            )


@dataclass(frozen=True, slots=True)
class Member:
    """One image of those whose scores are averaged."""

    scale: float
    mirrored: bool


@dataclass(frozen=True, slots=True)
class ResolvedProtocol:
    """A protocol on one dataset; fields as in Protocol, `window` None where the image is run whole."""

    output_stride: int | None
    resize: ResizeRule
    scales: tuple[float, ...]
    window: SlideWindow | None
    flip: Flip
    average: Average
    crf: DenseCrf | None = None

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise SettingsError(f"scales are {list(self.scales)}; give at least one, all above 0")
        if self.flip in ("window", "window-sum") and self.window is None:
            raise SettingsError(f'flip = "{self.flip}" is for mode = "slide"; use "image" or "none"')
        softmaxed = self.window is not None and self.window.average == "probabilities"
        if softmaxed and self.average == "logits":
            raise SettingsError(
                'window_average = "probabilities" leaves no logits to average; set average = "probabilities"'
            )
        if self.flip == "window-sum" and not softmaxed:
            raise SettingsError(
                'flip = "window-sum" is added before a softmax; set window_average = "probabilities"'
            )

    @property
    def members(self) -> tuple[Member, ...]:
        """In the order in which they are added: scale by scale, the image before its mirror image."""
        mirrors = (False, True) if self.flip == "image" else (False,)
        return tuple(Member(scale, mirrored) for scale in self.scales for mirrored in mirrors)


def protocol_names() -> tuple[str, ...]:
    """List the protocols that ship with the package, as `benchmark --protocol` takes them."""
    return document_names("protocols")


def load_protocol(name: StrPath) -> Protocol:
    """Load the protocol called `name`: a TOML file if the name ends in .toml, else one that ships with the package.

    Raises SettingsError for an unknown protocol, key or value, naming the nearest known one.
    """
    return load_document(name, Protocol, what="protocol", known=protocol_names(), folder="protocols")


def default_protocol(architecture: str, *, output_stride: int) -> str:
    """The name of the shipped protocol by which the architecture's papers report single-scale results.

    output_stride: the one of the training. Other architectures than ours take the common library's protocol, which
    leaves the output stride alone.
    """
    if architecture == "deeplabv3":
        return "deeplabv3-os16" if output_stride == 16 else "deeplabv3-os8"
    return {"fcn": "fcn", "deeplabv2": "deeplabv2", "pspnet": "psp-ss"}.get(architecture, "mmseg")
