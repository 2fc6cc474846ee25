"""Recipe settings of batch normalisation in training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aerial_seg.recipe.section import Section


class BatchNormSettings(Section):
    """What batch norms do in training. Their eps belongs to the network, where inference has it too: model.bn_eps.

    momentum: the share of a batch's mean and variance in the running ones, PyTorch's convention. decay: what is kept of
    the running ones instead, TensorFlow's and Caffe's convention: decay = 1 − momentum. At most one of the two; without
    either each norm has what its library gave it (0.1 in torchvision). Sources: decay 0.9997 (momentum 0.0003), Chen et
    al. 2017, Rethinking Atrous Convolution, section 4.1; 0.95 (0.05), the Caffe model files of PSPNet.
    statistics: `batch` normalises by the batch's own mean and variance, through which gradients pass, and keeps running
    ones for inference. `frozen` normalises by the running ones as they came, to the end (DeepLabv2's code; the second
    stage of DeepLabv3, section 4.1); it wants weights that have them. `averaged` normalises by the running ones in
    training as in inference, as constants without a gradient: each update takes the first process's batch into them
    beforehand, and every process has them from there; a norm that has none yet begins with that batch's own.
    Source of `averaged`: the notes beside dongzhuoyao's DeepLab on tensorpack: gamma and beta are trained and averaged
    over the GPUs as any variable; mean and variance stay out of back-propagation, and the main tower keeps their moving
    average; inference takes that average. They do not say by what training normalises. `averaged` is the reading in
    which mean and variance are out of back-propagation altogether. In the other one, that of tensorpack's own layer
    (from memory), each GPU normalises by its batch: `batch` with synchronised = false, of which the first process's
    running statistics are kept, too. `averaged` is for fine-tuning: from random weights it learns worse than `batch`.
    affine: whether gamma and beta are `trained`, or `frozen` as they came, to the end, without weight decay.
    where: which batch norms all of the above concerns: `all`, or the `encoder`'s, where a head begins at random.
    synchronised: several processes normalise by the batch of all (`batch` only); false: each by its own part of it.
    """

    momentum: Annotated[float, Field(gt=0, le=1)] | None = None
    decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    statistics: Literal["batch", "frozen", "averaged"] = "batch"
    affine: Literal["trained", "frozen"] = "trained"
    where: Literal["all", "encoder"] = "all"
    synchronised: bool = True

    @model_validator(mode="after")
    def _one_convention(self) -> BatchNormSettings:
        if self.momentum is not None and self.decay is not None:
            raise ValueError(
                f"momentum is {self.momentum:g} and decay is {self.decay:g}, two conventions for one number "
                f"(decay = 1 − momentum); give momentum = {self.momentum:g} or decay = {self.decay:g} alone"
            )
        return self

    @property
    def share(self) -> float | None:
        """The share of a batch in the running statistics, as PyTorch's momentum; None: as the norms' library has it."""
        if self.decay is None:
            return self.momentum
        # 1 − 0.9997 is 0.00029999999999996696; who writes 0.9997 means what momentum 0.0003 means.
        return float(f"{1 - self.decay:.12g}")
