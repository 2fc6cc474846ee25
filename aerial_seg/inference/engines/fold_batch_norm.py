"""Batch norms that only rescale a convolution's output become part of its weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized

from aerial_seg.models.replace import replace_modules, rest_of_norm

FOLD_TOLERANCE = 1e-4
"""Largest difference of the logits that folding may make, relative to the largest logit."""

Convolution = nn.Conv2d | nn.ConvTranspose2d


@dataclass(frozen=True, slots=True)
class Folded:
    """Tell what folding came to.

    count, left: batch norms of the forward that went and that stay. change: of the logits, relative to the largest.
    """

    count: int
    left: int
    change: float


def fold_batch_norms(network: nn.Module, image: Tensor) -> Folded:
    """Fold each batch norm that alone reads a convolution's output into that convolution.

    Works in place on a network in evaluation mode. What belongs together is seen in one forward of image (N,C,H,W),
    so it does not matter how a network names or nests its modules; what the forward never calls stays as it is.
    Where the folded network's logits differ by more than FOLD_TOLERANCE the old weights come back, and count is 0.
    """
    witness, reference = _run_watched(network, image)
    pairs = witness.pairs(reference)
    kept = {conv: (conv.weight, conv.bias) for conv, _ in pairs}
    for conv, norm in pairs:
        _fold(conv, norm)
    swapped = replace_modules(network, {norm: rest_of_norm(norm) for _, norm in pairs})
    with torch.no_grad():
        change = float((network(image) - reference).abs().max() / reference.abs().max().clamp(min=1e-12))
    good = change <= FOLD_TOLERANCE
    if not good:  # NaN included
        for conv, (weight, bias) in kept.items():
            conv.weight, conv.bias = weight, bias
        replace_modules(network, swapped)
    count = len(pairs) if good else 0
    return Folded(count=count, left=len(witness.read) - count, change=change)


class _Witness:
    """Sees a forward and remembers which batch norm read exactly what a convolution wrote.

    The autograd graph tells: a tensor written in place since then has another node, and a node with a second edge
    into it has another reader, be it a module or a plain function.
    """

    def __init__(self) -> None:
        self.calls: dict[nn.Module, int] = {}
        self.written: dict[Node, Convolution] = {}
        self.read: list[tuple[Node | None, nn.BatchNorm2d]] = []

    def watch(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """A forward hook."""
        self.calls[module] = self.calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and output.grad_fn is not None:
            self.written[output.grad_fn] = module
        elif isinstance(module, nn.BatchNorm2d):
            self.read.append((inputs[0].grad_fn, module))

    def pairs(self, logits: Tensor) -> list[tuple[Convolution, nn.BatchNorm2d]]:
        """(convolution, batch norm) that can be folded, in the order of the forward."""
        readers = _edges_into(logits)
        return [
            (self.written[node], norm)
            for node, norm in self.read
            if node in self.written and readers.get(node) == 1 and self._can_fold(self.written[node], norm)
        ]

    def _can_fold(self, conv: Convolution, norm: nn.BatchNorm2d) -> bool:
        return (
            self.calls[conv] == self.calls[norm] == 1
            and norm.running_mean is not None
            and type(norm) in (nn.BatchNorm2d, BatchNormAct2d)
            and not is_parametrized(conv)
            and not (isinstance(conv, nn.ConvTranspose2d) and conv.groups > 1)
        )


def _run_watched(network: nn.Module, image: Tensor) -> tuple[_Witness, Tensor]:
    """(what was seen, logits of the image with their graph)."""
    witness = _Witness()
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
    hooks = [
        module.register_forward_hook(witness.watch)
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    try:
        # Only the graph's edges are wanted: keeping no activations makes it as light as inference.
        with torch.enable_grad(), saved_tensors_hooks(lambda _: None, _never_unpacked):
            logits = network(image.detach().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    return witness, logits


def _never_unpacked(_: object) -> Tensor:
    raise AssertionError("nobody runs this graph backwards")


def _edges_into(logits: Tensor) -> dict[Node, int]:
    """How often each node of the graph is read."""
    assert logits.grad_fn is not None
    edges: dict[Node, int] = {logits.grad_fn: 1}
    waiting = [logits.grad_fn]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is None:
                continue
            if node not in edges:
                waiting.append(node)
            edges[node] = edges.get(node, 0) + 1
    return edges


@torch.no_grad()
def _fold(conv: Convolution, norm: nn.BatchNorm2d) -> None:
    """The convolution's weights hold the batch norm; computed in float64, for the rounding to happen once."""
    assert norm.running_mean is not None
    assert norm.running_var is not None

    def wide(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.double()

    weight, bias = fuse_conv_bn_weights(
        conv.weight.double(),
        wide(conv.bias),
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        wide(norm.weight),
        wide(norm.bias),
        transpose=isinstance(conv, nn.ConvTranspose2d),
    )
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
