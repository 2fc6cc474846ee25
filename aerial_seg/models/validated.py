"""What a model file tells of its validation, so that whoever is handed the file can judge its scores."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Score = Annotated[float, Field(ge=0, le=1)]


class Validated(BaseModel):
    """Hold how the scores came about. on: chips or scenes. monitor, value: what the checkpoint was chosen by.

    unit, units: what the 95 % intervals were drawn from, and how many there were. intervals: of the scores by name, as
    monitors name them; None where a class was not there. doubts: what keeps the scores from being believed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    on: str
    monitor: str
    value: float | None
    unit: str
    units: Annotated[int, Field(ge=0)]
    intervals: dict[str, tuple[Score, Score] | None]
    doubts: tuple[str, ...] = ()
