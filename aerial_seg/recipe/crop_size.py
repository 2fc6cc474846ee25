"""The size of training crops: one number, or height and width."""

from __future__ import annotations

from typing import Annotated, Any, LiteralString

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from aerial_seg.recipe.section import Pixels

_WANTED: LiteralString = (
    "wanted one number of pixels (a square) or [height, width], each a whole number from 1 to 65,536"
)


def _told_whole(value: Any, validated: ValidatorFunctionWrapHandler) -> Any:
    """As validated; what is neither form is told in one sentence, not once for each."""
    try:
        # JSON's arrays come here as lists, which a card that is read strictly would not take for two sides.
        return validated(tuple(value) if isinstance(value, list) else value)
    except ValidationError as error:
        raise PydanticCustomError("crop_size", _WANTED) from error


CropSize = Annotated[Pixels | tuple[Pixels, Pixels], WrapValidator(_told_whole)]
"""Pixels of a square's side, or (height, width)."""


def height_and_width(crop: int | tuple[int, int]) -> tuple[int, int]:
    """Return both sides of a crop, in pixels."""
    return crop if isinstance(crop, tuple) else (crop, crop)


def size_text(crop: int | tuple[int, int]) -> str:
    """Say how large a crop is: "512", or "512x1024" of one that is no square."""
    height, width = height_and_width(crop)
    return f"{height}" if height == width else f"{height}x{width}"


def problem_of_turns(crop: int | tuple[int, int], *, rot90: bool) -> str | None:
    """Say why crops of this size cannot be turned by quarters, and the remedy; None where they can, or are not."""
    height, width = height_and_width(crop)
    if height == width or not rot90:
        return None
    return (
        f"rot90 turns crops by quarters, which makes {width}x{height} pixels of {height}x{width} (height, width); set "
        "augmentation.rot90 = false, or make training.crop a square"
    )
