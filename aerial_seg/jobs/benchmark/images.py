"""The images of a benchmark, one after another: read ahead, predicted, written and counted behind."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from aerial_seg.bands import Band
from aerial_seg.benchmarks.dataset import Benchmark, Example
from aerial_seg.benchmarks.inference import predict_classes
from aerial_seg.benchmarks.labels import check_sizes, read_image
from aerial_seg.benchmarks.protocol import ResolvedProtocol
from aerial_seg.benchmarks.training_data import read_normalised
from aerial_seg.errors import OutputError
from aerial_seg.files.journal import Journal, damaged_records
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.jobs.benchmark.settings import ImageScore
from aerial_seg.mentions import setting
from aerial_seg.metrics import ConfusionMatrix, class_ious
from aerial_seg.models.device import enough_memory
from aerial_seg.outputs.durable import settled_file
from aerial_seg.progress import Progress

_AHEAD = 2
"""Images that are decoded before their turn, and predictions that wait to be written: enough to hide both."""

Channels = NDArray[np.uint8]
Photograph = NDArray[np.uint8]


@dataclass(slots=True)
class Tally:
    """Add up one confusion matrix of all labelled images, and keep the `keep` lowest single images."""

    matrix: ConfusionMatrix
    keep: int
    _lowest: list[tuple[float, str]] = field(default_factory=list)

    def add(self, name: str, counts: ConfusionMatrix) -> None:
        """Count one image."""
        self.matrix.merge(counts)
        ious = class_ious(counts.counts)
        score = float(np.nanmean(ious)) if np.isfinite(ious).any() else math.nan
        if self.keep and np.isfinite(score):
            # A heap of the lowest: the highest of them, negated, is its first.
            heapq.heappush(self._lowest, (-score, name))
            if len(self._lowest) > self.keep:
                heapq.heappop(self._lowest)

    def worst(self) -> tuple[ImageScore, ...]:
        """The lowest images, the lowest first; in a tie by name."""
        ranked = sorted((-score, name) for score, name in self._lowest)
        return tuple(ImageScore(name, score) for score, name in ranked)


@dataclass(frozen=True, slots=True)
class ImageRun:
    """Run over images and predict each to `folder`/NAME.png: channels, with the legend's palette.

    still: all files that are read.
    """

    benchmark: Benchmark
    examples: tuple[Example, ...]
    bands: tuple[Band, ...]
    net: PaddedForward
    protocol: ResolvedProtocol
    folder: Path
    still: Unchanged

    def prediction(self, example: Example) -> Path:
        """Tell where the prediction of an image lies."""
        return self.folder / f"{example.name}.png"

    def run(self, journal: Journal, tally: Tally, progress: Progress) -> int:
        """Predict every image and count it; return how many an earlier run had predicted already.

        The order of counting is that of the examples. Raises InputError for an image or label that is not what it
        should be, OutputError for what the disk does not take.
        """
        with damaged_records(journal.path):
            done = {str(record["image"]) for record in journal.records}
        resumed = [example for example in self.examples if example.name in done]
        fresh = [example for example in self.examples if example.name not in done]
        self.folder.mkdir(parents=True, exist_ok=True)
        with progress(f"evaluate {self.benchmark.title}", total=len(self.examples), unit="image") as bar:
            for example in resumed:
                self._count(example, _read_prediction(self.prediction(example)), tally)
                bar.update()
            # Leaving waits for what is behind, after an error too: finished images are kept.
            with ThreadPoolExecutor(1) as writer:
                behind = _Behind(writer)
                for example, (image, photograph) in self._read_ahead(fresh):
                    behind.wait(_AHEAD)
                    self.still.check_now_and_then()
                    channels = self._predict(example, image, photograph)
                    behind.start(self._finish, example, channels, journal, tally)
                    bar.update()
                behind.wait(0)
        return len(resumed)

    def _predict(self, example: Example, image: Tensor, photograph: Photograph | None) -> Channels:
        with enough_memory(
            f"{example.image} with {image.shape[2]} × {image.shape[1]} px",
            remedy="take a protocol with fewer or smaller scales, windows or a larger output stride, or "
            + setting("device", "cpu"),
        ):
            return predict_classes(image, self.net, self.protocol, photograph)

    def _read(self, example: Example) -> tuple[Tensor, Photograph | None]:
        """The network's input, and (3,H,W) as it was published where the protocol's CRF will look at it."""
        image = read_normalised(example.image, self.bands)
        if self.protocol.crf is None:
            return image, None
        return image, np.moveaxis(read_image(example.image), 2, 0)

    def _read_ahead(
        self, examples: Sequence[Example]
    ) -> Iterator[tuple[Example, tuple[Tensor, Photograph | None]]]:
        with ThreadPoolExecutor(1) as reader:
            waiting: deque[tuple[Example, Future[tuple[Tensor, Photograph | None]]]] = deque()
            try:
                for example in examples:
                    waiting.append((example, reader.submit(self._read, example)))
                    if len(waiting) > _AHEAD:
                        first, seen = waiting.popleft()
                        yield first, seen.result()
                for first, seen in waiting:
                    yield first, seen.result()
            finally:
                reader.shutdown(wait=True, cancel_futures=True)

    def _finish(self, example: Example, channels: Channels, journal: Journal, tally: Tally) -> None:
        """Counted first: what cannot be counted is not recorded as done."""
        self._count(example, channels, tally)
        picture = Image.fromarray(channels)
        picture.putpalette(self.benchmark.legend.colours().tobytes())
        with settled_file(self.prediction(example)) as partial:
            picture.save(partial, "PNG", compress_level=1)
        journal.add({"image": example.name})

    def _count(self, example: Example, channels: Channels, tally: Tally) -> None:
        if example.label is None:
            return
        truth = self.benchmark.read_labels(example)
        if truth.shape != channels.shape:
            check_sizes(example)
        counts = ConfusionMatrix(len(self.benchmark.legend))
        counts.add(truth, channels)
        tally.add(example.name, counts)


def _read_prediction(path: Path) -> Channels:
    try:
        with Image.open(path) as picture:
            return np.array(picture)
    except (OSError, SyntaxError) as error:
        raise OutputError(
            f"the finished prediction {path} cannot be read ({error}); pass {setting('restart', True)} to begin anew"
        ) from error


class _Behind:
    """Work that one thread does in the order it was started, a few pieces behind."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread
        self._waiting: deque[Future[None]] = deque()

    def start(self, work: Callable[..., None], *arguments: object) -> None:
        """The work will be done after what was started before."""
        self._waiting.append(self._thread.submit(work, *arguments))

    def wait(self, left: int) -> None:
        """At most `left` pieces wait; raises what a finished one raised."""
        while len(self._waiting) > left:
            self._waiting.popleft().result()
