"""One model file: safetensors weights and, in their header, a JSON document that tells everything else."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from aerial_seg.bands import Band, Gsd
from aerial_seg.documents import DocumentError, parse_json, problem_of
from aerial_seg.errors import InputError, SettingsError, at_work
from aerial_seg.files.disk import usual_mode
from aerial_seg.files.durable import settled_file
from aerial_seg.legend import Legend
from aerial_seg.models.eight_bits.card import EightBits
from aerial_seg.models.eight_bits.layers import EightBitLayers, NoSuchLayer, from_tensors, layout, take_form
from aerial_seg.models.header import HEADER_KEY, Header, damaged, read_header
from aerial_seg.models.meta import build_on_meta, build_to_fill
from aerial_seg.models.network import Network
from aerial_seg.models.placing import untold_stretching
from aerial_seg.models.validated import Validated
from aerial_seg.models.weights_check import problem_of_weights
from aerial_seg.paths import StrPath, as_path
from aerial_seg.recipe.document import PredictionSettings, Recipe, StageOfRun, as_meant

SCHEMA_VERSION = 1
"""The version of the document in the header that this code writes."""
_MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""By a document's version: what makes it one of the next version. Every version below the current one has its step."""

_LARGEST_BIAS = 1e6
"""Of a class's logit. The logit of a probability of 1 − 10⁻¹⁵ is 35: more than this drowns every network's word."""

_DTYPES: Mapping[torch.dtype, str] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
"""What safetensors calls torch's types."""
_NAMED = 4
"""How many layers a note names."""


class ModelCard(BaseModel):
    """Hold all that `predict` needs to know besides the weights.

    gsd: metres per pixel of the training chips; None when they were not georeferenced.
    own_network: the name of the class that was trained, where it was none that a recipe builds.
    class_bias: added to the logits, channel by channel, before the argmax: the calibrated decision threshold.
    finished: False while the run that trains it goes on or is interrupted. stage: of a run of several stages, the one
    that it is of; iteration is counted in that one, and recipe is that one's. It is finished when the stage is and the
    file lies in the stage's own folder.
    overfit: on how many chips it was trained and validated only to see whether it learns; None for a model to be used.
    validation_miou: at that threshold. validated: how sure it is; None without validation, and in older files.
    eight_bits: what the file says of its 8-bit weights; None where they are of float32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    tool_version: str
    recipe: Recipe
    own_network: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    legend: Legend
    bands: Annotated[tuple[Band, ...], Field(min_length=1)]
    gsd: Gsd | None
    class_bias: tuple[Annotated[float, Field(ge=-_LARGEST_BIAS, le=_LARGEST_BIAS)], ...]
    iteration: Annotated[int, Field(ge=0)]
    validation_miou: Annotated[float, Field(ge=0, le=1)] | None
    validated: Validated | None = None
    data_fingerprint: str
    finished: bool = True
    overfit: Annotated[int, Field(gt=0)] | None = None
    stage: StageOfRun | None = None
    eight_bits: EightBits | None = None

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
    """Hold a loaded model in evaluation mode on the CPU, its card, its file's SHA-256, and what is to say of that.

    eight_bits: of a file of 8-bit weights, what computes with them; the network holds the numbers they stand for.
    """

    network: Network
    card: ModelCard
    sha256: str
    notes: tuple[str, ...] = ()
    eight_bits: EightBitLayers | None = None


def save_model(state: Mapping[str, torch.Tensor], card: ModelCard, path: Path) -> None:
    """The weights (a network's state dict) and the card lie in one file, renamed into place when whole.

    An auxiliary head lies there too, for further training to start from; predictions and exports leave it out.
    Who may read it is for the umask to say, as for all files. Raises OutputError where the disk does not take it.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    remedy = "check the folder, or choose another output"
    with settled_file(path, errors=(SafetensorError, OSError), remedy=remedy) as partial:
        save_file(weights, partial, metadata={HEADER_KEY: _written(card)})
        # safetensors makes files that nobody else may read.
        partial.chmod(usual_mode(path.absolute().parent))


def _written(card: ModelCard) -> str:
    """The card as JSON; a key that older versions do not know is there only where it says something."""
    return card.model_dump_json(
        exclude={key for key in ("own_network", "stage", "eight_bits") if getattr(card, key) is None}
    )


def read_card(path: Path) -> ModelCard:
    """The document in a model file's header, without loading the weights; an older one is brought up to date.

    Raises InputError for a missing, truncated or foreign file, or one of a newer schema version.
    """
    with at_work(path):
        return _card(read_header(path))


def load_model(path: StrPath, network: Network | None = None) -> TrainedModel:
    """Load a model file, strictly: every weight of the file is used and every weight of the network is set.

    network: a new one of the class that was trained, for a file of one's own network, which no recipe builds.
    A file of an older version may hold, besides, all tensors that its network has no use for: a note counts them.
    Raises InputError for what read_card refuses, and for weights that are cut off, missing, surplus, of another type
    or shape than the network's, or no numbers.
    """
    path = as_path(path, "path")
    with at_work(path):
        header = read_header(path)
        card = _card(header)
        _check_own(path, card, network)
        if network is None:
            with _buildable(path):
                network = build_to_fill(card.recipe.model, bands=len(card.bands), classes=len(card.legend))
        notes = _check_layout(header, network, card.eight_bits)
        state, layers = _state_of(header, network, card.eight_bits)
        network.load_state_dict(state, strict=True)
        notes = (*_note_on_run(path, card), *notes)
        return TrainedModel(network.eval(), card, _sha256(path), notes, layers)


def load_on_meta(path: Path) -> TrainedModel:
    """The model of a file with its network on torch's meta device: shapes, no weights. As strict as load_model."""
    with at_work(path):
        header = read_header(path)
        card = _card(header)
        _check_own(path, card, None)
        with _buildable(path):
            network = build_on_meta(card.recipe.model, bands=len(card.bands), classes=len(card.legend))
        notes = _check_layout(header, network, card.eight_bits)
        _state_of(header, network, card.eight_bits)
        notes = (*_note_on_run(path, card), *notes)
        return TrainedModel(network=network, card=card, sha256=_sha256(path), notes=notes)


def _note_on_run(path: Path, card: ModelCard) -> tuple[str, ...]:
    done, planned, name, stage = card.iteration, card.recipe.training.iterations, path.name, card.stage
    within, early = (f" of {stage}" if stage else ""), f"{name} is of {stage}, after which its run goes on"
    unfinished = f"{name} is of an unfinished run: of iteration {done:,} of {planned:,}{within}"
    is_early = card.finished and not (stage is None or stage.is_last)
    few = f"{name} was trained on {card.overfit} chips only, to see whether it learns; it is of no use elsewhere"
    old = untold_stretching(name, card.recipe.model, card.data_fingerprint)
    said = ((unfinished, not card.finished), (early, is_early), (few, card.overfit is not None))
    return (*old, *(note for note, holds in said if holds))


def _check_own(path: Path, card: ModelCard, network: Network | None) -> None:
    """Raises InputError where the file's network is one's own and was not given, or the other way round."""
    if card.own_network is not None and network is None:
        raise InputError(
            f"{path} holds the weights of {card.own_network}, a network of one's own that no recipe builds; in Python, "
            "give a new one of that class: aerial_seg.load(path, network=…) or load_model(path, network=…)"
        )
    if network is not None and card.own_network != network.name:
        held = card.own_network or f"the {card.recipe.model.architecture} of its recipe"
        raise InputError(
            f"{path} holds the weights of {held}, but network is a {network.name}; give the former or none"
        )


@contextmanager
def _buildable(path: Path) -> Iterator[None]:
    """What keeps a network from being built is the file's fault here, not that of a recipe."""
    try:
        yield
    except SettingsError as error:
        raise InputError(
            f"the document in {path} names a network that cannot be built: {error}; train again"
        ) from error


def _card(header: Header) -> ModelCard:
    path = header.path
    try:
        document = parse_json(header.document)
    except DocumentError as error:
        raise damaged(path, f"of its document: {error}") from error
    try:
        # Strict, and from JSON because there lists are tuples: "1" or true is no number.
        return ModelCard.model_validate_json(json.dumps(_migrated(document, path)), strict=True)
    except ValidationError as error:
        raise InputError(
            f"the document in {path} does not fit this version of aerial-seg ({problem_of(error)}); "
            "update aerial-seg or train again"
        ) from error


def _migrated(document: Any, path: Path) -> dict[str, Any]:
    """The document as one of the current version."""
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise damaged(path, f"its document has the schema_version {version!r}")
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path} was written by a newer aerial-seg (schema {version}, this reads {SCHEMA_VERSION}): "
            "update aerial-seg"
        )
    while version < SCHEMA_VERSION:
        step = _MIGRATIONS.get(version)
        if step is None:
            raise InputError(
                f"{path} has the schema {version}, which is older than this aerial-seg reads; train again"
            )
        version += 1
        document = step(document) | {"schema_version": version}
    recipe = document.get("recipe")
    return {**document, **({"recipe": as_meant(recipe)} if isinstance(recipe, dict) else {})}


def _state_of(
    header: Header, network: Network, card: EightBits | None
) -> tuple[dict[str, torch.Tensor], EightBitLayers | None]:
    """The network's state dict, of float32, and what else the file says of 8-bit weights."""
    tensors = dict(_finite_weights(header, network))
    if card is None:
        return tensors, None
    try:
        return from_tensors(tensors, card.layers)
    except NoSuchLayer as error:
        raise damaged(header.path, str(error)) from error


def _check_layout(header: Header, network: Network, card: EightBits | None) -> tuple[str, ...]:
    """Raises InputError unless names, types and shapes are those of the network's weights; a note on what is unused.

    Of the tensors that the network has no use for a file holds all, or none. A network of 8-bit weights takes the form
    of the file's.
    """
    if card is not None:
        try:
            take_form(network, card)
        except NoSuchLayer as error:
            raise damaged(header.path, f"of its 8-bit layers: {error}") from error
    unused, held = _described(network.unused), header.tensors
    wanted = _described(layout(network.state_dict(), () if card is None else card.layers))
    is_old = bool(unused) and unused.keys() <= held.keys()
    expected = wanted | (unused if is_old else {})
    for what, names in (
        ("misses", sorted(expected.keys() - held.keys())),
        ("has also", sorted(held.keys() - expected.keys())),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(
                f"{header.path} does not hold the weights of its architecture: it {what} {names[0]}{more}; "
                "train again with this version"
            )
    for name, (dtype, shape) in expected.items():
        if held[name] != (dtype, shape):
            got_dtype, got = held[name]
            raise InputError(
                f"{header.path} does not hold the weights of its architecture: {name} is {got_dtype} {list(got)}, "
                f"wanted {dtype} {list(shape)}; train again with this version"
            )
    return (_note_on_unused(header, unused),) if is_old else ()


def _described(
    layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (_DTYPES[dtype], shape) for name, (dtype, shape) in layout.items()}


def _note_on_unused(header: Header, unused: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    numbers = sum(math.prod(shape) for _, shape in unused.values())
    parts = sorted({".".join(name.split(".")[:3]) for name in unused})
    named = ", ".join(parts[:_NAMED]) + (f" and {len(parts) - _NAMED} more" if len(parts) > _NAMED else "")
    return (
        f"{header.path.name} holds {len(unused)} tensors ({numbers:,} numbers) of layers that its network never uses "
        f"({named}), as older versions wrote them; they were left out and change nothing"
    )


def _finite_weights(header: Header, network: Network) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and weights of what the network uses. Raises InputError for a damaged file and numbers that are none."""
    try:
        with safe_open(header.path, framework="pt") as file:
            for name in filter(lambda name: name not in network.unused, header.tensors):
                weight: torch.Tensor = file.get_tensor(name)
                # One such number makes every logit NaN, and every pixel the first class, without a word.
                problem = problem_of_weights({name: weight})
                if problem is not None:
                    raise InputError(
                        f"{header.path} holds {problem}, so it could only predict nonsense; "
                        "use a checkpoint from before the training diverged, or train again at a lower learning rate"
                    )
                yield name, weight
    except SafetensorError as error:
        raise damaged(header.path, str(error).splitlines()[0]) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as whole:
        return hashlib.file_digest(whole, "sha256").hexdigest()
