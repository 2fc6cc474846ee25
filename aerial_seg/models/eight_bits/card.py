"""What a model file of 8-bit weights tells of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Names = tuple[Annotated[str, Field(min_length=1, max_length=500)], ...]
Score = Annotated[float, Field(ge=0, le=1)]


class EightBits(BaseModel):
    """Hold what the file's tensors do not say.

    folded: batch norms that lie in the convolutions before them. biased: convolutions that got a bias thereby.
    layers: convolutions of 8 bits; the others are kept in float32. kept: of those, the ones that 8 bits would have cost
    too much, each with the error of its output (rms of the difference over rms of the output).
    chips: how many training chips the ranges are from; seed: by which they were drawn.
    source_sha256: of the model file that it was made of. miou, source_miou: of both on the same validation chips.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    folded: Names
    biased: Names
    layers: Annotated[Names, Field(min_length=1)]
    kept: dict[str, Annotated[float, Field(ge=0)]] = {}
    chips: Annotated[int, Field(gt=0)]
    seed: int
    source_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    miou: Score
    source_miou: Score
