"""What of a network never reaches its logits: libraries build whole encoders, whatever of them a decoder reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from aerial_seg.models.network import Network
from aerial_seg.models.replace import replace_modules

_SIDES = (128, 224, 256, 384, 448, 512)
"""Sides of the image that shows what runs; the first is enough but for encoders that take one side alone."""

_CANNOT = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError)
"""What libraries raise for a side that they cannot take, and torch for what it cannot do without values."""


def drop_unused(network: Network, *, bands: int) -> None:
    """Only modules are left of which a weight reaches the logits; network.unused tells the tensors that went.

    What counts is the forward of training and of prediction, the auxiliary head's logits included. A module that went
    is an identity, so all others keep their names, their weights and what they compute. A network that takes no image
    of _SIDES stays whole.
    """
    drop_modules(network, unused_modules(network, bands=bands))


def unused_modules(network: Network, *, bands: int) -> tuple[str, ...]:
    """Name the modules that drop_unused drops, which running the network shows; it is left as it is."""
    shown = _first_shown(network, bands)
    if shown is None:
        return ()
    probe, reached = shown
    parts = set(_unreached_parts(network, reached))
    names = tuple(name for name, module in network.named_modules() if module in parts)
    if not names:
        return ()
    undone = replace_modules(network, {part: Unused() for part in parts})
    try:
        _reached(network, probe)
    except _CANNOT:  # a module that ran to no effect, and whose shapes were wanted all the same
        return ()
    finally:
        replace_modules(network, undone)
    return names


def drop_modules(network: Network, names: Sequence[str]) -> None:
    """Identities stand where these modules were; network.unused tells the tensors that went."""
    if not names:
        return
    before = _layout(network)
    replace_modules(network, {network.get_submodule(name): Unused() for name in names})
    left = _layout(network)
    network.unused = {name: fact for name, fact in before.items() if name not in left}


class Unused(nn.Module):
    """Stands where a module was whose result nobody reads: what it is given goes through."""

    def forward(self, features: Tensor, *_others: object, **_named: object) -> Tensor:
        """features (N,C,h,w) → the same."""
        return features


@dataclass(frozen=True, slots=True)
class _Probe:
    """The image that shows what runs: bands, side in pixels; device: meta has shapes and no values."""

    bands: int
    side: int
    device: str


def _layout(network: nn.Module) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape by name."""
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in network.state_dict().items()}


def _unreached_parts(module: nn.Module, reached: set[nn.Module]) -> Iterator[nn.Module]:
    """The outermost modules that hold tensors, none of which matters."""
    for child in module.children():
        holding = [inner for inner in child.modules() if _own_tensors(inner)]
        if holding and reached.isdisjoint(holding):
            yield child
        else:
            yield from _unreached_parts(child, reached)


def _own_tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _first_shown(network: Network, bands: int) -> tuple[_Probe, set[nn.Module]] | None:
    """The first probe that the network takes, and what it reaches; None where it takes none.

    Raises RuntimeError where only weights could tell, and the network has none.
    """
    step, wants_values = network.geometry.origin_step, False
    # Shapes alone are wanted; some networks compute with values all the same.
    for device in ("meta", "cpu"):
        if device == "cpu" and not wants_values:
            return None
        if device == "cpu" and any(weight.is_meta for weight in network.parameters()):
            raise RuntimeError(f"{network.name} does not show without weights what it runs")
        for side in _SIDES:
            probe = _Probe(bands, network.geometry.nearest_valid_sides(max(side, step))[1], device)
            try:
                return probe, _reached(network, probe)
            except _CANNOT as error:
                wants_values |= "meta" in str(error)  # how torch calls tensors without values
    return None


def _reached(network: Network, probe: _Probe) -> set[nn.Module]:
    """The modules of which a parameter reaches the logits; of those with buffers alone, which are read."""
    was_training = network.training
    try:
        # Both modes: what only one of them runs is of use.
        return _reached_now(network.train(), probe) | _reached_now(network.eval(), probe)
    finally:
        network.train(was_training)


def _reached_now(network: Network, probe: _Probe) -> set[nn.Module]:
    """As _reached, in the mode that the network is in; stand-ins for its tensors keep it as it is."""
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    stand_ins = {f"network.{name}": _stand_in(tensor, probe.device) for name, tensor in named.items()}
    image = torch.zeros(2, probe.bands, probe.side, probe.side, device=probe.device)
    with (
        torch.random.fork_rng(devices=[]),
        torch.device(probe.device),
        torch.enable_grad(),
        _Reads() as reads,
    ):
        logits: Sequence[Tensor] = functional_call(_Everything(network), stand_ins, (image,))
    leaves = _leaves(logits)
    stood_for = dict(zip(map(id, named.values()), map(id, stand_ins.values()), strict=True))
    return {
        module
        for module in network.modules()
        for own, which in (
            (list(module.parameters(recurse=False)), leaves),
            (_buffers_alone(module), reads.seen),
        )
        if any(stood_for[id(tensor)] in which for tensor in own)
    }


def _buffers_alone(module: nn.Module) -> list[Tensor]:
    return [] if list(module.parameters(recurse=False)) else list(module.buffers(recurse=False))


def _stand_in(tensor: Tensor, device: str) -> Tensor:
    """A copy on the CPU; elsewhere its shape alone, which costs nothing."""
    copied = tensor.detach().clone() if device == "cpu" else torch.empty_like(tensor, device=device)
    return copied.requires_grad_(isinstance(tensor, nn.Parameter))


class _Everything(nn.Module):
    """All logits of a network, those of its auxiliary head included."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (N,C,H,W) → all logits."""
        members, side = self.network.forward_members(image)
        return [*members, *([] if side is None else [side])]


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers which tensors operators read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[int] = set()

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: Any = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        """What the operator gives."""
        self.seen.update(id(value) for value in tree_iter((arguments, named)) if isinstance(value, Tensor))
        return operator(*arguments, **(named or {}))


def _leaves(logits: Sequence[Tensor]) -> set[int]:
    """The tensors that a gradient of the logits would reach."""
    leaves: set[int] = set()
    waiting: list[Any] = [one.grad_fn for one in logits]
    known = set(waiting)
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        for following, _ in node.next_functions:
            if following is not None and following not in known:
                known.add(following)
                waiting.append(following)
    return leaves
