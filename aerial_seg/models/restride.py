"""A trained model at another output stride."""

from __future__ import annotations

import copy
from dataclasses import replace

from aerial_seg.models.file import TrainedModel


def with_output_stride(model: TrainedModel, output_stride: int) -> TrainedModel:
    """A copy of the model whose network has this output stride (Network.set_output_stride); its card stays its file's.

    The model itself where it already has that stride. Raises SettingsError as the network does.
    """
    if model.network.geometry.output_stride == output_stride:
        return model
    network = copy.deepcopy(model.network)
    network.set_output_stride(output_stride)
    return replace(model, network=network)
