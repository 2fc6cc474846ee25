"""The benchmarks that the program knows, by name."""

from __future__ import annotations

from aerial_seg.benchmarks.ade20k import Ade20k
from aerial_seg.benchmarks.cityscapes import Cityscapes
from aerial_seg.benchmarks.coco import Coco
from aerial_seg.benchmarks.dataset import Benchmark
from aerial_seg.benchmarks.voc import Voc
from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.paths import StrPath, as_path

_KINDS: dict[str, type[Benchmark]] = {kind.name: kind for kind in (Voc, Cityscapes, Ade20k, Coco)}

BENCHMARKS: tuple[str, ...] = tuple(_KINDS)
"""voc, cityscapes, ade20k, coco."""


def open_benchmark(name: str, root: StrPath) -> Benchmark:
    """Open the benchmark of that name as it lies under `root`; no image is read yet.

    Raises SettingsError for an unknown name, InputError where `root` does not hold it.
    """
    kind = _KINDS.get(name)
    if kind is None:
        raise SettingsError(
            f"there is no benchmark '{name}'{did_you_mean(name, BENCHMARKS)}; known: {', '.join(BENCHMARKS)}"
        )
    return kind(as_path(root, "root"))
