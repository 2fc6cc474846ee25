"""What `benchmark` can be told, and what it tells back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aerial_seg.benchmarks.published import ComparisonRow
from aerial_seg.benchmarks.scores import BenchmarkScores
from aerial_seg.inference.engines.choose import EngineSettings


@dataclass(frozen=True, slots=True)
class BenchmarkSettings:
    """Say how to evaluate a model on a benchmark.

    protocol: a shipped name or a .toml file; None: the one that the model's architecture is published with.
    split: None: the one that papers score (val). precision: fp32, bf16, fp16 or auto. worst: how many pictures of the
    images with the lowest scores. submission: also write the server's archive; competition: comp5 or comp6 of VOC.
    restart: forget an interrupted run of this output.
    """

    protocol: str | None = None
    split: str | None = None
    device: str = "auto"
    precision: str = "fp32"
    worst: int = 10
    submission: Path | None = None
    competition: str = "comp6"
    overwrite: bool = False
    restart: bool = False

    @property
    def engine_settings(self) -> EngineSettings:
        """What the forward has to know of it."""
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
