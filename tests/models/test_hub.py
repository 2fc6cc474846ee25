"""Pretrained weights by name: what is known, what is told without internet, and how the libraries spread them."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub
import pytest
import torch
import torchvision
from huggingface_hub import errors
from safetensors.torch import save_file

from aerial_seg.errors import AerialSegError, InputError, SettingsError
from aerial_seg.models.build import build_network
from aerial_seg.models.weights_source import check_weights, weights_file
from aerial_seg.recipe.model import ModelSettings

IMAGENET = ModelSettings(weights="imagenet")
OFFLINE = r"the imagenet weights of \S+ could not be downloaded; connect to the internet .*\bnone\b.*\bFILE\b"

Question = Callable[..., object]


def answers(monkeypatch: pytest.MonkeyPatch, question: Question) -> None:
    """The hub answers so, and nothing lies in the cache."""
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", question)


def never(*_: object, **__: object) -> None:
    raise AssertionError("the hub was asked")


@pytest.mark.parametrize("name", ["a.pth", "deep/er/b.PT", "/x/c.safetensors", "d.ckpt"])
def test_files_go_by_their_ending(name: str) -> None:
    assert weights_file(ModelSettings(weights=name)) == Path(name)
    with pytest.raises(InputError, match=r"do not exist or are no file; wanted .*`weights=\"none\"`"):
        check_weights(ModelSettings(weights=name))


@pytest.mark.parametrize("name", ["none", "imagenet", "noisy-student", "imagenet+5k"])
def test_names_are_no_files(name: str) -> None:
    assert weights_file(ModelSettings(weights=name)) is None


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.pth").mkdir()
    with pytest.raises(InputError, match="are no file"):
        check_weights(ModelSettings(weights=str(tmp_path / "a.pth")))


def test_no_weights_and_files_need_no_internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, never)
    (tmp_path / "a.pth").write_bytes(b"")
    check_weights(ModelSettings(weights="none"))
    check_weights(ModelSettings(weights=str(tmp_path / "a.pth")))


def test_the_weights_of_a_deep_stem_are_looked_for_where_timm_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    answers(monkeypatch, lambda url, **_: asked.append(url))
    for stem in ("deep32", "deep64"):
        check_weights(ModelSettings(encoder="resnet101", stem=stem, weights="imagenet"))
    assert [url.split("/resolve/")[0].rpartition("/")[2] for url in asked] == [
        "resnet101c.gluon_in1k", "resnet101s.gluon_in1k"
    ]  # fmt: skip
    for encoder, weights in (("resnet18", "imagenet"), ("resnet50", "swsl"), ("tu-resnet50", "imagenet")):
        with pytest.raises(SettingsError, match="use resnet50, resnet101 or resnet152, of which there are"):
            check_weights(ModelSettings(encoder=encoder, stem="deep32", weights=weights))


@pytest.mark.parametrize(
    ("encoder", "weights", "message"),
    [
        ("resnet18", "imagnet", r"'imagnet' for resnet18; did you mean 'imagenet'\?; known: imagenet, ssl, swsl, none"),
        ("resnet18", "weights.bin", r"no weights 'weights\.bin' .*a file that ends in \.safetensors, \.pth, \.pt"),
        ("resnet18", "", r"no weights '' for resnet18"),
        ("resnet34", "ssl", r"no weights 'ssl' for resnet34; known: imagenet, none"),
        ("resnet81", "imagenet", r"no encoder 'resnet81'"),
        ("resnet269", "imagenet", r"no weights 'imagenet' for resnet269; known: none"),
        ("tu-resnet18", "imagnet", r"did you mean 'imagenet'"),
        ("tu-resnet18", "fb_swsl_ig1b_ft_in1k", r'the name: encoder = "tu-resnet18\.fb_swsl_ig1b_ft_in1k"'),
        ("tu-resnet18.a1_in2k", "imagenet", r"timm has no weights 'a1_in2k' of resnet18; did you mean 'a1_in1k'\?"),
        ("tu-resnet14t", "b2_in1k", r"no weights 'b2_in1k' for tu-resnet14t"),
    ],
)  # fmt: skip
def test_names_that_the_library_does_not_know(
    encoder: str, weights: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, never)
    settings = ModelSettings(encoder=encoder).model_copy(update={"weights": weights})
    with pytest.raises(SettingsError, match=message) as caught:
        check_weights(settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError("no route"),
        ConnectionError("refused"),
        TimeoutError("late"),
        errors.LocalEntryNotFoundError("offline"),
        errors.OfflineModeIsEnabled("offline"),
        vars(errors)["HTTPError"]("the base of all that its transport raises"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18.a1_in1k"])
def test_without_internet_the_remedy_is_told(
    error: Exception, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    answers(monkeypatch, fails)
    with pytest.raises(AerialSegError, match=OFFLINE):
        check_weights(ModelSettings(encoder=encoder, weights="imagenet"))


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_a_hub_that_does_not_answer_is_told_at_once(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself would ask six times, with ever longer pauses."""
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_url", lambda *_, **__: "http://127.0.0.1:9/model.safetensors"
    )
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(AerialSegError, match=OFFLINE):
        check_weights(ModelSettings(encoder=encoder, weights="imagenet"))
    assert pauses == []


def test_what_lies_on_this_disk_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def cached(repository: str, file: str, *, revision: str | None) -> str:
        asked.append((repository, file, revision))
        return "somewhere"

    answers(monkeypatch, never)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    check_weights(IMAGENET)
    check_weights(ModelSettings(encoder="tu-resnet18.a1_in1k", weights="a1_in1k"))
    (ours, file, revision), timms = asked
    assert (ours, file) == ("smp-hub/resnet18.imagenet", "model.safetensors")
    assert revision is not None
    assert timms == ("timm/resnet18.a1_in1k", "model.safetensors", None)


def test_a_hub_that_answers_lets_the_library_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    answers(monkeypatch, lambda url, *, timeout: asked.append((url, timeout)))
    check_weights(IMAGENET)
    ((url, timeout),) = asked
    assert url.startswith("https://")
    assert "smp-hub/resnet18.imagenet" in url
    assert timeout <= 10


class Busy(BaseHTTPRequestHandler):
    """A hub that is there and refuses."""

    def do_HEAD(self) -> None:
        self.send_response(503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


def test_a_hub_that_refuses_lets_the_library_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        url = f"http://127.0.0.1:{server.server_port}/model.safetensors"
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
        monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda *_, **__: url)
        Thread(target=lambda: [server.handle_request() for _ in range(2)], daemon=True).start()
        with pytest.raises(errors.HfHubHTTPError, match="503"):
            huggingface_hub.get_hf_file_metadata(url)
        check_weights(IMAGENET)


# How the libraries spread what they download


def fake_download(tensors: dict[str, torch.Tensor], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked of the hub, these tensors come."""
    path = folder / "model.safetensors"
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)
    for place in ("segmentation_models_pytorch.encoders.hf_hub_download", "timm.models._hub.hf_hub_download"):
        monkeypatch.setattr(place, lambda *_, **__: str(path))


@pytest.mark.parametrize("bands", [1, 3, 4, 13])
@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_downloaded_weights_are_spread_over_any_bands(
    encoder: str, bands: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    fake_download(theirs, tmp_path, monkeypatch)
    settings = ModelSettings(encoder=encoder, weights="imagenet", output_stride=32, head_channels=8)
    network = build_network(settings, bands=bands, classes=2)
    ours = {
        name.removeprefix("encoder.").removeprefix("model."): t for name, t in network.state_dict().items()
    }
    first = theirs["conv1.weight"]
    wanted = (
        first.sum(dim=1, keepdim=True)
        if bands == 1
        else torch.stack([first[:, k % 3] for k in range(bands)], dim=1) * 3 / bands
    )
    torch.testing.assert_close(ours["conv1.weight"], wanted)
    others = [name for name in theirs if not name.startswith(("fc.", "conv1."))]
    assert all(torch.equal(ours[name], theirs[name]) for name in others)
