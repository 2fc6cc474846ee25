"""The numbers that papers and reference projects print, and how a measured score compares with them."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.metrics import Scores, or_null
from aerial_seg.recipe.loading import document_names, shipped_text
from aerial_seg.recipe.section import Section

Metric = Literal["miou", "pixel_accuracy", "mean_accuracy"]


class PublishedResult(Section):
    """One printed number.

    architecture, encoder and protocol: as recipes and BenchmarkSettings name them; protocol "other": none that ships is
    what was done, `note` says what was. output_stride: that of the test, None where the source names none. value: in
    percent. evidence: stated = in the paper or table that `source` names, read = in that project's own table,
    memory = not checked.
    """

    architecture: str
    encoder: str
    output_stride: Literal[4, 8, 16, 32] | None = None
    protocol: str
    split: Literal["val", "test"]
    metric: Metric = "miou"
    value: Annotated[float, Field(gt=0, lt=100)]
    source: Annotated[str, Field(min_length=1)]
    evidence: Literal["stated", "read", "memory"]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """A published result beside a measured one. differs: what was done otherwise there; empty if it is comparable."""

    result: PublishedResult
    differs: tuple[str, ...]

    @property
    def comparable(self) -> bool:
        """The same architecture, encoder, protocol, output stride and split."""
        return not self.differs


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """measured | published | difference | source, in percent; published is None without a result.

    difference: None too where the two are not comparable.

    remark: what makes the two not comparable, and the published result's own note.
    """

    metric: str
    measured: float
    published: float | None
    difference: float | None
    source: str
    remark: str
    comparable: bool

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready document; NaN becomes null."""
        return {key: or_null(value) for key, value in asdict(self).items()}


@cache
def published(dataset: str) -> tuple[PublishedResult, ...]:
    """Every result that ships for `dataset` (voc, cityscapes, ade20k, coco), in the order of its file.

    Raises SettingsError for a dataset without such a file.
    """
    names = document_names("published")
    if dataset not in names:
        raise SettingsError(
            f"there are no published results for '{dataset}'{did_you_mean(dataset, names)}; "
            f"known: {', '.join(names)}"
        )
    document = tomllib.loads(shipped_text("published", dataset))
    results = []
    for table in document["table"]:
        common = {key: value for key, value in table.items() if key != "rows"}
        results += [PublishedResult.model_validate({**common, **row}) for row in table["rows"]]
    return tuple(results)


def matching(
    dataset: str, architecture: str, *, encoder: str, output_stride: int, protocol: str, split: str
) -> tuple[Match, ...]:
    """The results of the same system and test; if there are none, those of the same architecture and encoder.

    The latter say what differs and are not comparable. Empty where nobody published such a system, or where no results
    ship for the dataset. output_stride:
    that of the test.
    """
    results = published(dataset) if dataset in document_names("published") else ()
    system = [r for r in results if (r.architecture, r.encoder) == (architecture, encoder)]
    wanted: dict[str, str | int] = {"protocol": protocol, "output_stride": output_stride, "split": split}
    found = tuple(Match(result, _differences(result, wanted)) for result in system)
    return tuple(match for match in found if match.comparable) or found


def _differences(result: PublishedResult, wanted: dict[str, str | int]) -> tuple[str, ...]:
    pairs = ((key.replace("_", " "), getattr(result, key), value) for key, value in wanted.items())
    return tuple(
        f"{name} {theirs or 'unknown'}, here {ours}" for name, theirs, ours in pairs if theirs != ours
    )


def comparison_rows(scores: Scores, matches: Sequence[Match]) -> tuple[ComparisonRow, ...]:
    """One row per published result; without any, one row with the measured mIoU alone.

    The measured mIoU is the class average: Cityscapes papers print it, and its category average never stands here.
    """
    rows = []
    for match in matches:
        result = match.result
        measured = 100 * float(getattr(scores, result.metric))
        remark = "; ".join([*match.differs, *filter(None, [result.note])])
        source = result.source if result.evidence != "memory" else f"{result.source} (from memory)"
        rows.append(
            ComparisonRow(
                result.metric,
                measured,
                result.value,
                measured - result.value if match.comparable else None,
                source,
                remark,
                match.comparable,
            )
        )
    if not rows:
        rows.append(ComparisonRow("miou", 100 * scores.miou, None, None, "", "nothing published", False))
    return tuple(rows)
