"""Where a forward is not followed the answer is the whole image, never too small a part of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from aerial_seg.models.build import build_network
from aerial_seg.models.network import Network
from aerial_seg.models.receptive_field.field import receptive_field
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.tiling.geometry import ModelGeometry


class ByFunction(Network):
    """A function of the image as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.geometry = ModelGeometry(output_stride=1, logit_stride=1, origin_step=1)

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → whatever the function makes of it."""
        return self.function(image)


def written_into(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, :, 5:] = x[:, :, :-5]
    return out


def added_through_a_view(x: Tensor) -> Tensor:
    out = x + 0
    view = out.view(-1)
    view += functional.max_pool2d(x, 9, 1, 4).flatten()
    return out


def by_data(x: Tensor) -> Tensor:
    return (x.roll(7, 2) + 0).data


NOT_FOLLOWED = {
    "mean": lambda x: x - x.mean(dim=(2, 3), keepdim=True),
    "largest value": lambda x: x - x.amax(),
    "adaptive pooling": lambda x: x + functional.interpolate(functional.adaptive_avg_pool2d(x, 4), x.shape[2:]),
    "group norm": lambda x: functional.group_norm(x, 1),
    "batch statistics": lambda x: functional.batch_norm(x, None, None, training=True),
    "layer norm": lambda x: functional.layer_norm(x, x.shape[1:]),
    "softmax over the map": lambda x: x.flatten(2).softmax(2).unflatten(2, x.shape[2:]),
    "attention": lambda x: x.flatten(2).mT @ x.flatten(2) @ x.flatten(2).mT,
    "product of rows": lambda x: x @ x.mT,
    "rolled": lambda x: x.roll(9, 2),
    "flipped": lambda x: x.flip(2),
    "turned": lambda x: x.mT + x,
    "cut into windows": lambda x: x.unflatten(2, (-1, 8)).transpose(2, 3).flatten(2, 3),
    "unfolded": lambda x: functional.fold(functional.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1),
    "sampled": lambda x: functional.grid_sample(x, x.new_zeros(1, *x.shape[2:], 2), align_corners=False),
    "looked up": lambda x: x[:, :, torch.arange(x.shape[2]).flip(0)],
    "written into another": written_into,
    "changed through a view": added_through_a_view,
    "passed on unnoticed": by_data,
    "beside its neighbour": lambda x: torch.cat([x, x], dim=2)[:, :, 1 : x.shape[2] + 1],
    "its own kernel": lambda x: functional.conv2d(x, x[:, :, :3, :3], padding=1),
    "summed along": lambda x: x.cumsum(2),
    "sorted": lambda x: x.sort(2).values,
    "no image": lambda x: torch.ones(1, 1, *x.shape[2:]),
    "refused": lambda x: x.view(7, 7),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_FOLLOWED)
def test_what_is_not_followed_may_see_the_whole_image(name: str) -> None:
    field = receptive_field(ByFunction(NOT_FOLLOWED[name]), 1)
    assert field.side is field.rows is field.cols is field.halo is None
    assert field.reason


@pytest.mark.parametrize("architecture", ["deeplabv3", "pspnet", "MAnet", "PAN"])
def test_networks_that_pool_or_attend_over_the_image_see_all_of_it(architecture: str) -> None:
    field = receptive_field(build_network(ModelSettings(architecture=architecture), bands=3, classes=2), 3)
    assert field.side is field.halo is None
    assert field.reason in ("pooling over the whole map", "products across the map (attention)")
