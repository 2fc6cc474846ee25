"""mmsegmentation's configuration, as its trainings write it into their checkpoints, and what it says of the network."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from aerial_seg.bands import IMAGENET_BANDS, Band
from aerial_seg.errors import InputError
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.config_text import read_config
from aerial_seg.models.importing.mmseg_form import Form, Stride
from aerial_seg.models.importing.records import plain
from aerial_seg.printable import shortened

_BACKBONES = ("ResNet", "ResNetV1c")
_HEADS = {
    "FCNHead": "fcn",
    "PSPHead": "pspnet",
    "ASPPHead": "deeplabv3",
    "DepthwiseSeparableASPPHead": "deeplabv3+",
}
_STRIDES: Mapping[tuple[int, ...], Stride] = {
    (1, 2, 1, 1): 8, (1, 2, 2, 1): 16, (1, 2, 2, 2): 32,
}  # fmt: skip
_RATES: Mapping[int, tuple[int, ...]] = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}
"""Of the stages, that make up for the strides taken away."""
_ASPP_STRIDE = 16


def config_of(checkpoint: Checkpoint) -> Mapping[str, object] | None:
    """What `meta.cfg` (version 1) or `meta.config` (version 0) assigns; None where there is neither."""
    meta = checkpoint.told.get("meta")
    if not isinstance(meta, Mapping):
        return None
    text = next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), None)
    config = read_config(text) if isinstance(text, str) else None
    return config if config is not None and isinstance(config.get("model"), Mapping) else None


def form_of_config(config: Mapping[str, object], path: Path) -> Form:
    """What the configuration says. Raises InputError for what no network here can be, with the key and the remedy."""
    said = _Said(path, plain(config))
    backbone, head = said.at("model.backbone"), said.at("model.decode_head")
    if said.get("model.decode_head.type") is None:
        raise said.refusal("model.decode_head", "one head of " + ", ".join(_HEADS))
    said.require("model.backbone.type", _BACKBONES)
    said.require("model.decode_head.type", tuple(_HEADS))
    said.require("model.backbone.style", ("pytorch",), usual="pytorch")
    for key in ("dcn", "plugins", "avg_down"):
        said.require(f"model.backbone.{key}", (None, False), usual=None)
    for key in ("input_transform", "conv_cfg"):
        said.require(f"model.decode_head.{key}", (None,), usual=None)
    said.require("model.decode_head.in_index", (3, -1), usual=-1)
    stride = _STRIDES.get(said.numbers("model.backbone.strides", (1, 2, 2, 2)))
    if stride is None:
        raise said.refusal("model.backbone.strides", " or ".join(map(str, _STRIDES)))
    rates = said.numbers("model.backbone.dilations", (1, 1, 1, 1))
    _check_rates(said, rates)
    is_fcn = _HEADS[head["type"]] == "fcn"
    if is_fcn:
        said.require("model.decode_head.num_convs", (2,), usual=2)
        said.require("model.decode_head.kernel_size", (3,), usual=3)
    grid = backbone.get("multi_grid")
    return Form(
        head=_HEADS[head["type"]],
        depth=backbone.get("depth"),
        output_stride=stride,
        stage_rates=() if rates == _RATES[stride] else rates,
        multi_grid=() if grid is None else said.numbers("model.backbone.multi_grid", ()),
        dilation_placement="contracted" if backbone.get("contract_dilation", False) else "full",
        align_corners=bool(head.get("align_corners", False)),
        head_rate=int(head.get("dilation", 1)) if is_fcn else 1,
        concat=bool(head.get("concat_input", True)),
        bins=said.numbers("model.decode_head.pool_scales", (1, 2, 3, 6)),
        aspp_rates=_aspp_rates(said, stride) if "ASPP" in head["type"] else None,
        dropout=float(head.get("dropout_ratio", 0.1)),
        bn_eps=said.get("model.backbone.norm_cfg.eps"),
        bands=_bands(said),
        crop=_crop(said),
        threshold=float(head.get("threshold") or 0.3),
        why_no_auxiliary=_no_auxiliary(said),
    )


class _Said:
    """A configuration, by keys with dots, and the refusals of what it says."""

    def __init__(self, path: Path, config: Any) -> None:
        self._path, self._config = path, config

    def get(self, key: str, usual: Any = None) -> Any:
        value = self._config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return usual if value is None else value

    def at(self, key: str) -> Mapping[str, Any]:
        found = self.get(key)
        return found if isinstance(found, Mapping) else {}

    def require(self, key: str, wanted: tuple[object, ...], *, usual: object = None) -> None:
        if self.get(key, usual) not in wanted:
            raise self.refusal(key, " or ".join(map(str, wanted)))

    def numbers(self, key: str, usual: tuple[int, ...]) -> tuple[int, ...]:
        found = self.get(key, usual)
        if not isinstance(found, list | tuple) or not all(isinstance(one, int) and one > 0 for one in found):
            raise self.refusal(key, "whole numbers")
        return tuple(found)

    def refusal(self, key: str, wanted: str) -> InputError:
        got = shortened(repr(self.get(key)))
        return InputError(
            f"{self._path} was trained with {key} = {got}, of which no network is made here; wanted {wanted}"
        )


def _check_rates(said: _Said, rates: tuple[int, ...]) -> None:
    """mmseg's contraction halves a stage's rate in its first block; here it keeps the rate of the stage before."""
    contracted = said.get("model.backbone.contract_dilation", False)
    doubled = all(after in (1, 2 * before) for before, after in pairwise((1, *rates)))
    if len(rates) != 4 or rates[0] != 1 or (contracted and not doubled):
        raise said.refusal(
            "model.backbone.dilations", "1, then each 1 or twice the one before, as (1, 1, 2, 4)"
        )
    if not contracted and max(rates) > 1 and said.get("model.backbone.depth") in (18, 34):
        raise said.refusal("model.backbone.contract_dilation", "True for depth 18 and 34")


def _aspp_rates(said: _Said, stride: int) -> tuple[int, ...]:
    """At output stride 16, as recipes have them; the first of mmseg's is its 1×1 convolution."""
    first, *rates = said.numbers("model.decode_head.dilations", (1, 6, 12, 18))
    scaled = [rate * stride / _ASPP_STRIDE for rate in rates]
    if first != 1 or not rates or any(rate != int(rate) for rate in scaled):
        raise said.refusal("model.decode_head.dilations", f"1, then multiples of {_ASPP_STRIDE // stride}")
    return tuple(map(int, scaled))


def _bands(said: _Said) -> tuple[Band, ...]:
    """What images are normalised by, in the units of their pixels."""
    newer = said.at("model.data_preprocessor") or said.at("data_preprocessor")
    older = said.at("img_norm_cfg")
    told = newer or older
    if not told:
        return IMAGENET_BANDS
    is_rgb = bool(newer.get("bgr_to_rgb", False)) if newer else bool(older.get("to_rgb", True))
    mean, std = told.get("mean"), told.get("std")
    channels = len(mean) if isinstance(mean, list | tuple) else int(said.get("model.backbone.in_channels", 3))
    means = mean if isinstance(mean, list | tuple) else (0.0,) * channels
    stds = std if isinstance(std, list | tuple) else (1.0,) * channels
    if len(means) != len(stds) or not all(isinstance(one, int | float) for one in (*means, *stds)):
        raise said.refusal("model.data_preprocessor.mean" if newer else "img_norm_cfg", "a number per band")
    # mmcv reads images as BGR.
    rgb = ("red", "green", "blue") if is_rgb else ("blue", "green", "red")
    names = rgb if channels == len(rgb) else [f"band_{k}" for k in range(1, channels + 1)]
    return tuple(
        Band(name=name, dtype="uint8", mean=m, std=s, p2=0, p98=255)
        for name, m, s in zip(names, means, stds, strict=True)
    )


def _crop(said: _Said) -> tuple[int, int] | None:
    for key in (
        "crop_size",
        "model.test_cfg.crop_size",
        "model.data_preprocessor.size",
        "data_preprocessor.size",
    ):
        found = said.get(key)
        if isinstance(found, list | tuple) and len(found) == 2 and all(isinstance(one, int) for one in found):
            return int(found[0]), int(found[1])
    return None


def _no_auxiliary(said: _Said) -> str:
    """Why the auxiliary head cannot be kept; nothing where it can, or there is none."""
    head = said.get("model.auxiliary_head")
    if head is None:
        return ""
    if not isinstance(head, Mapping):
        return "there are several"
    for key, wanted in (("type", "FCNHead"), ("num_convs", 1), ("concat_input", False), ("in_index", 2)):
        if head.get(key) != wanted:
            return f"its {key} is {shortened(repr(head.get(key)))}, not {wanted}"
    rate = said.get("model.decode_head.dilation", 1)
    if head.get("dilation", 1) != rate:
        return f"its rate is {head.get('dilation', 1)}, and the head's is {rate}"
    return ""
