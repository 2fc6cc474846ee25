"""An evaluation as people read it: a Markdown page, and pictures of the images that went worst."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from aerial_seg.benchmarks.dataset import Benchmark, Example
from aerial_seg.benchmarks.labels import read_image
from aerial_seg.legend import IGNORE

Pixels = NDArray[np.uint8]


def benchmark_page(document: Mapping[str, Any], protocol_title: str) -> str:
    """Markdown of the document of a BenchmarkReport: what was run, measured beside published, classes, worst images."""
    lines = [
        f"# {document['benchmark']}, {document['split']}",
        "",
        f"{document['system']}, protocol `{document['protocol']}` ({protocol_title}), {document['images']:,} images, "
        f"model `{document['model']}`.",
        "",
    ]
    scores = document["scores"]
    if scores is None:
        lines += ["The split has no published labels, so nothing was scored."]
    else:
        lines += [*_comparison(document["comparison"]), *_means(scores), *_classes(scores)]
        lines += _worst(document["worst_images"])
    runtime = ", ".join(f"{key} {value}" for key, value in document["job"]["runtime"].items())
    lines += ["", f"Runtime: {runtime}.", *(f"Note: {note}." for note in document["notes"])]
    return "\n".join(lines) + "\n"


def _comparison(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    head = [
        "| metric | measured % | published % | difference | source | remark |",
        "|---|---:|---:|---:|---|---|",
    ]
    body = [
        f"| {row['metric']} | {_percent(row['measured'])} | {_percent(row['published'])} | "
        f"{_signed(row['difference'])} | {row['source']} | {row['remark']} |"
        for row in rows
    ]
    return [*head, *body, ""]


def _means(scores: Mapping[str, Any]) -> list[str]:
    names = {
        "miou": f"mIoU over {scores['classes_counted']} of {len(scores['classes'])} classes",
        "pixel_accuracy": "pixel accuracy",
        "mean_accuracy": "mean accuracy",
        "frequency_weighted_iou": "frequency-weighted IoU",
        "category_miou": f"category mIoU over {scores.get('categories_counted')} categories",
        "challenge_score": "(mIoU + pixel accuracy) / 2",
    }
    rows = [f"| {text} | {_share(scores[key])} |" for key, text in names.items() if key in scores]
    return ["| mean | % |", "|---|---:|", *rows, ""]


def _classes(scores: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {one['name']} | {_share(one['iou'])} | {_share(one['recall'])} | {one['pixels']:,} |"
        for one in scores["classes"]
    ]
    return ["| class | IoU % | accuracy % | true pixels |", "|---|---:|---:|---:|", *rows, ""]


def _worst(images: Sequence[Mapping[str, Any]]) -> list[str]:
    if not images:
        return []
    rows = [
        f"{k}. [{image['name']}](worst/{picture_name(k, image['name'])}): "
        f"mean IoU of its classes {_share(image['miou'])} %"
        for k, image in enumerate(images, start=1)
    ]
    return ["Worst images (ranked each by itself; such a mean is no benchmark score):", "", *rows, ""]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _share(value: float | None) -> str:
    return "NaN" if value is None else f"{100 * value:.2f}"


def picture_name(place: int, name: str) -> str:
    """The file of the image at this place, counted from 1."""
    return f"{place:02}_{name}.png"


def worst_pictures(
    benchmark: Benchmark, images: Sequence[tuple[Example, float]], predictions: Path, folder: Path
) -> None:
    """`folder` holds one PNG per image: image, truth and prediction over it, and where they differ."""
    if images:
        folder.mkdir(parents=True, exist_ok=True)
    for place, (example, score) in enumerate(images, start=1):
        with Image.open(predictions / f"{example.name}.png") as picture:
            predicted = np.array(picture)
        truth = benchmark.read_labels(example)
        title = f"{example.name}: mean IoU of its classes {100 * score:.1f} %"
        figure = _overlays(benchmark, read_image(example.image), truth, predicted, title=title)
        figure.savefig(folder / picture_name(place, example.name), dpi=100)


def overlay_panels(
    image: Pixels, truth: Pixels, predicted: Pixels, colours: Pixels
) -> dict[str, NDArray[np.uint8]]:
    """Four RGB panels (H,W,3) by their titles: image, truth and prediction over it, and errors in red.

    image (H,W,3); truth and predicted (H,W) channels, 255 = ignored, which is white in the truth and no error;
    colours (256,3).
    """
    faint = 0.45 * image.astype(np.float32)
    ignored = truth == IGNORE
    wrong = (truth != predicted) & ~ignored
    paint = 0.55 * colours.astype(np.float32)
    share = wrong.sum() / max(1, (~ignored).sum())
    panels = {
        "image": image,
        "truth": np.where(ignored[..., None], 255, faint + paint[truth]),
        "prediction": faint + paint[predicted],
        f"wrong: {share:.1%} of labelled": np.where(
            wrong[..., None], np.array([255, 40, 40], np.float32), faint
        ),
    }
    return {name: np.clip(np.rint(pixels), 0, 255).astype(np.uint8) for name, pixels in panels.items()}


def _overlays(benchmark: Benchmark, image: Pixels, truth: Pixels, predicted: Pixels, *, title: str) -> Figure:
    height, width = truth.shape
    figure = Figure(figsize=(16, 4 * height / width + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    panels = overlay_panels(image, truth, predicted, benchmark.legend.colours())
    for axis, (name, pixels) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axis.imshow(pixels, interpolation="nearest")
        axis.set_title(name)
        axis.set_axis_off()
    present = sorted({*np.unique(truth[truth != IGNORE]).tolist(), *np.unique(predicted).tolist()})
    entries = [benchmark.legend.entries[channel] for channel in present[:24]]
    patches = [Patch(facecolor=entry.colour, edgecolor="#444444", label=entry.name) for entry in entries]
    figure.legend(handles=patches, loc="outside lower center", ncols=8, frameon=False)
    figure.suptitle(title)
    return figure
