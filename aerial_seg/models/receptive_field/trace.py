"""A forward on torch's meta device, followed operation by operation: which tensor's places see which pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aerial_seg.models.receptive_field.intervals import CellExtent, pixels
from aerial_seg.models.receptive_field.op_rules import (
    IMAGE,
    REASONS,
    RULES,
    Call,
    TensorExtent,
    pointwise,
    unknown,
)


@dataclass(frozen=True, slots=True)
class Trace:
    """What the cells of an output (N,C,h,w) see along its rows and columns, and the scales of all interpolations."""

    rows: CellExtent
    cols: CellExtent
    scales: tuple[Fraction, ...]


@dataclass(frozen=True, slots=True)
class Untraceable:
    """The output may depend on every pixel, and why."""

    reason: str


def trace(network: nn.Module, bands: int, side: int) -> Trace | Untraceable:
    """What the network's output cells see of a square image; the network must be on the meta device.

    Raises what the network's forward raises.
    """
    first = next(network.parameters(), None)
    dtype = torch.float32 if first is None else first.dtype
    image = torch.empty(1, bands, side, side, device="meta", dtype=dtype)
    follower = _Follower(image)
    # Not inference mode, in which composite operations would arrive whole.
    with follower, torch.no_grad():
        output = network(image)
    seen = follower.look(output) if isinstance(output, Tensor) else None
    if seen is None:
        return Untraceable("the logits cannot be followed back to the image")
    if isinstance(seen, Untraceable):
        return seen
    if seen.dims != IMAGE:
        return Untraceable("the logits are no map (N,K,h,w)")
    return Trace(seen.rows, seen.cols, tuple(follower.scales))


class _Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps, for every tensor that depends on the image, what its places see."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.scales: list[Fraction] = []
        # Tensors are known by their identity and memories by their address, so none may go.
        self._kept: list[Tensor] = []
        self._states: dict[int, TensorExtent | Untraceable] = {}
        self._memories: dict[int, int] = {}
        self._spoilt: set[int] = set()
        start = pixels(image.shape[-1])
        self._note(image, TensorExtent(IMAGE, start, start))

    def look(self, tensor: Tensor) -> TensorExtent | Untraceable | None:
        """What the tensor sees; None: nothing of the image."""
        memory = _memory(tensor)
        if memory in self._spoilt:
            return Untraceable("a change in place through a view")
        state = self._states.get(id(tensor))
        if state is None and memory in self._memories:
            return Untraceable("a view that was taken unnoticed")
        return state

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation and notes what its outputs see."""
        kwargs = kwargs or {}
        seen = [
            (tensor, state) for tensor in _tensors((args, kwargs)) if (state := self.look(tensor)) is not None
        ]
        out = func(*args, **kwargs)
        if seen:
            given = _arguments(func, args, kwargs)
            state = self._judge(func, given, seen, _tensors(out))
            written = [
                given[a.name] for a in func._schema.arguments if a.alias_info and a.alias_info.is_write
            ]
            for tensor in _tensors(written):
                self._overwrite(tensor, state)
            for tensor in _tensors((out, written)):
                self._note(tensor, state)
        return out

    def _judge(
        self,
        func: Any,
        given: dict[str, Any],
        seen: list[tuple[Tensor, TensorExtent | Untraceable]],
        outputs: list[Tensor],
    ) -> TensorExtent | Untraceable:
        inputs = []
        for tensor, state in seen:
            if isinstance(state, Untraceable):
                return state
            inputs.append((tensor, state))
        name = f"{func.namespace}::{func.overloadpacket.__name__}"
        followed = None
        if outputs:
            rule = pointwise if torch.Tag.pointwise in func.tags else RULES.get(name, unknown)
            followed = rule(Call(given, tuple(inputs), outputs[0], self.scales))
        return followed or Untraceable(REASONS.get(name, f"the operation {name}, which is not followed"))

    def _overwrite(self, tensor: Tensor, state: TensorExtent | Untraceable) -> None:
        """The tensor's memory holds something else now, of which other tensors there have not heard."""
        before, memory = self._states.get(id(tensor)), _memory(tensor)
        if before is not state and (before is None or self._memories[memory] > 1):
            self._spoilt.add(memory)

    def _note(self, tensor: Tensor, state: TensorExtent | Untraceable) -> None:
        if id(tensor) not in self._states:
            memory = _memory(tensor)
            self._memories[memory] = self._memories.get(memory, 0) + 1
            self._kept.append(tensor)
        self._states[id(tensor)] = state


def _tensors(nested: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _arguments(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of the operation by name, defaults included."""
    known = func._schema.arguments
    given = {argument.name: argument.default_value for argument in known}
    given.update({argument.name: value for argument, value in zip(known, args, strict=False)})
    return given | dict(kwargs)
