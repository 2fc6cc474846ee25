"""Recipe settings of the optimiser: rates, over how many updates they fall, whom they concern, and what decays."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aerial_seg.recipe.section import Count, Fraction, Section

Factor = Annotated[float, Field(gt=0, le=1e4)]
"""Of a learning rate."""


class RateSettings(Section):
    """The optimiser and its rates; keys of [training].

    learning_rate falls with the update's number i, from 0 on, as end + (learning_rate − end)·(1 − i/iterations)^power
    (poly; Chen et al. 2017, section 4.1, has power 0.9 and end 0). end_rate: that end (mmseg: 1e-4). end_rate_factor:
    the same as a share of learning_rate (ssseg: 0.01); one of the two at most.
    warmup: the first so many updates have less, rising linearly; update number `warmup` has the whole rate.
    warmup_factor: the share that the first update has (mmseg: 1e-6; torchvision: 0.01); None: 1/(warmup + 1).
    poly_from: `first`: poly falls from the first update on, and the rise is a factor of it (mmseg before 1.0);
    `warmup`: it falls over the updates after the rise (torchvision, mmseg 1.x).
    head_rate_factor: all but the encoder learns at so many times the rate (10: semseg, DeepLabv2). It is 1 in mmseg and
    ssseg. head_bias_rate_factor: biases of convolutions there at so many times learning_rate (20: DeepLabv2, whose
    weights there have 10); None: as those weights. auxiliary_rate_factor: the auxiliary head at so many times
    learning_rate (10: torchvision, whose main head has 1); None: as the head. Logs and curves show the rate that has no
    factor, which all follow.
    weight_decay_on: `all` parameters (semseg, mmseg, ssseg, torchvision); `weights`: none of one dimension, as biases
    and what norms scale and add (DeepLabv2's code: none on the head's biases, and its norms are not optimised);
    `convolutions`: their kernels alone (TensorFlow's DeepLab, from memory).
    adam_beta2: AdamW's memory of squared gradients; short runs want less than 0.999.
    """

    iterations: Count = 1000
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, le=1e3)] = 0.01
    momentum: Fraction = 0.9
    adam_beta2: Fraction = 0.999
    weight_decay: Annotated[float, Field(ge=0, le=1e3)] = 1e-4
    weight_decay_on: Literal["all", "weights", "convolutions"] = "all"
    head_rate_factor: Factor = 1.0
    head_bias_rate_factor: Factor | None = None
    auxiliary_rate_factor: Factor | None = None
    power: Annotated[float, Field(gt=0, le=100)] = 0.9
    end_rate: Annotated[float, Field(ge=0, le=1e3)] = 0.0
    end_rate_factor: Fraction = 0.0
    warmup: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    warmup_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    poly_from: Literal["first", "warmup"] = "first"

    @property
    def end_share(self) -> float:
        """What poly ends at, as a share of learning_rate."""
        return self.end_rate / self.learning_rate if self.end_rate else self.end_rate_factor

    @model_validator(mode="after")
    def _ends_once_and_below(self) -> RateSettings:
        if self.end_rate and self.end_rate_factor:
            raise ValueError(
                f"end_rate is {self.end_rate:g} and end_rate_factor is {self.end_rate_factor:g}, which both say where "
                "the rate ends; leave one of them out"
            )
        if self.end_rate > self.learning_rate:
            raise ValueError(
                f"end_rate is {self.end_rate:g}, above learning_rate {self.learning_rate:g}, and poly only falls; give "
                "a smaller one, or end_rate_factor"
            )
        return self

    @model_validator(mode="after")
    def _rises_where_it_says_how(self) -> RateSettings:
        if self.warmup:
            return self
        # A stage that has no warm-up cannot leave out what the one before has: 1 is no rise.
        if self.warmup_factor not in (None, 1.0):
            raise ValueError(
                f"warmup_factor is {self.warmup_factor:g}, but warmup is 0 updates; set warmup, or leave warmup_factor "
                "out (1.0 in a stage)"
            )
        if self.poly_from != "first":
            raise ValueError(
                f'poly_from is "{self.poly_from}", but warmup is 0 updates; set warmup, or poly_from = "first"'
            )
        return self
