"""What every table of a recipe is made of: a frozen section, numbers with ends, and its first problem told."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, LiteralString, TypeGuard, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from aerial_seg.documents import problem_of
from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.printable import shortened

# Every number has an end: beyond it there is no sense, but memory that runs out while a network is built from a file.
Width = Annotated[int, Field(gt=0, le=4096)]
"""Channels of a layer."""
Rate = Annotated[int, Field(gt=0, le=1024)]
"""Dilation, a kernel's side, parts per side."""
Pixels = Annotated[int, Field(gt=0, le=65_536)]
Count = Annotated[int, Field(gt=0, le=1_000_000_000)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Zoom = Annotated[float, Field(ge=0.01, le=100)]
PixelValue = Annotated[float, Field(ge=-1e9, le=1e9)]
Number = Annotated[int, Field(ge=-65_536, le=65_536)]
Few = Field(max_length=64)
_LONGEST = 400
"""Letters of a message that lists keys."""
_A_SIZE: LiteralString = (
    "wanted one number of pixels (a square) or [height, width], each a whole number from 1 to 65,536"
)


def _told_whole(value: Any, validated: ValidatorFunctionWrapHandler) -> Any:
    """As validated; what is neither form of a size is told in one sentence, not once for each."""
    try:
        # JSON's arrays come here as lists, which a card that is read strictly would not take for two sides.
        return validated(tuple(value) if isinstance(value, list) else value)
    except ValidationError as error:
        raise PydanticCustomError("crop_size", _A_SIZE) from error


CropSize = Annotated[Pixels | tuple[Pixels, Pixels], WrapValidator(_told_whole)]
"""Pixels of a square's side, or (height, width)."""


class Section(BaseModel):
    """A frozen table of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            kind = type(self)
            raise SettingsError(f"{kind.__name__}: {first_problem(error, kind)}") from error

    # What is read from a document is told with its place there, so pydantic must not go through the above for it.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def first_problem(error: ValidationError, kind: type[BaseModel], *, before: str = "") -> str:
    """The first of the problems, its place and the remedy. before: what its place begins with besides its own."""
    problem = error.errors()[0]
    if problem["type"] == "extra_forbidden":
        place, known = before + ".".join(map(str, problem["loc"])), _keys_beside(problem["loc"], kind)
        return unknown_key(place, str(problem["loc"][-1]), known)
    return problem_of(error, before=before) + ("; add it" if problem["type"] == "missing" else "")


def unknown_key(place: str, key: str, known: Collection[str]) -> str:
    """What to say of a key that nobody knows, at its place: what it may have been meant for, or what there is."""
    listed = ", ".join(known)
    if len(listed) > _LONGEST:
        listed = f"{len(known)} keys, which aerial-seg recipes show default tells"
    return f"unknown key '{shortened(place)}'{did_you_mean(key, known)}; known here: {listed}"


def _keys_beside(place: tuple[Any, ...], kind: type[BaseModel]) -> list[str]:
    section = kind
    for key in place[:-1]:
        field = section.model_fields.get(str(key))
        if field is None:  # a list's index or a table's own key
            continue
        choices = (field.annotation, *get_args(field.annotation))  # a section, or one that may be None
        section = next(choice for choice in choices if _is_section(choice))
    return list(section.model_fields)


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
