"""The size of training crops: one number, or height and width."""

from __future__ import annotations


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
