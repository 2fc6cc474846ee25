"""Hold the importers to checkpoints that torchgeo's and terratorch's own segmentation tasks write.

By hand, in an environment of its own beside an installed aerial-seg:

    pip install torchgeo terratorch
    python tests/fidelity/against_lightning.py              # both
    python tests/fidelity/against_lightning.py torchgeo

Each task is made by their code, trained for one step by Lightning's Trainer and saved by its save_checkpoint; some are
made by Lightning's command line, as their own programs do, which keeps other hyper_parameters. The checkpoint is
imported with the bands given, and the logits are compared in float64. What is told is printed; the script ends with 1
where a difference is above 1e-11, or a task that has to be refused is not.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from shaking import shake_norms
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aerial_seg.bands import Band, trained_band
from aerial_seg.errors import AerialSegError
from aerial_seg.jobs.import_weights import CheckpointFacts, import_weights
from aerial_seg.models.file import load_model

LIMIT = 1e-11
FOUR = tuple(trained_band(name, "uint16", mean=100, std=50) for name in ("blue", "green", "red", "nir"))


@dataclass(frozen=True, slots=True)
class Case:
    """A task to be made, what it is trained on, the bands that its checkpoint is given, and whether that is refused."""

    name: str
    make: Callable[[], Any]
    classes: int
    bands: tuple[Band, ...] = ()
    numbers: bool = False
    refused: str = ""

    @property
    def channels(self) -> int:
        return len(self.bands) or 3


class Drawn(Dataset[dict[str, Tensor]]):
    """Two images of noise with labels of noise."""

    def __init__(self, channels: int, classes: int, *, numbers: bool) -> None:
        self.channels, self.classes, self.numbers = channels, classes, numbers

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        labels = torch.randint(0, self.classes, (64, 64))
        return {
            "image": torch.randn(self.channels, 64, 64),
            "mask": labels.float() if self.numbers else labels,
        }


def by_command_line(kind: str, words: list[str]) -> Any:
    """The task as `torchgeo fit` and `terratorch fit` make it from a configuration."""
    from lightning.pytorch import LightningModule

    given = [f"--model={kind}", *(f"--model.{word}" for word in words)]
    return LightningCLI(LightningModule, subclass_mode_model=True, run=False, args=given).model


def torchgeos() -> Iterator[Case]:
    from torchgeo.trainers import PixelwiseRegressionTask, SemanticSegmentationTask

    def task(**options: Any) -> Callable[[], Any]:
        return lambda: SemanticSegmentationTask(**options)

    three = {"in_channels": 3, "num_classes": 4}
    for model, backbone, loss in (
        ("unet", "resnet18", "ce"),
        ("unet", "tu-resnet18", "focal"),
        ("deeplabv3+", "resnet50", "jaccard"),
        ("upernet", "resnet18", "ce"),
        ("segformer", "mit_b0", "ce"),
    ):
        yield Case(f"{model} {backbone}", task(model=model, backbone=backbone, loss=loss, **three), 4)
    weights = torch.tensor([1.0, 2, 3])
    yield Case(
        "weighted", task(model="deeplabv3+", backbone="resnet18", in_channels=4, num_classes=3, class_weights=weights),
        3, FOUR,
    )  # fmt: skip
    yield Case("ignoring", task(model="unet", backbone="resnet18", ignore_index=0, **three), 4)
    binary = task(model="unet", backbone="resnet34", in_channels=3, task="binary", loss="bce")
    yield Case("binary", binary, 2, numbers=True)
    words = ["model=unet", "backbone=resnet18", "in_channels=3", "num_classes=4"]
    line = lambda kind, more: lambda: by_command_line(f"torchgeo.trainers.{kind}", more)  # noqa: E731
    yield Case("by command line", line("SemanticSegmentationTask", words), 4)
    yield Case("fcn", task(model="fcn", **three), 4, refused="hyper_parameters.model = fcn")
    regression = lambda: PixelwiseRegressionTask(model="unet", backbone="resnet18", in_channels=3)  # noqa: E731
    yield Case(
        "regression", regression, 4, numbers=True, refused="hyper_parameters.loss = mse, a regression's"
    )
    yield Case(
        "regression by command line", line("PixelwiseRegressionTask", words[:3]), 4, numbers=True,
        refused="hyper_parameters._class_path = torchgeo.trainers.PixelwiseRegressionTask",
    )  # fmt: skip


def terratorchs() -> Iterator[Case]:
    from terratorch.tasks import SemanticSegmentationTask

    def task(arguments: dict[str, Any], **options: Any) -> Callable[[], Any]:
        # Its cross-entropy needs an ignore_index.
        told = {"ignore_index": -1, **options}
        return lambda: SemanticSegmentationTask(
            model_args={"pretrained": False, **arguments}, model_factory="SMPModelFactory", **told
        )

    names = ["BLUE", "GREEN", "RED", "NIR_NARROW"]
    for model, more in (
        ("Unet", {}),
        ("Unet", {"smp_decoder_channels": [64, 32, 16, 8, 8]}),
        ("DeepLabV3Plus", {"smp_encoder_output_stride": 8, "smp_decoder_atrous_rates": [2, 4, 6]}),
        ("FPN", {}),
    ):
        arguments = {"model": model, "backbone": "resnet18", "bands": names, "num_classes": 3, **more}
        yield Case(f"{model} {' '.join(more)}", task(arguments), 3, FOUR)
    plain = {"model": "Unet", "backbone": "resnet18", "bands": names, "num_classes": 3}
    named = task(
        plain, class_names=["ground", "water", "crop"], ignore_index=-1, class_weights=[1.0, 2.0, 3.0]
    )
    yield Case("named", named, 3, FOUR)
    yield Case("two losses", task(plain, loss=["ce", "dice"], ignore_index=255), 3, FOUR)
    line = [
        "model_factory=SMPModelFactory",
        "ignore_index=-1",
        f"model_args={ {**plain, 'pretrained': False} }".replace("'", '"').replace("False", "false"),
    ]
    yield Case(
        "by command line",
        lambda: by_command_line("terratorch.tasks.SemanticSegmentationTask", line), 3, FOUR,
    )  # fmt: skip


def trained(case: Case, path: Path) -> Any:
    """The task after a step, in evaluation mode; path: where Lightning's Trainer saved it."""
    task = case.make()
    torch.manual_seed(3)
    shake_norms(task)
    trainer = Trainer(
        accelerator="cpu", max_steps=1, limit_val_batches=1, num_sanity_val_steps=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    drawn = DataLoader(Drawn(case.channels, case.classes, numbers=case.numbers), batch_size=2)
    trainer.fit(task, drawn, drawn)
    trainer.save_checkpoint(path)
    return task.eval().double()


def compare(case: Case, source: str) -> bool:
    """Whether the case is as it has to be; prints what was found."""
    print(f"{source}, {case.name}")
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "last.ckpt", Path(folder) / "model.safetensors"
        task = trained(case, path)
        held = torch.load(path, weights_only=False)
        print(f"    hyper_parameters {sorted(held['hyper_parameters'])}")
        try:
            report = import_weights(path, out, source=source, facts=CheckpointFacts(bands=case.bands))
        except AerialSegError as error:
            print(f"    refused: {str(error).replace(folder, '')}", flush=True)
            return bool(case.refused) and case.refused in str(error)
        network = load_model(out).network.double()
    for note in report.notes:
        print(f"    {note}")
    image = torch.randn(1, case.channels, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        wanted, got = task(image), network(image)
    wanted = getattr(wanted, "output", wanted)
    got = got[:, 1:] if wanted.shape[1] == 1 else got
    found = float((got - wanted).abs().max() / wanted.abs().max())
    print(f"    {found:.1e} {', '.join(report.classes)}", flush=True)
    return found <= LIMIT and not case.refused


def main() -> int:
    warnings.filterwarnings("ignore")
    cases = {"torchgeo": torchgeos, "terratorch": terratorchs}
    wrong = [
        f"{source}, {case.name}"
        for source in sys.argv[1:] or cases
        for case in cases[source]()
        if not compare(case, source)
    ]
    print(f"not as wanted: {'; '.join(wrong)}" if wrong else f"all below {LIMIT:g} or refused as wanted")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
