"""A protocol carried out on one image: members of scales and flips, brought to the image's size and averaged there."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aerial_seg.benchmarks.protocol import Member, ResolvedProtocol
from aerial_seg.benchmarks.resize import resize_bilinear
from aerial_seg.benchmarks.slide import slide_scores
from aerial_seg.crf.dense import refine
from aerial_seg.crf.settings import DenseCrf
from aerial_seg.inference.device.upsample import DeviceUpsampler, first_largest
from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.models.device import has_own_memory
from aerial_seg.tiling.upsample import RowUpsampler

_VALUES_AT_ONCE = 1 << 25
"""Scores that are enlarged or softmaxed at a time: 150 classes at 2048×1024 are 1.2 GiB, and two more copies of that
are too many."""


@torch.inference_mode()
def class_scores(image: Tensor, net: PaddedForward, protocol: ResolvedProtocol) -> Tensor:
    """Scores (K,H,W) float32 of image (C,H,W) float32, normalised, at its original size.

    They are the mean over the protocol's members of their logits, or of their probabilities. Members are added in the
    protocol's order, each at the original size, un-mirrored.
    Source: Chen et al. 2017, Rethinking Atrous Convolution, sections 4.1 and 4.2.
    """
    total: Tensor | None = None
    for member in protocol.members:
        scores = _member_logits(image, net, protocol, member)
        if protocol.average == "probabilities" and not _is_softmaxed(protocol):
            _softmax_in_place(scores)
        total = scores if total is None else total.add_(scores)
    assert total is not None
    return total.div_(len(protocol.members)) if len(protocol.members) > 1 else total


@torch.inference_mode()
def predict_classes(
    image: Tensor, net: PaddedForward, protocol: ResolvedProtocol, photograph: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """The channel with the largest score of every pixel, (H,W) uint8, the first one in a tie.

    photograph (C,H,W): the image as it was published; only a protocol with a CRF looks at it, and needs it.

    Without one, a single member needs no softmax, which changes no order; if it is also at the image's own size, its
    pixels are made from the lattice directly, and scores at full size never exist.
    """
    if protocol.crf is not None:
        if photograph is None:
            raise ValueError("a CRF needs the photograph itself")
        scores = class_scores(image, net, protocol)
        if protocol.average == "logits":
            _softmax_in_place(scores)
        return _refined(scores, photograph, protocol.crf)
    if len(protocol.members) > 1:
        return _largest(class_scores(image, net, protocol))
    (member,) = protocol.members
    height, width = image.shape[1:]
    is_plain = protocol.window is None and not member.mirrored
    if is_plain and protocol.resize.shape(height, width, member.scale) == (height, width):
        return _largest_between_cells(net.cells(image[None])[0], net, height, width)
    return _largest(_member_logits(image, net, protocol, member))


def _is_softmaxed(protocol: ResolvedProtocol) -> bool:
    return protocol.window is not None and protocol.window.average == "probabilities"


def _member_logits(image: Tensor, net: PaddedForward, protocol: ResolvedProtocol, member: Member) -> Tensor:
    """Logits (K,H,W) of one member at the image's size, or the average of its windows' probabilities."""
    height, width = image.shape[1:]
    run_height, run_width = protocol.resize.shape(height, width, member.scale)
    seen = resize_bilinear(image, run_height, run_width)
    seen = seen.flip(-1) if member.mirrored else seen
    if protocol.window is None:
        source = net.cells(seen[None])[0]
    else:
        source = slide_scores(seen, net, protocol.window, flip=protocol.flip)

    def pixels(part: Tensor) -> Tensor:
        if protocol.window is None:
            part = net.upsample(part[None], run_height, run_width)[0]
        return resize_bilinear(part.flip(-1) if member.mirrored else part, height, width)

    largest = max(height * width, run_height * run_width)
    channels = max(1, _VALUES_AT_ONCE // largest)
    if channels >= len(source):
        return pixels(source)
    scores = source.new_empty(len(source), height, width)
    for start in range(0, len(source), channels):
        scores[start : start + channels] = pixels(source[start : start + channels])
    return scores


def _softmax_in_place(logits: Tensor) -> None:
    """logits (K,H,W) have become probabilities, some rows at a time."""
    rows = max(1, _VALUES_AT_ONCE // (logits.shape[0] * logits.shape[2]))
    for start in range(0, logits.shape[1], rows):
        part = logits[:, start : start + rows]
        part.copy_(part.softmax(0))


def _refined(probabilities: Tensor, photograph: NDArray[np.uint8], crf: DenseCrf) -> NDArray[np.uint8]:
    """The classes that the field finds most probable; every pixel of a photograph was measured."""
    measured = np.ones(photograph.shape[1:], np.bool_)
    marginals = refine(probabilities.cpu().numpy(), photograph, measured, crf)
    classes: NDArray[np.uint8] = marginals.argmax(axis=0).astype(np.uint8)
    return classes


def _largest(scores: Tensor) -> NDArray[np.uint8]:
    """The first of several maxima."""
    classes: NDArray[np.uint8] = first_largest(scores)[1].cpu().numpy()
    return classes


def _largest_between_cells(cells: Tensor, net: PaddedForward, height: int, width: int) -> NDArray[np.uint8]:
    """The classes of the first height×width pixels that cells (K,n,m) cover, made where the cells lie.

    Both carriers of the lattice make the same bytes; on a CPU the host's is the faster one.
    """
    rows, cols = net.axis(height, cells.shape[1]), net.axis(width, cells.shape[2])
    needed = cells[:, : rows.cells.stop, : cols.cells.stop]
    if has_own_memory(cells.device):
        on_device = DeviceUpsampler(rows, cols, device=cells.device).push(needed)
        classes: NDArray[np.uint8] = torch.cat([done.channels for done in on_device]).cpu().numpy()
        return classes
    channels_last = needed.permute(1, 2, 0).contiguous().numpy()
    return np.concatenate([done.channels for done in RowUpsampler(rows, cols).push(channels_last)])
