"""Every project whose checkpoints are understood, by the name that importing takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.deeplab_pytorch import import_deeplab_pytorch
from aerial_seg.models.importing.lightning import import_terratorch, import_torchgeo
from aerial_seg.models.importing.matching import ImportedNetwork
from aerial_seg.models.importing.mmseg import import_mmseg
from aerial_seg.models.importing.semseg import import_semseg
from aerial_seg.models.importing.smp import import_smp
from aerial_seg.models.importing.ssseg import import_ssseg
from aerial_seg.models.importing.torchvision import import_torchvision
from aerial_seg.models.importing.vainf import import_vainf

SOURCES: Mapping[str, Callable[[Checkpoint, str | None], ImportedNetwork]] = {
    "torchvision": import_torchvision,
    "mmseg": import_mmseg,
    "semseg": import_semseg,
    "ssseg": import_ssseg,
    "deeplab-pytorch": import_deeplab_pytorch,
    "vainf": import_vainf,
    "smp": import_smp,
    "torchgeo": import_torchgeo,
    "terratorch": import_terratorch,
}


def check_source(source: str) -> None:
    """Raises SettingsError for a project that is not understood, naming the nearest one."""
    if source not in SOURCES:
        raise SettingsError(
            f"there is no source '{source}'{did_you_mean(source, SOURCES)}; known: {', '.join(SOURCES)}"
        )


def import_checkpoint(checkpoint: Checkpoint, source: str, arch: str | None = None) -> ImportedNetwork:
    """The checkpoint's network in evaluation mode, with the logits that it has in its own project.

    arch: the project's name of the network, for what names and shapes of tensors cannot tell; None: what the checkpoint
    says itself, else the one form that the project publishes of these tensors, and a note that says so.
    Raises SettingsError for an unknown source or a name that does not fit, InputError for another network's weights.
    """
    check_source(source)
    return SOURCES[source](checkpoint, arch)
