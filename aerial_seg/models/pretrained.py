"""Starting from a file: a model of ours or an encoder's state dict, put into a network of other bands and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from aerial_seg.band_names import out_of_order, role
from aerial_seg.bands import IMAGENET_BANDS, Band
from aerial_seg.errors import InputError
from aerial_seg.models.backbone.cascade import further_blocks
from aerial_seg.models.backbone.deformable import DeformableConv
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, read_card
from aerial_seg.models.header import is_model_file
from aerial_seg.models.heads.cascade import CascadeHead
from aerial_seg.models.importing.checkpoint import Checkpoint, read_checkpoint
from aerial_seg.models.importing.efficientnet_lite import (
    check_as_tensorflow,
    fit_to_statistics,
    is_efficientnet_lite,
    timm_names,
)
from aerial_seg.models.importing.matching import listing
from aerial_seg.models.network import Network, encoder_of
from aerial_seg.paths import StrPath, as_path

_AFTER_THE_ENCODER = frozenset({
    "fc", "_fc", "fc_norm", "classifier", "aux_classifier", "last_linear", "head", "head_dist", "conv_head",
    "norm_head", "bn2", "norm", "downsamp_modules", "incre_modules", "final_layer",
})  # fmt: skip
"""What torchvision, timm and smp call the parts of a classifier that an encoder has not."""

_ENCODER = "encoder."
_COUNTER = "num_batches_tracked"
_OTHER_UNITS = 4.0
"""Statistics that differ by more than this factor are of another convention (Caffe's images have deviation 1), not of
other imagery."""
_IDLE = "of layers that this network never uses left out"


def start_from(
    network: Network,
    path: StrPath,
    *,
    bands: Sequence[str],
    classes: Sequence[str],
    statistics: Sequence[Band] = (),
) -> tuple[str, ...]:
    """Start the network from the file's weights where they fit; tell what was adapted or stayed fresh.

    path: a model file of ours, of which all tensors are taken whose names and shapes fit, or a state dict of the
    encoder alone under torchvision's, timm's or smp's names or those of EfficientNet-Lite's port, which has to fit but
    for its classifier. The first convolution is spread over the network's bands (see `spread_bands`), the last ones
    take the classes that the model has by name. Bands are the same by what their names mean (R and red); where only one
    side says which are red, green and blue, and in another order than that, nothing tells and it is refused.
    bands, classes: the network's, in the order of its channels. statistics: the bands by which the images are
    normalised; where the file is known to have had others, the first layer is fitted to them: a model of ours is
    where its deviations are of another convention.
    Raises InputError for a file that is damaged, holds code, is of another encoder, or of bands in an unknown order.
    """
    path = as_path(path, "path")
    checkpoint = read_checkpoint(path)
    if is_model_file(path):
        card = read_card(path)
        if card.eight_bits is not None:
            raise InputError(
                f"{path} holds 8-bit weights, which no training can begin with; name the model that it was made of"
            )
        _check_order(path, [band.name for band in card.bands], bands)
        return _fill_network(network, checkpoint, card, bands=bands, classes=classes, statistics=statistics)
    return (*checkpoint.notes, *_fill_encoder(network, checkpoint, bands, statistics))


def spread_bands(weight: Tensor, source: Sequence[str], target: Sequence[str]) -> Tensor:
    """A first convolution's weights (out,S,kh,kw) for other bands (out,T,kh,kw), the sum over the bands kept.

    So a constant image keeps its response. A band of both keeps its weights, times S/T where there are more bands than
    before; the rest of the sum is shared evenly by the new bands, each of which gets S/T of the mean where all others
    stayed, or by all bands where none is new. Without a common name bands are the same by their position.
    """
    places = _places(source, target)
    if places == list(range(len(source))):
        return weight
    exact = weight.double()
    scale = min(1.0, len(source) / len(target))
    new = [k for k, place in enumerate(places) if place is None]
    spread = exact.new_zeros(exact.shape[0], len(target), *exact.shape[2:])
    for k, place in enumerate(places):
        if place is not None:
            spread[:, k] = scale * exact[:, place]
    takers = new or list(range(len(target)))
    rest = exact.sum(dim=1) - spread.sum(dim=1)
    spread[:, takers] += (rest / len(takers))[:, None]
    return spread.to(weight.dtype)


def _places(source: Sequence[str], target: Sequence[str]) -> list[int | None]:
    """Of each target band, which source band it is."""
    names = [_meaning(name) for name in source]
    wanted = [_meaning(name) for name in target]
    if not set(names) & set(wanted):
        return [k if k < len(names) else None for k in range(len(wanted))]
    return [names.index(name) if name in names else None for name in wanted]


def _meaning(name: str) -> str:
    return role(name) or name.strip().casefold()


def _check_order(path: Path, source: Sequence[str], target: Sequence[str]) -> None:
    """Raises InputError where bands would be the same by position, and one side has them in no usual order."""
    if {_meaning(name) for name in source} & {_meaning(name) for name in target}:
        return
    if out_of_order(source) or out_of_order(target):
        raise InputError(
            f"{path} was trained on {', '.join(source)}, and the data's bands are {', '.join(target)}: nothing says "
            "which of them are which; name the data's bands (tile them again and say which band is red, green, blue)"
        )


def _fill_encoder(
    network: Network, checkpoint: Checkpoint, bands: Sequence[str], statistics: Sequence[Band]
) -> tuple[str, ...]:
    before, encoder = encoder_of(network)
    ours = encoder.state_dict()
    by_key = {_key(name.removeprefix("model.")): name for name in ours}
    held = _without_prefix(checkpoint.tensors)
    is_lite = is_efficientnet_lite(held)
    if is_lite:
        held = timm_names(held, checkpoint.path)
    placed = {by_key[_key(name)]: tensor for name, tensor in held.items() if _key(name) in by_key}
    extra = [name for name in held if _key(name) not in by_key]
    never_used = _unused(network, before)
    idle = [name for name in extra if never_used.get(_key(name)) == tuple(held[name].shape)]
    of_classifier = [name for name in extra if name.partition(".")[0] in _AFTER_THE_ENCODER]
    dropped = [name for name in of_classifier if name not in idle]
    spread = _spread_first(encoder, placed, _bands_of(encoder, placed, bands), bands)
    offsets = _offsets(encoder)
    lacking = [name for name in ours if name not in placed and not name.endswith(_COUNTER)]
    missing = [name for name in lacking if not name.startswith(offsets)]
    shapes = [
        f"{name} {tuple(placed[name].shape)} instead of {tuple(ours[name].shape)}"
        for name in placed
        if placed[name].shape != ours[name].shape
    ]
    problems = (
        listing("without a place there", [name for name in extra if name not in (*dropped, *idle)]),
        listing("missing", missing),
        listing("of another shape", shapes),
    )
    if any(problems):
        raise InputError(
            f"{checkpoint.path} is no state dict of the recipe's encoder: {'; '.join(filter(None, problems))}; wanted "
            "exactly the encoder's weights, with or without a classifier; choose the model.encoder that they are of"
        )
    fitted: tuple[str, ...] = ()
    if is_lite:
        check_as_tensorflow(encoder, checkpoint.path)
        fitted = _fit_lite(placed, by_key, statistics)
    _load(network, {before + name: tensor for name, tensor in placed.items()})
    _continue_cascade(network, encoder)
    left_out = (listing("of a classifier left out", dropped), listing(_IDLE, idle))
    return (
        "; ".join(
            (f"started from the encoder in {checkpoint.path}: {len(placed)} tensors", *filter(None, left_out))
        ),
        *spread,
        *fitted,
    )


def _fit_lite(
    placed: dict[str, Tensor], by_key: Mapping[str, str], statistics: Sequence[Band]
) -> tuple[str, ...]:
    stem, norm = by_key[_key("conv_stem.weight")], by_key[_key("bn1.running_mean")]
    return (fit_to_statistics(placed, stem, norm, statistics),) if statistics else ()


def _fill_network(
    network: Network,
    checkpoint: Checkpoint,
    card: ModelCard,
    *,
    bands: Sequence[str],
    classes: Sequence[str],
    statistics: Sequence[Band],
) -> tuple[str, ...]:
    _, encoder = encoder_of(network)
    ours = {_place(name): tensor for name, tensor in network.state_dict().items()}
    placed = {_place(name): tensor for name, tensor in checkpoint.tensors.items()}
    inside = {name.removeprefix(_ENCODER): t for name, t in placed.items() if name.startswith(_ENCODER)}
    spread = _spread_first(encoder, inside, [band.name for band in card.bands], bands)
    spread = (*spread, *_fit_units(encoder, inside, card.bands, statistics))
    placed |= {_ENCODER + name: tensor for name, tensor in inside.items()}
    told = _by_class(placed, ours, card, classes)
    fitting = {name: t for name, t in placed.items() if name in ours and t.shape == ours[name].shape}
    weights = [name for name in ours if not name.endswith(_COUNTER)]
    of_encoder = [name for name in weights if name.startswith(_ENCODER)]
    taken = [name for name in of_encoder if name in fitting]
    if 2 * len(taken) < len(of_encoder):
        raise InputError(
            f"{checkpoint.path} holds a model with the encoder {card.recipe.model.encoder}, of whose tensors "
            f"{len(taken)} of {len(of_encoder)} fit this one; wanted a model with the recipe's encoder: choose that "
            "model.encoder, or other weights"
        )
    _load(network, {name: fitting[_place(name)] for name in network.state_dict() if _place(name) in fitting})
    fresh = listing(
        "that it lacks or has in another shape stay fresh", [n for n in weights if n not in fitting]
    )
    count = sum(name in fitting for name in weights)
    idle = [name for name in placed if name in {_place(name) for name in network.unused}]
    return (
        "; ".join(
            (
                f"started from the model {checkpoint.path}: {count} of {len(weights)} tensors",
                *filter(None, (fresh, listing(_IDLE, idle))),
            )
        ),
        *spread,
        *told,
    )


def _place(name: str) -> str:
    """The tensor's name in a network of ours that runs once; of smp's, what is its encoder's is so called too."""
    plain = name.removeprefix("base.")
    return plain.removeprefix("model.") if plain.startswith("model." + _ENCODER) else plain


def _unused(network: Network, before: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the encoder's tensors that the network has no use for, by key."""
    return {
        _key(name.removeprefix(before).removeprefix("model.")): shape
        for name, (_, shape) in network.unused.items()
        if name.startswith(before)
    }


def _load(network: Network, weights: Mapping[str, Tensor]) -> None:
    network.load_state_dict({**network.state_dict(), **weights}, strict=True)


def _key(name: str) -> str:
    """timm's encoders call stages_0 what its classifiers call stages.0."""
    return name.replace("_", ".")


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names as the encoder's own, where the program kept it as one part of its model."""
    own = [name for name in tensors if name.partition(".")[0] not in _AFTER_THE_ENCODER]
    for prefix in (_ENCODER, "backbone.", "model."):
        if own and all(name.startswith(prefix) for name in own):
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return dict(tensors)


def _first_convs(encoder: nn.Module, bands: int) -> list[str]:
    """Names of the weights that see the image: MobileOne has two such convolutions side by side.

    Empty for encoders that rearrange the image before (timm's TResNet).
    """
    convs = {
        name: (conv.in_channels, conv.out_channels, conv.stride)
        for name, conv in encoder.named_modules()
        if isinstance(conv, nn.Conv2d) and conv.groups == 1
    }
    first = next((shape for shape in convs.values() if shape[0] == bands), None)
    return [f"{name}.weight" for name, shape in convs.items() if shape == first]


def _bands_of(encoder: nn.Module, placed: Mapping[str, Tensor], bands: Sequence[str]) -> Sequence[str]:
    """The bands of an encoder's state dict, which does not name them: three are red, green and blue."""
    first = [placed[name] for name in _first_convs(encoder, len(bands)) if name in placed]
    if not first or first[0].ndim != 4 or first[0].shape[1] == len(IMAGENET_BANDS):
        return [band.name for band in IMAGENET_BANDS]
    return [f"band {k}" for k in range(1, first[0].shape[1] + 1)]


def _spread_first(
    encoder: nn.Module, placed: dict[str, Tensor], source: Sequence[str], target: Sequence[str]
) -> tuple[str, ...]:
    """The first convolutions among the encoder's tensors are spread; a note where that changed them."""
    changed = False
    for name in _first_convs(encoder, len(target)):
        weight = placed.get(name)
        if weight is not None and weight.ndim == 4 and weight.shape[1] == len(source):
            placed[name] = spread_bands(weight, source, target)
            changed |= placed[name] is not weight
    if not changed:
        return ()
    return (
        f"the first layer was spread from {len(source)} bands ({', '.join(source)}) to {', '.join(target)}",
    )


def _fit_units(
    encoder: nn.Module, placed: dict[str, Tensor], source: Sequence[Band], target: Sequence[Band]
) -> tuple[str, ...]:
    """The first convolutions, spread already, see of images in the target's units what they saw in the source's.

    Only where the deviations are of another convention; the batch norm behind takes up the means in training.
    """
    places = _places([band.name for band in source], [band.name for band in target])
    known = [(band, source[place]) for band, place in zip(target, places, strict=True) if place is not None]
    ratios = [band.std / own.std for band, own in known]
    if not any(ratio > _OTHER_UNITS or ratio < 1 / _OTHER_UNITS for ratio in ratios):
        return ()
    mean = sum(ratios) / len(ratios)
    scale = [
        mean if place is None else band.std / source[place].std
        for band, place in zip(target, places, strict=True)
    ]
    for name in _first_convs(encoder, len(target)):
        weight = placed.get(name)
        if weight is not None and weight.ndim == 4 and weight.shape[1] == len(target):
            by_band = torch.tensor(scale, dtype=torch.float64)[None, :, None, None]
            placed[name] = (weight.double() * by_band).to(weight.dtype)
    told = ", ".join(f"{band.name} {own.std:.3g} to {band.std:.3g}" for band, own in known)
    return (
        f"the first layer was scaled to the deviations of the data's bands ({told}), which are in other units",
    )


def _by_class(
    placed: dict[str, Tensor], ours: Mapping[str, Tensor], card: ModelCard, classes: Sequence[str]
) -> tuple[str, ...]:
    """Tensors with one entry per class hold the entries of the classes that the model has, the others fresh."""
    names = list(card.legend.names)
    if names == list(classes):
        return ()
    shared = [name for name in classes if name in names]
    begun = False
    for name, axes in _class_axes(card, placed).items():
        weight = placed.pop(name)
        fresh = ours.get(name)
        if fresh is None or weight.ndim != fresh.ndim or not shared:
            continue
        entries = weight[_entries([names.index(n) for n in shared], axes, weight.ndim)]
        here = _entries([list(classes).index(n) for n in shared], axes, weight.ndim)
        if fresh[here].shape == entries.shape:
            placed[name] = fresh.clone()
            placed[name][here] = entries.to(fresh.dtype)
            begun = True
    if not begun:
        return (f"all {len(classes)} classes are learnt afresh; the model's are {', '.join(names)}",)
    return (f"{len(shared)} of {len(classes)} classes begin as the model's by name: {', '.join(shared)}",)


def _class_axes(card: ModelCard, held: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Of each tensor with one entry per class the axes along which they lie; found by building with one more."""
    settings, bands = card.recipe.model.model_copy(update={"weights": "none"}), len(card.bands)
    with torch.random.fork_rng(devices=[]):
        own, more = (
            {_place(name): tensor.shape for name, tensor in network.state_dict().items()}
            for network in (
                build_network(settings, bands=bands, classes=len(card.legend) + k) for k in (0, 1)
            )
        )
    differing = {
        name: [k for k, (n, m) in enumerate(zip(own[name], more[name], strict=True)) if n != m]
        for name in own
    }
    return {
        name: tuple(axes)
        for name, axes in differing.items()
        if axes and name in held and held[name].shape == own[name]
    }


def _entries(rows: Sequence[int], axes: Sequence[int], dimensions: int) -> tuple[slice | Tensor, ...]:
    """Indexes these rows along each of the axes, neighbours, and everything along the others."""
    index: list[slice | Tensor] = [slice(None)] * dimensions
    for k, axis in enumerate(axes):
        index[axis] = torch.tensor(rows).reshape([-1 if other == k else 1 for other in range(len(axes))])
    return tuple(index)


def _continue_cascade(network: Network, encoder: nn.Module) -> None:
    """deeplabv3-cascade's further blocks begin as copies of the last stage, as with a library's weights."""
    for head in network.modules():
        if isinstance(head, CascadeHead):
            copies = nn.Sequential(*further_blocks(encoder, len(head.blocks))).state_dict()
            head.blocks.load_state_dict({name: copies[name] for name in head.blocks.state_dict()})


def _offsets(encoder: nn.Module) -> tuple[str, ...]:
    """What the names of the tensors begin with that deformable convolutions add: they begin with 0."""
    return tuple(
        f"{name}.offset." for name, module in encoder.named_modules() if isinstance(module, DeformableConv)
    )
