"""import-weights: another project's checkpoint becomes a model file of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aerial_seg.bands import Band
from aerial_seg.benchmarks.ade20k import Ade20k
from aerial_seg.benchmarks.cityscapes import Cityscapes
from aerial_seg.benchmarks.voc import Voc
from aerial_seg.documents import listed
from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.files.names import check_input
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import check_writable, staged_files
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.legend import IGNORE, Legend, make_legend
from aerial_seg.mentions import setting
from aerial_seg.models.file import ModelCard, save_model
from aerial_seg.models.importing.checkpoint import Checkpoint, read_checkpoint
from aerial_seg.models.importing.matching import ImportedNetwork, Match
from aerial_seg.models.importing.sources import check_source, import_checkpoint
from aerial_seg.models.weights_check import problem_of_weights
from aerial_seg.paths import StrPath, as_path
from aerial_seg.printable import name_problems
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.training.validation.calibration import threshold_bias
from aerial_seg.version import __version__

_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")
_LEGENDS: Mapping[str, Legend] = {kind.name: kind.legend for kind in (Voc, Cityscapes, Ade20k)}


@dataclass(frozen=True, slots=True)
class ImportReport:
    """Tell what the written model file is, its class names in channel order, and which tensor became which.

    parameters: trainable numbers, those of the auxiliary head included. notes: what was assumed.
    """

    model: Path
    settings: ModelSettings
    classes: tuple[str, ...]
    parameters: int
    matches: tuple[Match, ...]
    notes: tuple[str, ...]


def import_weights(
    checkpoint: StrPath,
    output: StrPath,
    *,
    source: str,
    arch: str | None = None,
    classes: str | None = None,
    bands: Sequence[Band] = (),
    ema: bool | None = None,
    overwrite: bool = False,
) -> ImportReport:
    """Write a model file `output` with a checkpoint's weights and all that `predict` needs besides them.

    checkpoint: a file, or a folder that smp's save_pretrained made. source: whose names it has (torchvision, mmseg,
    semseg, ssseg, deeplab-pytorch, vainf, smp, torchgeo, terratorch). arch: what that project calls the network, for
    what names and shapes cannot tell. classes: voc, cityscapes or ade20k for that benchmark's names; None: those that
    the checkpoint holds itself, else the benchmark's with as many classes, else class_0, … bands: what the network was
    trained on, in its order, where neither project nor checkpoint tells. ema: of two sets of weights, the moving
    average or those as trained; None: those that stand first, as their own program evaluates them.
    Raises InputError for a checkpoint that is no such network or holds code, SettingsError for an unknown source, name
    or class list or one of another length, and for what has to be told, OutputError where `output` cannot be written.
    """
    checkpoint, output = _weights_in(as_path(checkpoint, "checkpoint")), as_path(output, "output")
    check_source(source)
    if output.suffix.lower() != ".safetensors":
        raise SettingsError(f"{output} does not end in .safetensors, which model files do; rename the output")
    check_writable(output, overwrite=overwrite)
    Inputs([checkpoint]).refuse([output])
    still = Unchanged([checkpoint])
    read = replace(read_checkpoint(checkpoint, ema=ema), bands=tuple(bands))
    imported = import_checkpoint(read, source, arch)
    problem = problem_of_weights(imported.network.state_dict())
    if problem is not None:
        raise InputError(
            f"{checkpoint} holds {problem}, so it could only predict nonsense; use another checkpoint"
        )
    legend, notes = _legend(_with_background(read, imported), imported.classes, classes)
    side, cropped = _tile_side(imported)
    card = ModelCard(
        tool_version=__version__,
        recipe=Recipe(model=imported.settings, prediction=PredictionSettings(tile_size=side)),
        legend=legend,
        bands=imported.bands,
        gsd=None,
        class_bias=_bias(imported),
        iteration=0,
        validation_miou=None,
        data_fingerprint=f"imported from {source}{f' ({arch})' if arch else ''}, checkpoint sha256 {read.sha256}",
    )
    with staged_files(output, overwrite=overwrite) as work, still.holding():
        save_model(imported.network.state_dict(), card, work / output.name)
    return ImportReport(
        model=output,
        settings=imported.settings,
        classes=legend.names,
        parameters=sum(weight.numel() for weight in imported.network.parameters()),
        matches=imported.matches,
        notes=(*read.notes, *imported.notes, *notes, *cropped),
    )


def _weights_in(path: Path) -> Path:
    """The file of weights in a folder that save_pretrained made; another path as it is."""
    check_input(path)
    if not path.is_dir():
        return path
    files = [path / name for name in _IN_FOLDERS]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise InputError(
            f"{path} is a folder without {' or '.join(_IN_FOLDERS)}, as smp's save_pretrained makes them; name a "
            "checkpoint, or such a folder"
        )
    return found


def _with_background(read: Checkpoint, imported: ImportedNetwork) -> Checkpoint:
    """The checkpoint with a name for the background where its network had one output and its class one name."""
    if not imported.training.has_background or len(read.classes) > 1:
        return read
    names = ("background", *(read.classes or ("class_1",)))
    return replace(read, classes=names if len(set(names)) == len(names) else (), palette=())


def _bias(imported: ImportedNetwork) -> tuple[float, ...]:
    """Nothing for the argmax of several outputs; for a single one what puts its threshold where its project has it."""
    training = imported.training
    if training.has_background and training.threshold != 0.5:
        return threshold_bias(training.threshold)
    return (0.0,) * imported.classes


def _tile_side(imported: ImportedNetwork) -> tuple[int, tuple[str, ...]]:
    """The side of tiles nearest to that of the training's crops, or else the usual one; what to say of it."""
    geometry, crop, stretched = (
        imported.network.geometry,
        imported.training.crop,
        imported.settings.stretched_side,
    )
    if stretched is not None:
        side = geometry.nearest_valid_sides(stretched)[1]
        return side, (
            f"crops of {stretched} px in training are assumed, over which the network's cells were stretched: tiles of "
            f"{side} px give each cell its place in these, others an approximate one",
        )
    if crop is None:
        return geometry.nearest_valid_sides(PredictionSettings().tile_size)[1], ()
    wanted = min(crop)
    side = min(geometry.nearest_valid_sides(wanted), key=lambda valid: abs(valid - wanted))
    if set(crop) == {side}:
        return side, ()
    return side, (
        f"it was trained on crops of {crop[0]}x{crop[1]} px (height, width); tiles are squares of {side} px that line "
        f"up: {setting('tile_size', job='predict')} of predict takes others",
    )


def _legend(checkpoint: Checkpoint, channels: int, wanted: str | None) -> tuple[Legend, tuple[str, ...]]:
    path = checkpoint.path
    if channels > IGNORE:
        raise InputError(f"{path} has {channels} classes, but masks hold {IGNORE} at the most; train fewer")
    if wanted is not None:
        return _named_legend(path, channels, wanted), ()
    odd = [f"'{name}': {problem}" for name, problem in name_problems(checkpoint.classes)]
    if odd:
        raise InputError(
            f"{path} calls {len(odd)} of its classes what no class can be called ({listed(odd, 3)}); mend the names in "
            f"it, or pass {setting('classes')} for those of a benchmark"
        )
    if len(set(checkpoint.classes)) == channels:
        names = dict(enumerate(checkpoint.classes))
        colours = {k: f"#{r:02x}{g:02x}{b:02x}" for k, (r, g, b) in enumerate(checkpoint.palette)}
        background = [k for k, name in names.items() if name.lower() == "background"]
        return make_legend(names, background=background, colours=colours or None), ()
    unfit = _unfit(checkpoint.classes, channels)
    for name, legend in _LEGENDS.items():
        if len(legend) == channels:
            return legend, (
                *unfit,
                f"{channels} classes without names were taken for those of {name}; {setting('classes')} names another "
                "list",
            )
    names = {k: f"class_{k}" for k in range(channels)}
    return make_legend(names), (
        *unfit,
        f"{channels} classes without names were called class_0 to class_{channels - 1}",
    )


def _unfit(names: tuple[str, ...], channels: int) -> tuple[str, ...]:
    """What to say of names that are there and cannot be the classes'."""
    if not names:
        return ()
    return (
        f"the checkpoint names {len(set(names))} different classes ({listed(names, 3)}) for {channels} outputs; the "
        "names were left out",
    )


def _named_legend(path: Path, channels: int, wanted: str) -> Legend:
    legend = _LEGENDS.get(wanted)
    if legend is None:
        raise SettingsError(
            f"{setting('classes', wanted)} is no class list that is known"
            f"{did_you_mean(wanted, _LEGENDS)}; known: {', '.join(_LEGENDS)}"
        )
    if len(legend) != channels:
        raise SettingsError(
            f"{setting('classes', wanted)} has {len(legend)} classes, but {path} has {channels}; "
            "choose the list of its data or leave it out"
        )
    return legend
