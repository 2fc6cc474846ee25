"""How often classes are in training chips, and the weights by median frequency that recipes can ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from laws import examples

from aerial_seg.errors import SettingsError
from aerial_seg.jobs.train.data import Dataset, with_class_weights
from aerial_seg.recipe.document import Recipe
from aerial_seg.training.manifest import TrainingStatistics, class_statistics


@settings(max_examples=examples(40), deadline=None)
@given(counts=arrays(np.int64, (5, 3), elements=st.integers(0, 50)).filter(lambda counts: counts.any()))
def test_weights_are_eigen_and_fergus(counts: Any) -> None:
    """freq(c): pixels of c over all pixels of images that hold c; weight: median of them over freq(c)."""
    found = class_statistics(("a", "b", "c"), counts)
    frequencies = {}
    for k, name in enumerate("abc"):
        holding = [row for row in counts if row[k]]
        if holding:
            frequencies[name] = sum(row[k] for row in holding) / sum(row.sum() for row in holding)
    median = np.median(list(frequencies.values()))
    for k, name in enumerate("abc"):
        assert found[name].pixels == counts[:, k].sum()
        assert found[name].share == pytest.approx(counts[:, k].sum() / counts.sum())
        if name in frequencies:
            assert found[name].frequency == pytest.approx(frequencies[name])
            assert found[name].median_frequency_weight == pytest.approx(median / frequencies[name])
        else:
            assert (found[name].frequency, found[name].median_frequency_weight) == (None, None)
    weights = TrainingStatistics(bands=(), classes=found).class_weights()
    assert list(weights) == list(frequencies)
    # As they are pasted into a recipe.
    assert Recipe.model_validate({"training": {"class_weights": weights}}).training.class_weights == weights


def test_a_recipe_that_asks_for_median_gets_numbers_or_is_refused() -> None:
    asked = Recipe.model_validate({"training": {"class_weights": "median"}})
    counted: Any = Dataset(None, None, (), None, "", (), class_weights={"a": 0.5, "b": 4.0})  # type: ignore[arg-type]
    assert with_class_weights(asked, counted).training.class_weights == {"a": 0.5, "b": 4.0}
    assert with_class_weights(Recipe(), counted) == Recipe()
    unknown: Any = Dataset(None, None, (), None, "", ())  # type: ignore[arg-type]
    with pytest.raises(
        SettingsError, match="class_weights is 'median', but the dataset tells no frequencies"
    ):
        with_class_weights(asked, unknown)
