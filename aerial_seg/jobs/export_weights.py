"""export --as: a model's weights as another project's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import check_writable, staged_files
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.models.file import load_model
from aerial_seg.models.importing.giving import Given, give
from aerial_seg.paths import StrPath, as_path

_ENDINGS = (".pth", ".pt")


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """Tell what was written. arch: what the project calls the network. tensors: how many. size: bytes."""

    path: Path
    project: str
    arch: str
    tensors: int
    size: int
    notes: tuple[str, ...]


def export_weights(
    model_path: StrPath, output: StrPath, project: str, *, overwrite: bool = False
) -> WeightsReport:
    """Write a model's weights to `output` as torchvision or mmseg (project) loads them, strictly.

    torchvision's is a plain state dict; mmseg's has the class names and colours in its meta. Before anything is written
    the weights were imported again, and were the same network with equal tensors.
    Raises SettingsError for another project or an output that is no .pth, InputError for a network that the project
    cannot compute, OutputError where the file cannot be written.
    """
    model_path, output = as_path(model_path, "model_path"), as_path(output, "output")
    if output.suffix.lower() not in _ENDINGS:
        raise SettingsError(
            f"{output} does not end in .pth, as checkpoints do; name the output {output.stem}.pth"
        )
    check_writable(output, overwrite=overwrite)
    Inputs([model_path]).refuse([output])
    still = Unchanged([model_path])
    model = load_model(model_path)
    if model.eight_bits is not None:
        raise InputError(
            f"{model_path} holds 8-bit weights with batch norms folded in, which {project} has no names for; export "
            "the model that it was made of"
        )
    given = give(model, model_path, project)
    document = _document(given, project, model.card.legend.names, model.card.legend.colours().tolist())
    with staged_files(output, overwrite=overwrite) as folder, still.holding():
        torch.save(document, folder / output.name)
    return WeightsReport(
        path=output,
        project=project,
        arch=given.arch,
        tensors=len(given.tensors),
        size=output.stat().st_size,
        notes=(*model.notes, *given.notes),
    )


def _document(
    given: Given, project: str, classes: tuple[str, ...], colours: list[list[int]]
) -> dict[str, object]:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in given.tensors.items()}
    if project != "mmseg":
        return dict(tensors)
    meta = {"dataset_meta": {"classes": list(classes), "palette": colours[: len(classes)]}}
    return {"meta": meta, "state_dict": tensors}
