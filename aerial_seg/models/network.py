"""One small interface for every network: image in, logits at a stated stride out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from aerial_seg.errors import SettingsError
from aerial_seg.models.backbone.dilation import Striding
from aerial_seg.models.backbone.stages import keeps_every_side
from aerial_seg.models.dilation_rates import keep_reach
from aerial_seg.models.heads.blocks import Decoder
from aerial_seg.tiling.geometry import ModelGeometry

MSC_SCALES = (0.5, 0.75)
"""Beside the image itself. Source: Chen et al. 2018, DeepLab (v2), section 4.1.2: scales 0.5, 0.75 and 1."""
MSC_STEP = 4
"""Origins on multiples of this many cells are on the lattices of all three scales."""


class Network(nn.Module):
    """Compute logits, and state the geometry that tiling needs to know.

    `forward` takes image (N,C,H,W) float32, normalised, with sides that `geometry` calls valid, and returns logits
    (N,K,H/s,W/s) at its logit stride s. `forward_training` adds the auxiliary logits, or None. any_side: whether it
    also takes every other side, and then has geometry.cells(side) cells. unused: type and shape by name of the tensors
    that its library would have built, and that no logit depends on: it has none of them.
    """

    geometry: ModelGeometry
    any_side: bool = False
    unused: Mapping[str, tuple[torch.dtype, tuple[int, ...]]] = MappingProxyType({})

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,h,w)."""
        raise NotImplementedError

    def forward_training(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """As forward, with the logits of the auxiliary head where the network has one."""
        return self(image), None

    def forward_members(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """All logits that have a full loss of their own, those of forward first; and the auxiliary ones."""
        logits, aux_logits = self.forward_training(image)
        return (logits,), aux_logits

    def forward_scales(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """As forward_members, the logits of each scale on that scale's own lattice."""
        return self.forward_members(image)

    def drop_training_parts(self) -> None:
        """What only training needs is gone."""

    def set_output_stride(self, output_stride: int) -> None:
        """The same weights at another output stride, every convolution looking as far in pixels as before.

        Raises SettingsError for a network whose stride is fixed, and for rates that would be no whole numbers.
        """
        raise SettingsError(
            f"output stride {output_stride} is asked for, but {self.name} has {self.geometry.output_stride} and cannot "
            "be rebuilt at another; use a protocol without output_stride (mmseg), or train a ResNet with one of the "
            "architectures that are ours (fcn, deeplabv2, deeplabv3, pspnet, …)"
        )

    def take_own_places(self) -> None:
        """After a change of its output stride cells stand for the pixels that are theirs, as training teaches them."""

    @property
    def runs_whole(self) -> bool:
        """Whether its logits depend on every weight by the way that it was built."""
        return False

    @property
    def run_once(self) -> nn.Module:
        """The part of which every module runs at most once per image: what may be folded."""
        return self

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__


class DilatedNetwork(Network):
    """A dilated encoder with one of our heads and, in training, an auxiliary head on the stage before the last.

    strides: where the encoder (and a cascade behind it) strides; None where its library dilated it, for good.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        auxiliary: nn.Module | None,
        *,
        geometry: ModelGeometry,
        strides: Striding | None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.auxiliary = auxiliary
        self.geometry = geometry
        self.any_side = strides is not None and keeps_every_side(encoder) and not geometry.align_corners
        self._strides = strides

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,H/s,W/s)."""
        return self.on_lattice(self.all_cells(image), image)

    def forward_training(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of the head and of the auxiliary head, each at its own stride."""
        logits, aux_logits = self.all_cells_training(image)
        return self.on_lattice(logits, image), aux_logits

    def all_cells(self, image: Tensor) -> Tensor:
        """As forward, with the cells beyond even sides that a max-pool in ceil mode makes."""
        return self._head_logits(self.encoder(image))

    def all_cells_training(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """As forward_training, with the cells beyond even sides that a max-pool in ceil mode makes."""
        features = self.encoder(image)
        aux_logits = None if self.auxiliary is None else self.auxiliary(features[-2])
        return self._head_logits(features), aux_logits

    def on_lattice(self, logits: Tensor, image: Tensor) -> Tensor:
        """The logits without cells beyond those that the geometry counts for the image; stretched ones all count."""
        if not self.any_side or self.geometry.stretched_side is not None:
            return logits
        height, width = (self.geometry.cells(side) for side in image.shape[2:])
        return logits if logits.shape[2:] == (height, width) else logits[:, :, :height, :width]

    @property
    def runs_whole(self) -> bool:
        """On a ResNet dilated here; a library's encoder may end with layers that only its classifier read."""
        return self._strides is not None

    def drop_training_parts(self) -> None:
        """The auxiliary head is gone."""
        self.auxiliary = None

    def set_output_stride(self, output_stride: int) -> None:
        """The same weights at another output stride: rates of backbone, multi-grid and head follow the density.

        At a smaller stride the cells that both lattices share have the old logits, but for pooling over the image or
        its parts, for deformable convolutions and for decoders' enlargements; a cell keeps the place in its pixels that
        it was trained for (geometry's cell_span).
        Raises SettingsError for a stride that the network cannot have, and rates that would be no integers.
        Source: Chen et al. 2017, Rethinking Atrous Convolution, sections 3.1 to 3.3 and 4.2.
        """
        if output_stride == self.geometry.output_stride:
            return
        strides = self._strides
        if strides is None:
            super().set_output_stride(output_stride)
            return
        check_output_stride(output_stride, strides)
        before = self.geometry
        if before.stretched_side is not None:
            raise SettingsError(
                f"output stride {output_stride} is asked for, but the network's cells were stretched over its crops at "
                f"{before.output_stride}, and lie elsewhere at another; use a protocol without output_stride (mmseg)"
            )
        try:
            keep_reach(self, lambda: strides.set(output_stride), bands=first_conv(self.encoder).in_channels)
        except SettingsError:
            strides.set(before.output_stride)
            raise
        if isinstance(self.head, Decoder):
            # Its logits stay where they were; only what it reads became denser.
            self.geometry = replace(before, output_stride=output_stride, origin_step=max(4, output_stride))
            return
        self.geometry = ModelGeometry(
            output_stride=output_stride,
            logit_stride=output_stride,
            origin_step=output_stride,
            align_corners=before.align_corners,
            cell_span=before.cell_span or before.logit_stride,
        )

    def take_own_places(self) -> None:
        """The geometry's cell_span is gone."""
        self.geometry = replace(self.geometry, cell_span=None)

    def _head_logits(self, features: list[Tensor]) -> Tensor:
        logits: Tensor = self.head(features if isinstance(self.head, Decoder) else features[-1])
        return logits


class MultiScaleNetwork(Network):
    """A network on the image at 0.5, 0.75 and 1 of its size with the same weights; the largest logit of the three wins.

    Source: Chen et al. 2018, DeepLab (v2), section 4.1.2, "multi-scale inputs": fusion by the maximum, a loss on each.
    """

    def __init__(self, base: DilatedNetwork) -> None:
        super().__init__()
        self.base = base
        self.any_side = base.any_side
        self._follow_base()

    def _follow_base(self) -> None:
        stride = self.base.geometry.logit_stride
        self.geometry = replace(self.base.geometry, origin_step=MSC_STEP * stride)

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,h,w), on the lattice of the image at its own size."""
        members, _ = self._members(image, training=False)
        return members[0]

    def forward_training(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """The largest logits, and the auxiliary ones of the image at its own size."""
        members, aux_logits = self._members(image, training=True)
        return members[0], aux_logits

    def forward_members(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The largest logits, then those of each scale on the same lattice; the auxiliary ones of the image itself."""
        return self._members(image, training=True)

    def forward_scales(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The largest logits, then those of each scale as the network makes them of the image at that scale."""
        return self._members(image, training=True, own_lattices=True)

    def _members(
        self, image: Tensor, *, training: bool, own_lattices: bool = False
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        base = self.base
        whole, aux_logits = base.all_cells_training(image) if training else (base.all_cells(image), None)
        scales, own = [whole], [base.on_lattice(whole, image)]
        for scale in MSC_SCALES:
            small = _scaled(image, scale)
            logits = base.all_cells(small)
            own.append(base.on_lattice(logits, small))
            scales.append(interpolate(logits, size=whole.shape[2:], mode="bilinear"))
        largest = torch.maximum(torch.maximum(scales[0], scales[1]), scales[2])
        if own_lattices:
            return (base.on_lattice(largest, image), *own), aux_logits
        return tuple(base.on_lattice(logits, image) for logits in (largest, *scales)), aux_logits

    @property
    def runs_whole(self) -> bool:
        """As the network that it runs."""
        return self.base.runs_whole

    @property
    def run_once(self) -> nn.Module:
        """The network that runs at each scale."""
        return self.base

    def drop_training_parts(self) -> None:
        """The auxiliary head is gone."""
        self.base.drop_training_parts()

    def set_output_stride(self, output_stride: int) -> None:
        """As the network's that it runs."""
        self.base.set_output_stride(output_stride)
        self._follow_base()

    def take_own_places(self) -> None:
        """As the network's that it runs."""
        self.base.take_own_places()
        self._follow_base()


def _scaled(image: Tensor, scale: float) -> Tensor:
    """The image at this scale, at least a pixel of it; places follow the scale, not the rounded size."""
    if min(image.shape[2:]) * scale < 1:
        return interpolate(
            image, size=[max(1, int(side * scale)) for side in image.shape[2:]], mode="bilinear"
        )
    return interpolate(image, scale_factor=scale, mode="bilinear")


class SmpNetwork(Network):
    """Any architecture of segmentation_models_pytorch; its logits come at full resolution.

    Their own upsampling (often align_corners on even sides) does not line up across tiles at a lower stride, so they
    are blended after it: logit stride 1. Origins keep the encoder's whole stride.
    """

    def __init__(self, model: nn.Module, *, output_stride: int, origin_step: int) -> None:
        super().__init__()
        self.model = model
        self.geometry = ModelGeometry(output_stride=output_stride, logit_stride=1, origin_step=origin_step)

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,H,W)."""
        logits: Tensor = self.model(image)
        return logits

    @property
    def name(self) -> str:
        """smp's name."""
        return type(self.model).__name__


class OwnNetwork(Network):
    """Hold any module of one's own, with the geometry of its logits: image (N,C,H,W) → logits (N,K,h,w)."""

    def __init__(self, module: nn.Module, geometry: ModelGeometry) -> None:
        super().__init__()
        self.module = module
        self.geometry = geometry

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,h,w), as the module computes them."""
        logits: Tensor = self.module(image)
        return logits

    @property
    def name(self) -> str:
        """The module's class."""
        return type(self.module).__name__


def check_shapes(network: Network, *, bands: int, classes: int, crop: tuple[int, int]) -> None:
    """Raises SettingsError unless an image of these bands becomes logits of these classes, as the geometry says.

    crop: the image's height and width.
    """
    was_training = network.training
    place = next((one.device for one in network.parameters()), torch.device("cpu"))
    network.eval()
    with torch.inference_mode():
        got = tuple(network(torch.zeros(1, bands, *crop, device=place)).shape)
    network.train(was_training)
    wanted = (1, classes, *map(network.geometry.cells, crop))
    if got != wanted:
        raise SettingsError(
            f"network {network.name} makes logits of shape {got} of an image {(1, bands, *crop)}, wanted "
            f"{wanted}: {classes} classes at logit stride {network.geometry.logit_stride}; change "
            "its last layer or its geometry"
        )


def check_output_stride(output_stride: int, strides: Striding) -> None:
    """Raises SettingsError for a stride that the stages cannot have."""
    if not 4 <= output_stride <= strides.largest or output_stride & (output_stride - 1):
        powers = [str(2**k) for k in range(2, strides.largest.bit_length())]
        raise SettingsError(
            f"output stride {output_stride} is asked for, but the network can have {', '.join(powers)}"
        )


def first_conv(module: nn.Module) -> Any:
    """The convolution that takes the image."""
    return next(inner for inner in module.modules() if isinstance(inner, nn.Conv2d))


def encoder_of(network: nn.Module) -> tuple[str, nn.Module]:
    """What the names of the encoder's tensors begin with, and the encoder. Raises SettingsError where there is none."""
    for name, module in network.named_modules():
        if name.rpartition(".")[2] == "encoder":
            return name + ".", module
    raise SettingsError(
        f"{type(network).__name__} has no part called encoder, so none can be started from a file or frozen; call it "
        'so, or set model.weights = "none" and training.freeze = "none"'
    )
