"""JSON and TOML from outside: read with every way in which they can be none told in a few words."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from aerial_seg.printable import shortened

_DEEPEST = 50
"""Levels of tables in lists in tables: our documents have five."""
_LARGEST = 2**64


class DocumentError(ValueError):
    """A text is no document that can be read. Its text says why; who reads the file adds its name and the remedy."""


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, a byte order mark left out. Raises DocumentError as `decoded` does."""
    return decoded(path.read_bytes())


def decoded(content: bytes) -> str:
    """The text of these UTF-8 bytes. Raises DocumentError that names the line of a byte that is none."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DocumentError(
            f"it is not UTF-8 at byte 0x{content[error.start]:02x} in line {line}; save it as UTF-8"
        ) from error


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds. Raises DocumentError for what is none, and for what two readers would read differently:
    NaN, a key that comes twice, texts that are no Unicode, integers beyond 64 bits, more than 50 levels.
    """
    text = decoded(text) if isinstance(text, bytes) else text
    try:
        document = json.loads(
            text, object_pairs_hook=_without_repetition, parse_constant=_no_number, parse_int=_integer
        )
    except json.JSONDecodeError as error:
        raise DocumentError(f"it is not JSON: {error}") from error
    except RecursionError as error:
        raise DocumentError("it is nested too deeply") from error
    return _checked(document)


def parse_toml(text: str) -> dict[str, Any]:
    """What a TOML text holds. Raises DocumentError as parse_json does."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DocumentError(f"it is not TOML: {error}") from error
    except RecursionError as error:
        raise DocumentError("it is nested too deeply") from error
    except ValueError as error:  # Python reads no integer of more than 4,300 digits
        raise DocumentError("it holds an integer beyond 64 bits") from error
    checked: dict[str, Any] = _checked(document)
    return checked


def problem_of(error: ValidationError, *, before: str = "") -> str:
    """The first of the problems: where it is, what was got and what is wrong with it. before: in front of its place."""
    problem = _of_the_kind_given(error.errors(include_url=False))
    inside = ".".join(map(str, problem["loc"]))
    place = before + inside if inside else before.removesuffix(".")
    if problem["type"] == "value_error":  # our own validators say it all
        said = str(problem["ctx"]["error"])
        return f"'{shortened(place)}': {said}" if place else said
    if problem["type"] == "extra_forbidden":
        return f"'{shortened(place)}': there is no such key"
    if problem["type"] == "missing":
        return f"'{shortened(place)}' is missing"
    return f"'{shortened(place)}' is {shortened(repr(problem['input']))}: {problem['msg']}"


def _of_the_kind_given(problems: Sequence[Any]) -> Any:
    """The first problem. Where a word or something else may stand, of what was given; its place names no kinds."""
    first = problems[0]
    place = first["loc"]
    kind = next((k for k, part in enumerate(place) if str(part).startswith("literal[")), None)
    if kind is None:
        return first
    others = [one for one in problems[1:] if one["loc"][:kind] == place[:kind] and len(one["loc"]) > kind]
    if not others:
        return {**first, "loc": place[:kind]}
    if isinstance(first["input"], str):
        other = others[0]["msg"].removeprefix("Input should be ").partition(",")[0]
        return {**first, "loc": place[:kind], "msg": f"{first['msg']} or {other}"}
    return {**others[0], "loc": (*place[:kind], *others[0]["loc"][kind + 1 :])}


def _integer(digits: str) -> int:
    if len(digits) > 40:
        raise DocumentError(f"it holds an integer of {len(digits):,} digits, wanted one of 64 bits")
    return int(digits)


def _no_number(word: str) -> NoReturn:
    raise DocumentError(f"it holds {word}, which is no number")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DocumentError(f"it holds the key '{shortened(twice)}' more than once")
    return table


def _checked(document: Any) -> Any:
    """The document. A stack of our own, because Python's ends where a hostile document begins."""
    level: list[Any] = [document]
    depth = 0
    while level:
        if depth > _DEEPEST:
            raise DocumentError(f"it is nested more than {_DEEPEST} levels deep")
        depth += 1
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            else:
                _check_leaf(value)
        level = below
    return document


def _check_leaf(value: object) -> None:
    if isinstance(value, int) and not -_LARGEST < value < _LARGEST:
        raise DocumentError("it holds an integer beyond 64 bits")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DocumentError(f"it holds a text that is no Unicode ({shortened(value)})") from error


def listed(values: Iterable[object], most: int = 5) -> str:
    """The first of the values, with the number of the others."""
    told = [shortened(str(value), 300) for value in values]
    return ", ".join(told[:most]) + (f" and {len(told) - most} more" if len(told) > most else "")
