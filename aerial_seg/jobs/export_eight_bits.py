"""export --int8: a model file with 8-bit weights, calibrated on training chips and held to the validation chips."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import pad

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import check_writable, staged_files
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.inference.engines.prepare import prepare_network
from aerial_seg.jobs.chip_scores import check_subject, on_chips
from aerial_seg.jobs.settings import EightBitSettings
from aerial_seg.mentions import setting
from aerial_seg.models.device import CPU
from aerial_seg.models.eight_bits.calibrate import Calibrated, calibrate
from aerial_seg.models.eight_bits.card import EightBits
from aerial_seg.models.eight_bits.layers import from_tensors, give_biases, quantised, to_tensors
from aerial_seg.models.file import ModelCard, TrainedModel, load_model, save_model
from aerial_seg.models.network import Network
from aerial_seg.paths import StrPath, as_path
from aerial_seg.progress import Progress, silent
from aerial_seg.settings import chosen
from aerial_seg.training.crops import ChipReader
from aerial_seg.training.manifest import DOCUMENT, INDEX, Manifest, open_manifest

CHIPS, SEED = 32, 0
"""Training chips that ranges are measured on, and what they are drawn by."""
_KEPT = (0, 1, 2, 4, 8, 16)
"""How many layers are tried to be kept in float32, the most sensitive ones first; of all, at most a quarter."""
_NAMED = 5
"""Layers that a refusal names."""


@dataclass(frozen=True, slots=True)
class EightBitReport:
    """Tell what was written.

    size, source_size: bytes of the file, and of the one that it was made of. layers: convolutions of 8 bits. kept:
    those that stay in float32 because 8 bits cost too much, with the relative error of each one's output. miou,
    source_miou: on the validation chips. chips: that ranges were measured on.
    """

    path: Path
    size: int
    source_size: int
    layers: int
    kept: dict[str, float]
    miou: float
    source_miou: float
    chips: int
    notes: tuple[str, ...]


def export_eight_bits(
    model_path: StrPath,
    dataset: StrPath,
    output: StrPath,
    settings: EightBitSettings | None = None,
    progress: Progress = silent,
) -> EightBitReport:
    """Write a model with 8-bit weights to `output`, made of a model file and the chips of a dataset.

    Its convolutions' weights are rounded by output channel, their inputs to bytes whose ranges come from training
    chips. Both models are scored on the validation chips; where the score falls by more than `max_drop` the most
    sensitive layers stay in float32. The same inputs give the same bytes for one version of torch and one number of
    threads.
    Raises SettingsError for an output of another ending, InputError for a model that has 8 bits already, a dataset that
    does not fit it or has no such chips, and a model that 8 bits make too bad; OutputError where the file cannot be
    written.
    """
    settings = chosen(settings, EightBitSettings)
    model_path, dataset = as_path(model_path, "model_path"), as_path(dataset, "dataset")
    output = as_path(output, "output")
    if output.suffix.lower() != ".safetensors":
        raise SettingsError(
            f"{output} does not end in .safetensors; name the output {output.stem}.safetensors"
        )
    check_writable(output, overwrite=settings.overwrite)
    Inputs([model_path]).refuse([output])
    still = Unchanged([model_path, dataset / DOCUMENT, dataset / INDEX])
    model, manifest = load_model(model_path), open_manifest(dataset)
    if model.eight_bits is not None:
        raise InputError(f"{model_path} has 8-bit weights already; wanted the model that it was made of")
    check_subject(model.card, manifest.document)
    for split in ("train", "val"):
        if not manifest.split(split):
            raise InputError(
                f"{dataset} has no chip in split '{split}': ranges are measured on training chips, and what they cost "
                "on validation chips; give the dataset that the model was trained on"
            )
    still.add([*manifest.files(manifest.chips), *manifest.addresses])
    with still.holding():
        made = _Maker(model, manifest, progress).make(settings.max_drop)
        with staged_files(output, overwrite=settings.overwrite) as folder:
            save_model(made.tensors, made.card, folder / output.name)
    told = made.card.eight_bits
    assert told is not None
    return EightBitReport(
        path=output,
        size=output.stat().st_size,
        source_size=model_path.stat().st_size,
        layers=len(told.layers),
        kept=told.kept,
        miou=told.miou,
        source_miou=told.source_miou,
        chips=told.chips,
        notes=model.notes,
    )


@dataclass(frozen=True, slots=True)
class _Made:
    tensors: dict[str, Tensor]
    model: TrainedModel

    @property
    def card(self) -> ModelCard:
        return self.model.card


class _Maker:
    """Rounds one model, with more or fewer of its layers."""

    def __init__(self, model: TrainedModel, manifest: Manifest, progress: Progress) -> None:
        self._model, self._manifest, self._progress = model, manifest, progress
        images = _calibration_images(model, manifest)
        self._chips = len(images)
        self._network = _prepared(model.network, images[0])
        with progress("calibrate", total=2 * len(images), unit="chip") as bar:
            self._calibrated: Calibrated = calibrate(self._network, images, tell=lambda: bar.update(1))
        self._weights = {
            name: module.weight.detach().contiguous()
            for name, module in self._network.named_modules()
            if isinstance(module, nn.Conv2d)
        }

    def make(self, max_drop: float) -> _Made:
        """The model with as many layers of 8 bits as the score allows. Raises InputError where none will do."""
        errors = self._calibrated.errors
        worst = sorted(errors, key=lambda name: -errors[name])
        source = _miou(self._model, self._manifest)
        drops: list[float] = []
        for count in takewhile(lambda count: count <= len(worst) // 4, _KEPT):
            made = self._rounded(worst[:count])
            miou = _miou(made.model, self._manifest)
            drops.append(source - miou)
            if source - miou <= max_drop:
                return self._told(made, miou, source)
        named = ", ".join(f"{name} {errors[name]:.1%}" for name in worst[:_NAMED])
        raise InputError(
            f"8 bits cost {drops[0]:.4f} of validation IoU ({source:.4f} in float32), and {drops[-1]:.4f} with the "
            f"most sensitive layers kept in float32, more than {max_drop:g}; errors of layers' outputs: {named}; pass "
            f"a larger {setting('max_drop')}, or use the model as it is"
        )

    def _rounded(self, kept: Sequence[str]) -> _Made:
        """The model with all layers rounded but these."""
        chosen_layers = [name for name in self._calibrated.errors if name not in kept]
        layers = self._calibrated.layers(chosen_layers, self._weights)
        state = {name: tensor.detach().clone() for name, tensor in self._network.state_dict().items()}
        for name in layers.inputs:
            state[f"{name}.bias"] -= self._calibrated.shifts[name]
        rounded = {name: quantised(self._weights[name], layers.weight_scales[name]) for name in layers.inputs}
        tensors = to_tensors(state, rounded, layers)
        card = EightBits(
            **_form(self._model.network, self._network),
            layers=tuple(layers.inputs),
            kept={name: self._calibrated.errors[name] for name in kept},
            chips=self._chips,
            seed=SEED,
            source_sha256=self._model.sha256,
            miou=0,
            source_miou=0,
        )
        network = copy.deepcopy(self._network)
        values, eight_bits = from_tensors(tensors, card.layers)
        network.load_state_dict(values)
        model = replace(
            self._model,
            network=network,
            card=self._model.card.model_copy(update={"eight_bits": card}),
            eight_bits=eight_bits,
        )
        return _Made(tensors, model)

    def _told(self, made: _Made, miou: float, source_miou: float) -> _Made:
        assert made.card.eight_bits is not None
        told = made.card.eight_bits.model_copy(update={"miou": miou, "source_miou": source_miou})
        card = made.card.model_copy(update={"eight_bits": told})
        return replace(made, model=replace(made.model, card=card))


def _calibration_images(model: TrainedModel, manifest: Manifest) -> list[Tensor]:
    """Training chips (1,C,H,W), normalised and padded to sides that the network takes, as they are validated."""
    chips = manifest.split("train")
    drawn = np.random.default_rng(SEED).permutation(len(chips))[:CHIPS]
    store = ChipReader(tuple(chips[k] for k in sorted(drawn)), model.card.bands, model.card.legend)
    images = []
    for k in range(len(store)):
        image, _ = store[k]
        more = [
            model.network.geometry.nearest_valid_sides(side)[1] - side for side in reversed(image.shape[1:])
        ]
        images.append(pad(image, (0, more[0], 0, more[1]))[None])
    return images


def _prepared(network: Network, image: Tensor) -> Network:
    """A copy with its batch norms folded and a bias for every convolution."""
    prepared, _ = prepare_network(network, CPU, precision="fp32", example=lambda: image)
    give_biases(prepared)
    assert isinstance(prepared, Network)
    return prepared.requires_grad_(False)


def _form(original: Network, prepared: Network) -> dict[str, tuple[str, ...]]:
    """What the file must say for another to give a new network the form of this one."""
    before = dict(original.named_modules())
    folded, biased = [], []
    for name, module in prepared.named_modules():
        was = before.get(name)
        if isinstance(was, nn.BatchNorm2d) and not isinstance(module, nn.BatchNorm2d):
            folded.append(name)
        if isinstance(was, nn.Conv2d | nn.ConvTranspose2d) and was.bias is None and module.bias is not None:
            biased.append(name)
    return {"folded": tuple(folded), "biased": tuple(biased)}


def _miou(model: TrainedModel, manifest: Manifest) -> float:
    outcome = on_chips(model, manifest, "val", target=CPU, emulated=True)
    if outcome.value is None:
        raise InputError(
            f"{manifest.root} has no labelled pixel in its validation chips, so nothing tells what 8 bits cost"
        )
    return outcome.value
