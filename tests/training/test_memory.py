"""A batch that does not fit: one line that names what does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from torch import Tensor, nn

from aerial_seg.errors import SettingsError
from aerial_seg.models.device import OutOfMemory
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import change_recipe
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.fabric import Computing, open_fabric
from aerial_seg.training.loss import SegmentationLoss
from aerial_seg.training.loss_terms.terms import Terms
from aerial_seg.training.memory import largest_that_fits, telling_what_fits

CPU = torch.device("cpu")
ERRORS: list[Callable[[], Exception]] = [
    lambda: OutOfMemory("CUDA out of memory. Tried to allocate 2 GiB"),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    MemoryError,
]


class Hungry(Network):
    """Has room for so many images at once."""

    def __init__(self, room: int, error: Callable[[], Exception]) -> None:
        super().__init__()
        self.geometry = ModelGeometry(1, 1, 1)
        self.conv = nn.Conv2d(3, 2, 1)
        self._room, self._error, self.tried = room, error, list[int]()

    def forward(self, image: Tensor) -> Tensor:
        """Logits, where there is room."""
        self.tried.append(len(image))
        if len(image) > self._room:
            raise self._error()
        logits: Tensor = self.conv(image)
        return logits


def refusal(network: Network, recipe: Recipe, computing: Computing, terms: Terms = Terms()) -> str:  # noqa: B008
    criterion = SegmentationLoss(
        network.geometry, auxiliary_weight=0, class_weights=torch.ones(2), terms=terms
    )
    batch = recipe.training.batch_size // computing.accumulate
    with pytest.raises(SettingsError) as told, telling_what_fits(network, criterion, recipe, computing):
        network(torch.zeros(batch, 3, 8, 8))
    return str(told.value)


@pytest.mark.parametrize("error", ERRORS)
def test_the_message_names_the_largest_part_that_fits_and_the_remedies_work(
    error: Callable[[], Exception],
) -> None:
    recipe = change_recipe(Recipe(), {"training.batch_size": 12, "training.crop": 8})
    network = Hungry(5, error)
    line = refusal(network, recipe, Computing(open_fabric(CPU)))
    assert line.startswith("12 crops of 8 pixels at once do not fit into the memory of ")
    assert line.endswith("4 do; use `accumulate=3`, which keeps the batch, or training.batch_size = 4")
    assert network.tried == [12, 6, 4]
    for one in network.parameters():
        assert one.grad is None
    network(torch.zeros(12 // 3, 3, 8, 8))  # the remedy


def test_crops_that_are_no_squares_are_tried_as_they_are() -> None:
    """Room for so many pixels, not for so many of a square's."""

    class Measured(Hungry):
        def forward(self, image: Tensor) -> Tensor:
            self.sizes.append(tuple(image.shape[2:]))
            return super().forward(image)

    recipe = change_recipe(
        Recipe(), {"training.batch_size": 12, "training.crop": [8, 24], "augmentation.rot90": False}
    )
    network = Measured(5, ERRORS[0])
    network.sizes = []
    line = refusal(network, recipe, Computing(open_fabric(CPU)))
    assert line.startswith("12 crops of 8x24 pixels at once do not fit into the memory of ")
    assert network.sizes[1:] == [(8, 24)] * 2


def test_a_loss_that_needs_the_whole_batch_is_not_offered_in_parts() -> None:
    recipe = change_recipe(Recipe(), {"training.batch_size": 12, "training.crop": 8})
    for terms in (Terms("ohem", ohem_min_kept=5), Terms(lovasz_weight=1.0)):
        line = refusal(Hungry(5, ERRORS[0]), recipe, Computing(open_fabric(CPU)), terms)
        assert line.endswith("4 do; use training.batch_size = 4")


def test_where_not_one_fits_only_smaller_crops_help() -> None:
    recipe = change_recipe(Recipe(), {"training.batch_size": 2})
    line = refusal(Hungry(0, ERRORS[0]), recipe, Computing(open_fabric(CPU)))
    assert "nor does one; use a smaller training.crop" in line


def test_a_part_of_a_batch_is_cut_further() -> None:
    recipe = change_recipe(Recipe(), {"training.batch_size": 8, "training.crop": 8})
    line = refusal(Hungry(1, ERRORS[1]), recipe, Computing(open_fabric(CPU), accumulate=2))
    assert line.startswith("4 crops of 8 pixels")
    assert "1 does; use `accumulate=8`" in line


def test_other_errors_stay_what_they_are() -> None:
    network, recipe = Hungry(0, lambda: RuntimeError("shapes differ")), Recipe()
    criterion = SegmentationLoss(network.geometry, auxiliary_weight=0, class_weights=torch.ones(2))
    with (
        pytest.raises(RuntimeError, match="shapes differ"),
        telling_what_fits(network, criterion, recipe, Computing(open_fabric(CPU))),
    ):
        network(torch.zeros(1, 3, 8, 8))
    assert network.tried == [1]


@settings(max_examples=examples(40))
@given(st.integers(2, 200), st.integers(0, 300))
def test_the_largest_divisor_below_that_there_is_room_for(images: int, room: int) -> None:
    def attempt(number: int) -> None:
        if number > room:
            raise MemoryError

    wanted = max((n for n in range(1, images) if images % n == 0 and n <= room), default=0)
    assert largest_that_fits(attempt, images, lambda: None) == wanted
