"""Recipe settings of the network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aerial_seg.recipe.section import Few, Fraction, Number, Pixels, Rate, Section, Width

OWN_ARCHITECTURES = ("fcn", "deeplabv2", "deeplabv3", "deeplabv3-cascade", "deeplabv3+", "pspnet", "gcn")
"""The networks of the papers, built here; the others come from segmentation_models_pytorch."""


class ModelSettings(Section):
    """Say which network. OWN_ARCHITECTURES are our own; other names are smp's (`Unet`, `Segformer`, …).

    All others but encoder and weights concern our own networks; `options` goes to smp's class.

    The backbone. output_stride: how far it shrinks the image; 64 to 256 are deeplabv3-cascade's, whose further blocks
    stride too. stem: one 7×7 convolution, or three 3×3 of widths 32, 32, 64 (deep32) or 64, 64, 128 (deep64).
    stride_placement: which convolution of a strided stage strides: the 3×3 of its first bottleneck, that one's first
    1×1 (the original Caffe models, DeepLabv2), or the last unit of the stage before (TensorFlow's `beta` models).
    dilation_placement: whether the first block of a stage that lost its stride gets the stage's rate (`full`) or keeps
    that of the stage before (`contracted`: torchvision, mmseg); `contracted-first`: as that, and of a block of two 3×3
    convolutions only the first is dilated (mmseg's ResNet-18).
    stage_rates: the four stages' rates, where they are not those that make up for the strides taken away (mmseg's
    pspnet_r50-d32 strides and has 1, 1, 2, 4 all the same); empty: those.
    multi_grid: unit rates of the last stage's blocks, one each, which multiply their 3×3 convolutions' rates; empty is
    all 1. DeepLabv3 has (1, 2, 4) over the three bottlenecks. multi_grid_rates: `absolute` takes them as the rates
    themselves, as mmseg does. ceil_mode: of the stem's max-pool. bn_eps: of all batch norms; None: as the encoder's
    library sets them. deformable: the last stage's 3×3 convolutions move their taps by learnt offsets.

    The head. head_channels: its width, by default the paper's (FCN 512, ASPP 256, PSP 512). head: `default`, or
    `torchvision` (fcn: one 3×3 convolution, a quarter of the features wide; deeplabv3: dropout after the projection,
    then another 3×3; its auxiliary head), `mmseg` (deeplabv3: 512 wide, fused by a 3×3), `no-concat` (fcn whose second
    convolution does not see its input again), `largefov` (deeplabv2: one 3×3 convolution instead of four). For
    deeplabv3+, `mmseg` is 512 wide, fuses by a 3×3, and its rates and refinements are depthwise separable; `vainf`
    refines by one 3×3 instead of two (DeepLabV3Plus-Pytorch).
    head_rate: of fcn's two 3×3 convolutions and of its auxiliary head's (6 in mmseg's fcn-d6). low_level_channels: what
    deeplabv3+ narrows its low-level features to (by default 48, of which the paper's table 1 found the best).
    aspp_rates: atrous rates, scaled with the output stride; deeplabv3's and deeplabv3+'s are those at stride 16, by
    default (6, 12, 18), deeplabv2's those at 8, by default (6, 12, 18, 24), largefov's (12). image_pooling: whether
    deeplabv3's pyramid also sees the mean of the whole image (Chen et al. 2017, table 5, has both).
    last_block: of deeplabv3-cascade, block4 being the ResNet's last stage. bins, pooling, reduce_bins: of pspnet's
    pyramid: parts per side, their pooling, and whether a 1×1 convolution narrows each. kernel: side of gcn's large
    kernels. msc: deeplabv2 on the image at 1, 0.75 and 0.5 of its size, the largest logit of the three.
    align_corners: whether cells lie at pixel s·i, so that tiles are s·n + 1 wide (513, 713), or in the middle of s
    pixels; the head's own upsampling follows.
    stretched_side: of training crops of s·n + 1 pixels over which the n cells are stretched without align_corners, as
    deeplab-pytorch does (321; read in its configs/*.yaml and main.py). Where cells lie in a tile follows from it.
    auxiliary: a second head on the stage before the last, in training; auxiliary_channels: its width, by default a
    quarter of its input's.

    trained_stride: the output stride that the weights were trained at, where it is another: the network is built at
    that one and brought to output_stride by scaling its rates, so that every convolution looks as far in pixels as
    before; built at output_stride alone, the first block of a dilated stage would look twice as far (dilation_placement
    `full`). The logits' places are those of output_stride, which training from there teaches.

    weights: what training starts from: `none`, `imagenet` or another name that the encoder's library knows, or a file
    (.safetensors, .pth, .pt, .ckpt) with a model of ours or an encoder's state dict.
    """

    architecture: str = "deeplabv3"
    encoder: str = "resnet18"
    output_stride: Literal[4, 8, 16, 32, 64, 128, 256] = 8
    trained_stride: Literal[4, 8, 16, 32, 64, 128, 256] | None = None
    stem: Literal["7x7", "deep32", "deep64"] = "7x7"
    stride_placement: Literal["3x3", "1x1", "last-unit"] = "3x3"
    dilation_placement: Literal["full", "contracted", "contracted-first"] = "full"
    stage_rates: Annotated[tuple[Rate, ...], Few] = ()
    multi_grid: Annotated[tuple[Rate, ...], Few] = ()
    multi_grid_rates: Literal["unit", "absolute"] = "unit"
    ceil_mode: bool = False
    bn_eps: Annotated[float, Field(gt=0, le=1)] | None = None
    deformable: bool = False
    head: Literal["default", "torchvision", "mmseg", "no-concat", "largefov", "vainf"] = "default"
    head_channels: Width | None = None
    head_rate: Rate = 1
    low_level_channels: Width | None = None
    aspp_rates: Annotated[tuple[Rate, ...], Few] | None = None
    image_pooling: bool = True
    last_block: Literal[4, 5, 6, 7] = 7
    bins: Annotated[tuple[Rate, ...], Few] = (1, 2, 3, 6)
    pooling: Literal["average", "max"] = "average"
    reduce_bins: bool = True
    kernel: Rate = 15
    msc: bool = False
    align_corners: bool = False
    stretched_side: Pixels | None = None
    dropout: Fraction = 0.1
    auxiliary: bool = True
    auxiliary_channels: Width | None = None
    weights: Annotated[str, Field(min_length=1)] = "none"
    options: dict[str, Number | float | bool | str | Annotated[list[Number], Few] | None] = {}  # noqa: RUF012 - pydantic copies it
