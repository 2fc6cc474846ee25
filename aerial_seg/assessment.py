"""Accuracy and area of a map by a stratified random sample: Olofsson et al. 2014, Remote Sensing of Environment 148.

"Good practices for estimating area and assessing accuracy of land change", whose equations are named below. The strata
are the map's classes. Rows are what the map says, columns what the reference says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aerial_seg.errors import SettingsError
from aerial_seg.metrics import or_null

Z95 = 1.96
"""Standard errors on either side of an estimate that make its 95 % interval, as the paper has them."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Hold an estimate and its standard error; NaN where it cannot be known."""

    value: float
    error: float

    @property
    def margin(self) -> float:
        """Half of the 95 % interval."""
        return Z95 * self.error

    def times(self, factor: float) -> Estimate:
        """The estimate in another unit."""
        return Estimate(self.value * factor, self.error * factor)

    def as_json(self) -> dict[str, float | None]:
        """value, standard_error, and low and high of the 95 % interval; null for NaN."""
        low, high = self.value - self.margin, self.value + self.margin
        numbers = {"value": self.value, "standard_error": self.error, "low": low, "high": high}
        return {name: or_null(number) for name, number in numbers.items()}


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Hold what a sample says of a map of K classes.

    proportions: (K, K) estimated shares of the map's ground, p_ij (eq. 4). overall (eq. 1, 5); users (eq. 2, 6) and
    producers (eq. 3, 7), an estimate for each class; areas: shares of the ground by the reference (eq. 9, 10).
    """

    proportions: Floats
    overall: Estimate
    users: tuple[Estimate, ...]
    producers: tuple[Estimate, ...]
    areas: tuple[Estimate, ...]

    def as_json(self, names: Sequence[str]) -> dict[str, Any]:
        """The estimates by class name."""
        return {
            "overall": self.overall.as_json(),
            "proportions": self.proportions.tolist(),
            "classes": [
                {
                    "name": name,
                    "users": self.users[k].as_json(),
                    "producers": self.producers[k].as_json(),
                    "area_share": self.areas[k].as_json(),
                }
                for k, name in enumerate(names)
            ],
        }


def estimate_accuracy(shares: ArrayLike, counts: ArrayLike) -> Accuracy:
    """Estimate a map's accuracy and the areas of its classes from a stratified random sample.

    shares: (K,) of the mapped ground, by class; they are brought to a sum of 1. counts: (K, K) sample points, rows =
    map, columns = reference. A class of the reference that the map does not have is a row of zeros and a share of 0.
    A class with one point has estimates without a standard error. Raises SettingsError for a class that the map has
    and the sample has no point of.
    """
    weights, table = _checked(shares, counts)
    rows = table.sum(axis=1)
    sampled = rows > 0
    within = np.divide(table, rows[:, None], out=np.zeros_like(table), where=sampled[:, None])
    # Variance of each share within a class, per point but one: all the equations are sums of it.
    spread = np.divide(
        within * (1 - within), (rows - 1)[:, None], out=np.full_like(table, np.nan), where=rows[:, None] > 1
    )
    spread[~sampled] = 0.0
    proportions = weights[:, None] * within
    by_reference = proportions.sum(axis=0)
    right, squares = np.diag(within), (weights**2)[:, None] * spread
    overall = Estimate(float(np.trace(proportions)), math.sqrt(np.diag(squares).sum()))
    users, producers, areas = [], [], []
    for k in range(len(weights)):
        users.append(
            Estimate(float(right[k]), math.sqrt(spread[k, k])) if sampled[k] else Estimate(math.nan, math.nan)
        )
        areas.append(Estimate(float(by_reference[k]), math.sqrt(squares[:, k].sum())))
        producers.append(_producers(proportions[k, k], by_reference[k], squares[:, k], k))
    return Accuracy(proportions, overall, tuple(users), tuple(producers), tuple(areas))


def _producers(right: float, whole: float, squares: Floats, k: int) -> Estimate:
    """Eq. 3 and 7. squares: (K,) variances of the shares of column k of the table."""
    if whole <= 0:
        return Estimate(math.nan, math.nan)
    accuracy = float(right / whole)
    others = squares.sum() - squares[k] if not np.isnan(squares).any() else math.nan
    variance = ((1 - accuracy) ** 2 * squares[k] + accuracy**2 * others) / whole**2
    return Estimate(accuracy, math.sqrt(variance))


def _checked(shares: ArrayLike, counts: ArrayLike) -> tuple[Floats, Floats]:
    weights, table = np.asarray(shares, np.float64), np.asarray(counts, np.float64)
    if weights.ndim != 1 or table.shape != (len(weights), len(weights)):
        raise SettingsError(
            f"counts have the shape {table.shape}, wanted (K, K) for the {weights.size} shares of the classes"
        )
    if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise SettingsError(f"shares are {weights.tolist()}, wanted numbers from 0 on that are not all 0")
    if not np.isfinite(table).all() or (table < 0).any() or (table != np.rint(table)).any():
        raise SettingsError(
            "counts hold something else than numbers of points, wanted whole numbers from 0 on"
        )
    missing = np.flatnonzero((weights > 0) & (table.sum(axis=1) == 0))
    if len(missing):
        raise SettingsError(
            f"class {missing[0]} has {weights[missing[0]] / weights.sum():.2%} of the map and no point, wanted at "
            "least two"
        )
    strange = np.flatnonzero((weights == 0) & (table.sum(axis=1) > 0))
    if len(strange):
        raise SettingsError(f"class {strange[0]} has points and no share of the map; say what share it has")
    return weights / weights.sum(), table


def sample_size(shares: ArrayLike, accuracies: ArrayLike, standard_error: float) -> int:
    """Return how many points bring the overall accuracy to a standard error (eq. 13, Cochran 1977, eq. 5.25).

    shares: (K,) of the mapped ground. accuracies: (K,) user's accuracies that are expected, 0 to 1. The points are
    many fewer than the pixels.
    """
    weights, expected = np.asarray(shares, np.float64), np.asarray(accuracies, np.float64)
    total = float((weights / weights.sum() * np.sqrt(expected * (1 - expected))).sum())
    # A rounding error above a whole number is that number.
    return math.ceil((total / standard_error) ** 2 - 1e-9)


def allocate(shares: ArrayLike, pixels: ArrayLike, total: int, minimum: int) -> NDArray[np.int64]:
    """Split points among classes: in proportion to their ground, but at least `minimum` for each that there is.

    This is the allocation of section 5.1.2 of the paper: rare classes get a fixed number, the others what is left in
    proportion. shares: (K,). pixels: (K,), which no class gets more points than. Their sum is `total`, unless the
    minimum of each class, or the pixels that there are, ask for another.
    """
    weights, most = np.asarray(shares, np.float64), np.asarray(pixels, np.int64)
    least = np.minimum(np.where(most > 0, minimum, 0), most)
    total = int(np.clip(total, least.sum(), most.sum()))
    low, high = 0.0, float(total + most.max()) / float(weights[most > 0].min())
    for _ in range(200):
        # Points for a share of 1: between the bounds of each class, as many as make the total.
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * weights, least, most).sum() < total else (low, middle)
    wanted = np.clip(high * weights, least, most)
    points = np.floor(wanted + 1e-9).astype(np.int64)
    # The largest remainders are rounded up, of equal ones the first.
    order = [k for k in np.argsort(-(wanted - points), kind="stable") if points[k] < most[k]]
    points[order[: total - int(points.sum())]] += 1
    return points
