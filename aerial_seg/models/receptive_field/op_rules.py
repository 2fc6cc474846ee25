"""What torch's operations do to places: the rules by which a forward is followed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from torch import Tensor

from aerial_seg.models.receptive_field import intervals as along
from aerial_seg.models.receptive_field.intervals import CellExtent, InputIndices

Axis = Literal["rows", "cols"]
AXES: tuple[Axis, Axis] = ("rows", "cols")
Group = tuple[Axis | int, ...]
Dims = tuple[Group, ...]
IMAGE: Dims = ((), (), ("rows",), ("cols",))


@dataclass(frozen=True, slots=True, eq=False)
class TensorExtent:
    """What the places of a tensor see.

    dims: what runs along each dimension: an axis; nothing, where it has no places; or several things, the last one
    fastest, where a map was flattened: axes and the sizes of what has no places.
    """

    dims: Dims
    rows: CellExtent
    cols: CellExtent

    def of(self, axis: Axis) -> CellExtent:
        """What is seen along this axis."""
        return self.rows if axis == "rows" else self.cols

    def beside(self, other: TensorExtent) -> TensorExtent:
        """What is seen where both are seen."""
        if other is self:
            return self
        rows, cols = along.together(self.rows, other.rows), along.together(self.cols, other.cols)
        return replace(self, rows=rows, cols=cols)


@dataclass(frozen=True, slots=True)
class Call:
    """One operation: its arguments by name, those tensors among them that have places, its first output.

    scales: takes the scale of every interpolation.
    """

    given: Mapping[str, Any]
    inputs: tuple[tuple[Tensor, TensorExtent], ...]
    out: Tensor
    scales: list[Fraction]

    @property
    def only(self) -> TensorExtent | None:
        """The input that has places, where there is only one."""
        return self.inputs[0][1] if len(self.inputs) == 1 else None


Rule = Callable[[Call], TensorExtent | None]
"""A rule tells what the places of an operation's outputs see, or None where it cannot tell."""


def unknown(call: Call) -> None:
    """Nothing is known of the operation."""
    return


def pointwise(call: Call) -> TensorExtent | None:
    """Every place is made of the inputs' at the same place; inputs without places are spread."""
    shape = call.out.shape
    seen = call.inputs[0][1]
    dims = _aligned(seen.dims, len(shape))
    for tensor, other in call.inputs:
        sizes = (1,) * (len(shape) - tensor.dim()) + tuple(tensor.shape)
        spread = any(group and sizes[d] != shape[d] for d, group in enumerate(dims))
        if spread or _aligned(other.dims, len(shape)) != dims:
            return None
        seen = seen.beside(other)
    return seen if seen.dims == dims else replace(seen, dims=dims)


def _aligned(dims: Dims, count: int) -> Dims:
    return ((),) * (count - len(dims)) + dims


def _same(call: Call) -> TensorExtent | None:
    return call.only


def _batch_norm(call: Call) -> TensorExtent | None:
    """With frozen statistics every place for itself."""
    return None if call.given.get("training") else call.only


def _layer_norm(call: Call) -> TensorExtent | None:
    """Every place for itself, where the dimensions that are normalised have none."""
    seen, count = call.only, len(call.given["normalized_shape"])
    return None if seen is None or any(seen.dims[-count:]) else seen


def _along_one(call: Call) -> TensorExtent | None:
    """As many outputs as places, whatever happens along a dimension that has none."""
    seen = call.only
    return None if seen is None or seen.dims[call.given["dim"]] else seen


def _reduction(call: Call) -> TensorExtent | None:
    """Dimensions without places are summed up."""
    seen, wanted = call.only, call.given.get("dim")
    if seen is None or wanted is None or wanted == []:
        return None
    count = len(seen.dims)
    gone = {d % count for d in ([wanted] if isinstance(wanted, int) else wanted)}
    if any(seen.dims[d] for d in gone):
        return None
    if call.given.get("keepdim"):
        return seen
    return replace(seen, dims=tuple(group for d, group in enumerate(seen.dims) if d not in gone))


def _product(call: Call) -> TensorExtent | None:
    """A matrix (…, c) times one without places: every row for itself."""
    seen, left = call.only, call.given["mat1" if "mat1" in call.given else "self"]
    if seen is None or call.inputs[0][0] is not left or seen.dims[-1]:
        return None
    return seen


def _convolution(call: Call) -> TensorExtent | None:
    given = call.given
    if call.inputs[0][0] is not given["input"]:
        return None
    kind = along.spread if given["transposed"] else along.window
    kernel = given["weight"].shape[2:]
    return _layered(
        call,
        lambda axis, count, _: kind(
            count,
            kernel[axis],
            stride=_at(given["stride"], axis),
            padding=_at(given["padding"], axis),
            dilation=_at(given["dilation"], axis),
        ),
    )


def _pooling(call: Call) -> TensorExtent | None:
    given = call.given
    return _layered(
        call,
        lambda axis, count, _: along.window(
            count,
            _at(given["kernel_size"], axis),
            # Without a stride the kernels stand side by side.
            stride=_at(given["stride"] or given["kernel_size"], axis),
            padding=_at(given["padding"], axis),
            dilation=_at(given.get("dilation", 1), axis),
        ),
    )


def _nearest(call: Call) -> TensorExtent | None:
    return _layered(call, lambda axis, count, size: along.nearest(count, _scale(call, axis, count, size)))


def _linear(call: Call) -> TensorExtent | None:
    corners = call.given["align_corners"]
    return _layered(
        call,
        lambda axis, count, size: along.linear(count, _scale(call, axis, count, size), align_corners=corners),
    )


def _cubic(call: Call) -> TensorExtent | None:
    corners = call.given["align_corners"]
    return _layered(
        call,
        lambda axis, count, size: along.cubic(count, _scale(call, axis, count, size), align_corners=corners),
    )


def _scale(call: Call, axis: int, count: int, size: int) -> Fraction:
    """Input cells per output cell, as torch computes it; `count` cells are made of `size`."""
    given = call.given["scales_w" if axis else "scales_h"]
    if call.given.get("align_corners"):
        scale = Fraction(size - 1, max(1, count - 1))
    else:
        scale = 1 / Fraction(given) if given else Fraction(size, count)
    call.scales.append(scale)
    return scale


def _shuffle(call: Call) -> TensorExtent | None:
    """Channels become places."""
    factor = call.given["upscale_factor"]
    return _layered(call, lambda _, count, __: along.enlarged(count, factor))


def _unshuffle(call: Call) -> TensorExtent | None:
    """Places become channels."""
    factor = call.given["downscale_factor"]
    return _layered(
        call, lambda _, count, __: along.window(count, factor, stride=factor, padding=0, dilation=1)
    )


def _constant_pad(call: Call) -> TensorExtent | None:
    """Padding, or cutting where it is negative."""
    pads: list[int] = [*call.given["pad"], 0, 0]
    left, top = pads[0], pads[2]
    return _layered(call, lambda axis, count, _: along.shifted(count, -left if axis else -top))


def _reflection_pad(call: Call) -> TensorExtent | None:
    left, _, top, _ = call.given["padding"]
    return _layered(call, lambda axis, count, size: along.mirrored(count, size, left if axis else top))


def _replication_pad(call: Call) -> TensorExtent | None:
    left, _, top, _ = call.given["padding"]
    return _layered(call, lambda axis, count, _: along.repeated(count, left if axis else top))


def _layered(call: Call, indices: Callable[[int, int, int], InputIndices]) -> TensorExtent | None:
    """What a layer's output cells see; indices(axis, count of output cells, count of input cells) is its geometry."""
    seen = call.only
    if seen is None or seen.dims != IMAGE or call.out.dim() != len(IMAGE):
        return None
    counts = call.out.shape[2:]
    rows, cols = (
        along.through(seen.of(axis), indices(k, counts[k], len(seen.of(axis)))) for k, axis in enumerate(AXES)
    )
    return TensorExtent(IMAGE, rows, cols)


def _at(sizes: int | Sequence[int], axis: int) -> int:
    return sizes if isinstance(sizes, int) else sizes[axis % len(sizes)]


def _cat(call: Call) -> TensorExtent | None:
    """One behind the other along a dimension without places."""
    seen = call.inputs[0][1]
    if seen.dims[call.given["dim"]] or any(other.dims != seen.dims for _, other in call.inputs):
        return None
    for _, other in call.inputs:
        seen = seen.beside(other)
    return seen


def _stack(call: Call) -> TensorExtent | None:
    seen, at = call.inputs[0][1], call.given["dim"] % call.out.dim()
    if any(other.dims != seen.dims for _, other in call.inputs):
        return None
    for _, other in call.inputs:
        seen = seen.beside(other)
    return replace(seen, dims=(*seen.dims[:at], (), *seen.dims[at:]))


def _slice(call: Call) -> TensorExtent | None:
    seen, given = call.only, call.given
    if seen is None or not seen.dims[given["dim"]]:
        return seen
    group = seen.dims[given["dim"]]
    axis = group[0]
    if len(group) > 1 or isinstance(axis, int):
        return None
    start, _, step = slice(given["start"], given["end"], given["step"]).indices(len(seen.of(axis)))
    cut = along.through(seen.of(axis), along.shifted(call.out.shape[given["dim"]], start, step))
    return replace(seen, rows=cut) if axis == "rows" else replace(seen, cols=cut)


def _select(call: Call) -> TensorExtent | None:
    """One of the slices, or all, along a dimension without places, which goes."""
    seen = _along_one(call)
    if seen is None:
        return None
    at = call.given["dim"] % len(seen.dims)
    return replace(seen, dims=seen.dims[:at] + seen.dims[at + 1 :])


def _permute(call: Call) -> TensorExtent | None:
    seen = call.only
    if seen is None:
        return None
    return replace(seen, dims=tuple(seen.dims[d] for d in call.given["dims"]))


def _transpose(call: Call) -> TensorExtent | None:
    seen = call.only
    if seen is None or len(seen.dims) < 2:
        return seen
    dims, one, other = list(seen.dims), call.given.get("dim0", 0), call.given.get("dim1", 1)
    dims[one], dims[other] = dims[other], dims[one]
    return replace(seen, dims=tuple(dims))


def _reshape(call: Call) -> TensorExtent | None:
    """The same numbers in the same order under another shape; no axis may be cut."""
    seen, tensor = call.only, call.inputs[0][0]
    if seen is None:
        return None
    parts: list[Axis | int] = []
    for size, group in zip(tensor.shape, seen.dims, strict=True):
        parts += group or (size,)
    dims = _regroup(parts, call.out.shape, {axis: len(seen.of(axis)) for axis in AXES})
    return None if dims is None else replace(seen, dims=dims)


def _regroup(parts: Sequence[Axis | int], shape: Sequence[int], lengths: Mapping[Axis, int]) -> Dims | None:
    """The dimensions of this shape as groups of the parts, in order; None where an axis would be cut."""
    left: list[Axis | int] = []
    for part in parts:
        if isinstance(part, int) and left and isinstance(left[-1], int):
            left[-1] *= part
        elif part != 1:
            left.append(part)
    dims: list[Group] = []
    for size in shape:
        group: list[Axis | int] = []
        while size > 1:
            if not left:
                return None
            part = left.pop(0)
            length = part if isinstance(part, int) else lengths[part]
            if isinstance(part, int) and length % size == 0 and length > size:
                left.insert(0, length // size)
                part, length = size, size
            if size % length:
                return None
            group.append(part)
            size //= length
        dims.append(() if all(isinstance(part, int) for part in group) else tuple(group))
    return None if left else tuple(dims)


_BY_NAME: Mapping[Rule, Sequence[str]] = {
    _same: (
        "_to_copy", "clone", "contiguous", "detach", "alias", "lift_fresh", "hardswish", "hardswish_", "_prelu_kernel",
        "native_dropout",
    ),
    pointwise: ("expand",),
    _batch_norm: ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"),
    _layer_norm: ("native_layer_norm",),
    _along_one: ("_softmax", "_log_softmax", "split", "split_with_sizes"),
    _reduction: ("mean", "sum", "amax", "amin", "max", "min", "var", "var_mean", "linalg_vector_norm"),
    _product: ("mm", "addmm", "bmm"),
    _convolution: ("convolution",),
    _pooling: ("max_pool2d_with_indices", "avg_pool2d"),
    _nearest: ("upsample_nearest2d",),
    _linear: ("upsample_bilinear2d",),
    _cubic: ("upsample_bicubic2d",),
    _shuffle: ("pixel_shuffle",),
    _unshuffle: ("pixel_unshuffle",),
    _constant_pad: ("constant_pad_nd",),
    _reflection_pad: ("reflection_pad2d",),
    _replication_pad: ("replication_pad2d",),
    _cat: ("cat",),
    _stack: ("stack",),
    _slice: ("slice",),
    _select: ("select", "unbind"),
    _permute: ("permute",),
    _transpose: ("transpose", "t"),
    _reshape: ("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze"),
}  # fmt: skip
RULES: Mapping[str, Rule] = {f"aten::{name}": rule for rule, names in _BY_NAME.items() for name in names}

_POOLING, _ATTENTION = "pooling over the whole map", "products across the map (attention)"
REASONS: Mapping[str, str] = {
    **dict.fromkeys(
        ("aten::mean", "aten::sum", "aten::amax", "aten::_adaptive_avg_pool2d", "aten::adaptive_max_pool2d"),
        _POOLING,
    ),
    **dict.fromkeys(("aten::mm", "aten::bmm", "aten::addmm", "aten::_softmax"), _ATTENTION),
    "aten::native_group_norm": "group norm, whose statistics are the whole map's",
    "aten::native_layer_norm": "layer norm over the whole map",
    "torchvision::deform_conv2d": "deformable convolution, which looks where the image tells it to",
}
"""What the operations are called that see the whole map, for people."""
