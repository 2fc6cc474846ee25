"""Where a recipe's pretrained weights come from: a file, or the hub from which the encoders' libraries take theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import segmentation_models_pytorch as smp
import timm
from huggingface_hub.errors import HfHubHTTPError

from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.mentions import setting
from aerial_seg.models.backbone.encoders import (
    check_encoder,
    deep_stem_weights,
    library_errors,
    no_weights,
    timm_tags,
)
from aerial_seg.recipe.model import ModelSettings

FILES = (".safetensors", ".pth", ".pt", ".ckpt")
"""How the name of a file of weights ends."""

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_PATIENCE = 10.0
"""Seconds for the hub's answer; the libraries ask six times, 23 s (smp) and 47 s (timm) without a network."""


def weights_file(settings: ModelSettings) -> Path | None:
    """The file that the recipe's weights name; None where they are a library's, or none."""
    path = Path(settings.weights)
    return path if path.suffix.lower() in FILES else None


def check_weights(settings: ModelSettings) -> None:
    """The recipe's weights can be had: none, a file that is there, or the library's, on this disk or within reach.

    Raises InputError for a file that is not there; SettingsError for a name that the encoder's library does not know,
    with the nearest one, and for weights that would have to be downloaded without internet.
    """
    path = weights_file(settings)
    if path is not None:
        if not path.is_file():
            raise InputError(
                f"the weights {path} do not exist or are no file; wanted a model of ours or an encoder's state dict "
                f"({', '.join(FILES)}), or {setting('weights', 'none')}"
            )
        return
    if settings.weights == "none":
        return
    check_encoder(settings.encoder)
    if settings.stem != "7x7":
        settings = settings.model_copy(update={"encoder": f"tu-{deep_stem_weights(settings)}"})
    wanted = _timms(settings) if settings.encoder.startswith("tu-") else _smps(settings)
    if wanted is not None:
        _require_within_reach(settings, wanted)


@dataclass(frozen=True, slots=True)
class _Download:
    """Where a library's weights lie on the hub; the first of these files that is there."""

    repository: str
    revision: str | None
    files: tuple[str, ...] = _HUB_FILES


def _smps(settings: ModelSettings) -> _Download | None:
    entry = smp.encoders.encoders.get(settings.encoder, {})
    known: Mapping[str, Mapping[str, str]] = entry.get("pretrained_settings", {})
    if settings.weights not in known:
        raise _unknown_name(settings, tuple(known))
    place = known[settings.weights]
    return _Download(place["repo_id"], place["revision"]) if "repo_id" in place else None


def _timms(settings: ModelSettings) -> _Download | None:
    """timm's weights belong to the encoder's name (tu-resnet18.a1_in1k); here they go by imagenet or by that tag."""
    name = settings.encoder.removeprefix("tu-")
    config = timm.models.get_pretrained_cfg(name) if timm.models.is_model_pretrained(name) else None
    if config is None or settings.weights not in ("imagenet", config.tag):
        raise _unknown_name(
            settings, () if config is None else ("imagenet", *timm_tags(name.partition(".")[0]))
        )
    if not config.hf_hub_id:
        return None
    repository, _, revision = config.hf_hub_id.partition("@")
    files = (config.hf_hub_filename,) if config.hf_hub_filename else _HUB_FILES
    return _Download(repository, revision or None, files)


def _unknown_name(settings: ModelSettings, known: Sequence[str]) -> SettingsError:
    tagged = (
        f' (a tag goes into the name: encoder = "{settings.encoder.partition(".")[0]}.{settings.weights}")'
        if settings.encoder.startswith("tu-") and settings.weights in known
        else did_you_mean(settings.weights, (*known, "none"))
    )
    return SettingsError(
        f"the library has no weights '{settings.weights}' for {settings.encoder}{tagged}; known: "
        f"{', '.join((*known, 'none'))}, or a file that ends in {', '.join(FILES)}"
    )


def _require_within_reach(settings: ModelSettings, wanted: _Download) -> None:
    """One question to the hub without retries, and none where the file is on this disk already."""
    repository, revision = wanted.repository, wanted.revision
    for file in wanted.files:
        if isinstance(huggingface_hub.try_to_load_from_cache(repository, file, revision=revision), str):
            return
    url = huggingface_hub.hf_hub_url(repository, wanted.files[0], revision=revision)
    try:
        huggingface_hub.get_hf_file_metadata(url, timeout=_PATIENCE)
    except HfHubHTTPError:
        return  # The hub answers; what it refuses the library tells.
    except library_errors() as error:
        raise no_weights(settings) from error
