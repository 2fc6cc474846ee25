"""One model file: safetensors weights and, in their header, a JSON document that tells everything else."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from aerial_seg.bands import Band
from aerial_seg.errors import InputError
from aerial_seg.legend import Legend
from aerial_seg.models.network import Network, build_network
from aerial_seg.recipe import PredictionSettings, Recipe

HEADER_KEY = "aerial_seg"


class ModelCard(BaseModel):
    """All that `predict` needs to know besides the weights.

    gsd: metres per pixel of the training chips; None when they were not georeferenced.
    class_bias: added to the logits, channel by channel, before the argmax: the calibrated decision threshold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    tool_version: str
    recipe: Recipe
    legend: Legend
    bands: tuple[Band, ...]
    gsd: float | None
    class_bias: tuple[float, ...]
    iteration: int
    validation_miou: float | None
    data_fingerprint: str

    @model_validator(mode="after")
    def _one_bias_per_class(self) -> ModelCard:
        if len(self.class_bias) != len(self.legend):
            raise ValueError(f"{len(self.class_bias)} class biases for {len(self.legend)} classes")
        return self

    @property
    def prediction(self) -> PredictionSettings:
        """How the model asks to be tiled."""
        return self.recipe.prediction


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A loaded model in evaluation mode on the CPU, its card, and the SHA-256 of its file."""

    network: Network
    card: ModelCard
    sha256: str


def save_model(state: Mapping[str, torch.Tensor], card: ModelCard, path: Path) -> None:
    """The weights (a network's state dict) and the card lie in one file, renamed into place when whole."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    partial = path.with_name(path.name + ".partial")
    save_file(weights, partial, metadata={HEADER_KEY: card.model_dump_json()})
    partial.replace(path)


def read_card(path: Path) -> ModelCard:
    """The document in a model file's header, without loading the weights.

    Raises InputError for a missing, truncated or foreign file, or one of another schema version.
    """
    header = _read_header(path)
    metadata = header.get("__metadata__")
    text = metadata.get(HEADER_KEY) if isinstance(metadata, dict) else None
    if text is None:
        raise InputError(
            f"{path} is a safetensors file of another tool (its header holds no '{HEADER_KEY}' document); "
            "wanted a model that `aerial-seg train` wrote"
        )
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise InputError(
            f"the document in {path} does not fit this version of aerial-seg ('{place}': {problem['msg']}); "
            "update aerial-seg or train again"
        ) from error


def _read_header(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file; wanted a model file (.safetensors)")
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= path.stat().st_size - 8:
            raise InputError(
                f"{path} is not a safetensors file or is cut off; wanted a model that `train` wrote"
            )
        try:
            header = json.loads(file.read(length))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(
                f"{path} is not a safetensors file; wanted a model that `train` wrote"
            ) from error
    return header if isinstance(header, dict) else {}


def load_model(path: Path) -> TrainedModel:
    """The model of a file, strictly: every weight of the file is used and every weight of the network is set."""
    card = read_card(path)
    network = build_network(
        card.recipe.model.model_copy(update={"weights": "none"}),
        bands=len(card.bands),
        classes=len(card.legend),
    )
    wanted = network.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            held = set(file.keys())
            if held != set(wanted):
                odd = sorted(held ^ set(wanted))
                raise InputError(
                    f"{path} does not hold the weights of its architecture: {len(odd)} differ (first {odd[0]}); "
                    "train again with this version"
                )
            weights: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in wanted}
            network.load_state_dict(weights, strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise InputError(
            f"{path} is damaged ({str(error).splitlines()[0]}); copy it again or train again"
        ) from error
    network.eval()
    with path.open("rb") as whole:
        sha256 = hashlib.file_digest(whole, "sha256").hexdigest()
    return TrainedModel(network=network, card=card, sha256=sha256)
