"""What `benchmark` can be told, and what it tells back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from aerial_seg.choices import Device, NetworkPrecision, Overwrite, Restart
from aerial_seg.settings import Setting, settings

if TYPE_CHECKING:
    from aerial_seg.benchmarks.published import ComparisonRow
    from aerial_seg.benchmarks.scores import BenchmarkScores
    from aerial_seg.inference.engines.choose import EngineSettings


@settings
@dataclass(frozen=True, slots=True)
class BenchmarkSettings:
    """Say how to evaluate a model on a benchmark."""

    protocol: Annotated[
        str | None,
        Setting(
            "How images are shown to the network and scores averaged; default: the model's architecture decides. "
            "Shipped: fcn, deeplabv2, deeplabv2-crf, tensorpack-deeplab, deeplabv3-as-trained, deeplabv3-os16, "
            "deeplabv3-os8, deeplabv3-os8-ms, deeplabv3-os8-ms-flip, deeplabv3-cityscapes-test, psp-ss, psp-ms, mmseg, "
            "mmseg-slide, semseg.",
            file=True,
            metavar="NAME|FILE.toml",
        ),
    ] = None
    split: Annotated[
        str | None, Setting("The split to score; default: the one that papers score, val.", metavar="NAME")
    ] = None
    submission: Annotated[
        Path | None, Setting("Also write the archive that the benchmark's server takes.", metavar="FILE")
    ] = None
    competition: Annotated[
        Literal["comp5", "comp6"],
        Setting("For VOC's archive: trained on VOC's own data only, or on any."),
    ] = "comp6"
    worst: Annotated[
        int, Setting("Pictures of the images with the lowest scores.", low=0, high=1_000_000, metavar="N")
    ] = 10
    precision: NetworkPrecision = "fp32"
    device: Device = "auto"
    restart: Restart = False
    overwrite: Overwrite = False

    @property
    def engine_settings(self) -> EngineSettings:
        """What the forward has to know of it."""
        from aerial_seg.inference.engines.choose import EngineSettings

        return EngineSettings(engine="eager", precision=self.precision, device=self.device)


@dataclass(frozen=True, slots=True)
class ImageScore:
    """One image's mean IoU over the classes that its truth or its prediction holds: for ranking, never averaged."""

    name: str
    miou: float


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """Tell how one evaluation came out.

    folder: where everything lies, None when nothing was kept. scores: None for a split without published labels.
    comparison: measured beside published. worst: the lowest images first. resumed: images that an interrupted run had
    finished. system: architecture, encoder and output stride at the test. job: all that the scores depend on: model,
    data, protocol with its values, versions and runtime.
    """

    title: str
    root: str
    split: str
    images: int
    model: str
    system: str
    protocol: str
    protocol_title: str
    scores: BenchmarkScores | None
    comparison: tuple[ComparisonRow, ...]
    worst: tuple[ImageScore, ...]
    job: dict[str, Any]
    resumed: int = 0
    folder: Path | None = None
    submission: Path | None = None
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready document, the same for a run in one go and a resumed one."""
        return {
            "benchmark": self.title,
            "root": self.root,
            "split": self.split,
            "images": self.images,
            "model": self.model,
            "system": self.system,
            "protocol": self.protocol,
            "scores": None if self.scores is None else self.scores.as_json(),
            "comparison": [row.as_json() for row in self.comparison],
            "worst_images": [{"name": image.name, "miou": image.miou} for image in self.worst],
            "job": self.job,
            "notes": list(self.notes),
        }
