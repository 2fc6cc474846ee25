"""A model file or checkpoint that changes while something is made of it: nothing is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aerial_seg.geo.raster.unchanged import ChangedError
from aerial_seg.jobs import export as export_room
from aerial_seg.jobs import import_weights as import_room
from aerial_seg.models.file import save_model
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.matching import ImportedNetwork


@pytest.mark.parametrize("command", ["export", "import-weights"])
def test_model_files_and_checkpoints_are_held_while_something_is_made_of_them(
    command: str, tmp_path: Path, untrained: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, read = untrained("fcn"), tmp_path / "read.safetensors"
    save_model(model.network.state_dict(), model.card, read)

    def write(*arguments: object) -> float:
        (file,) = (one for one in arguments if isinstance(one, Path))
        file.write_bytes(b"made of what was read")
        read.write_bytes(read.read_bytes())
        return 0.0

    imported = ImportedNetwork(model.network, model.card.recipe.model, model.card.bands, 3, ())
    known = Checkpoint(read, {}, "sha", ("a", "b", "c"))
    for room, name, stand_in in (
        (export_room, "load_model", lambda path: model),
        (export_room, "write_onnx", write),
        (import_room, "read_checkpoint", lambda path, **_: known),
        (import_room, "import_checkpoint", lambda *_: imported),
        (import_room, "save_model", write),
    ):
        monkeypatch.setattr(room, name, stand_in)

    def play() -> None:
        if command == "export":
            export_room.export(read, tmp_path / "o.onnx")
        else:
            import_room.import_weights(read, tmp_path / "o.safetensors", source="torchvision")

    with pytest.raises(ChangedError, match=r"read\.safetensors changed while it was read"):
        play()
    assert [path.name for path in tmp_path.iterdir()] == ["read.safetensors"]
