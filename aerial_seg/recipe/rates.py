"""Recipe settings of the optimiser: rates, over how many updates they fall, whom they concern, and what decays."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from aerial_seg.recipe.section import Count, Few, Fraction, Section

Factor = Annotated[float, Field(gt=0, le=1e4)]
"""Of a learning rate."""
StepFactor = Annotated[float, Field(gt=0, le=1)]
Milestone = Annotated[float, Field(gt=0, le=1e9)]
_STEP, _EPSILON = 0.1, 1e-8
"""MultiStepLR's gamma, and Adam's epsilon."""


class RateSettings(Section):
    """The optimiser and its rates; keys of [training].

    schedule: `poly`: learning_rate falls with the update's number i, from 0 on, as
    end + (learning_rate − end)·(1 − i/iterations)^power (Chen et al. 2017, section 4.1, has power 0.9 and end 0).
    end_rate: that end (mmseg: 1e-4). end_rate_factor: the same as a share of learning_rate (ssseg: 0.01); one of the
    two at most. `step`: it stays until the first of milestones, and is multiplied by step_factor there and at each
    further one (torch's MultiStepLR; None: its 0.1); a list has a factor for each. milestones: shares of iterations, so
    that a shorter run falls as often: 60,000 of 90,000 updates are 0.6667, to the nearest update.
    rate_every: poly's number of the update is rounded down to a multiple of so many (deeplab-pytorch: 10).
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
    `convolutions`: their kernels alone (TensorFlow's DeepLab, model.py).
    optimizer: `sgd` with momentum; `adamw`, whose decay is apart from its gradients; `adam`, whose decay is a part of
    them, and of what they are divided by (tensorpack's DeepLab). adam_beta2: their memory of squared gradients; short
    runs want less than 0.999. adam_epsilon: what is added to what they divide by, behind the correction of its bias;
    None: torch's 1e-8. head_factors: the three factors above are of the `rate`; or of the `gradient`, as tensorpack's
    ScaleGradient, where `adam` divides by them again but for adam_epsilon, which is that much smaller.
    """

    iterations: Count = 1000
    optimizer: Literal["sgd", "adamw", "adam"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, le=1e3)] = 0.01
    momentum: Fraction = 0.9
    adam_beta2: Fraction = 0.999
    adam_epsilon: Annotated[float, Field(gt=0, le=1)] | None = None
    weight_decay: Annotated[float, Field(ge=0, le=1e3)] = 1e-4
    weight_decay_on: Literal["all", "weights", "convolutions"] = "all"
    head_rate_factor: Factor = 1.0
    head_bias_rate_factor: Factor | None = None
    auxiliary_rate_factor: Factor | None = None
    head_factors: Literal["rate", "gradient"] = "rate"
    schedule: Literal["poly", "step"] = "poly"
    milestones: Annotated[tuple[Milestone, ...], Few] = ()
    step_factor: StepFactor | Annotated[tuple[StepFactor, ...], Few] | None = None
    power: Annotated[float, Field(gt=0, le=100)] = 0.9
    end_rate: Annotated[float, Field(ge=0, le=1e3)] = 0.0
    end_rate_factor: Fraction = 0.0
    rate_every: Count = 1
    warmup: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    warmup_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    poly_from: Literal["first", "warmup"] = "first"

    @property
    def end_share(self) -> float:
        """What poly ends at, as a share of learning_rate."""
        return self.end_rate / self.learning_rate if self.end_rate else self.end_rate_factor

    @property
    def epsilon(self) -> float:
        """What Adam adds to what it divides by."""
        return _EPSILON if self.adam_epsilon is None else self.adam_epsilon

    @property
    def has_factors(self) -> bool:
        """Whether some parameters learn at another rate than others."""
        return self.head_rate_factor != 1 or not (
            self.head_bias_rate_factor is None and self.auxiliary_rate_factor is None
        )

    @property
    def steps(self) -> tuple[tuple[int, float], ...]:
        """The update that each milestone is, and the factor from there on beside the others'."""
        given = _STEP if self.step_factor is None else self.step_factor
        factors = given if isinstance(given, tuple) else (given,) * len(self.milestones)
        return tuple(
            (round(share * self.iterations), one) for share, one in zip(self.milestones, factors, strict=True)
        )

    @model_validator(mode="after")
    def _steps_in_order(self) -> RateSettings:
        updates = next((one for one in self.milestones if one >= 1), None)
        if updates is not None:  # as torch has them
            raise ValueError(
                f"milestones has {updates:g}, wanted shares of the iterations, between 0 and 1; write "
                f"{updates:g} / {self.iterations} = {updates / self.iterations:.6g}"
            )
        if self.schedule == "step" and not self.milestones:
            raise ValueError(
                'schedule is "step", wanted milestones with it, as shares of the iterations; add milestones = '
                '[0.6, 0.9], or take "poly"'
            )
        if any(one >= other for one, other in pairwise(self.milestones)):
            raise ValueError(
                f"milestones are {list(self.milestones)}, wanted each later than the one before; sort them"
            )
        if isinstance(self.step_factor, tuple) and len(self.step_factor) != len(self.milestones):
            raise ValueError(
                f"step_factor has {len(self.step_factor)} factors and milestones are {len(self.milestones)}; give a "
                "factor for each milestone, or one number for all"
            )
        return self

    @model_validator(mode="after")
    def _has_factors_to_take(self) -> RateSettings:
        if self.head_factors == "gradient" and not self.has_factors:
            raise ValueError(
                'head_factors is "gradient", but there is no factor; set head_rate_factor, or head_factors = "rate"'
            )
        return self

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
