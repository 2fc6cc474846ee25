"""How messages name settings: as Python's keywords in backquotes, which the command line turns into its options.

A message says ``pass `overwrite=True` to replace it``. A Python user reads it as it is; `aerial_seg.cli` makes
``pass --overwrite to replace it`` of it. Both sides of that grammar stand here.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

_MENTION = re.compile(r"`(?:(?P<job>[a-z][a-z_]*)\()?(?P<name>[a-z][a-z_0-9]*)(?P<value>=[^`]*?)?(?(job)\))`")
SAME_CALL = "make the same call again"
"""How a message asks for a second run that goes on where the first one stopped; a command line is run instead."""
FORMER_CALL = "repeat the former call"


class Placeholder(str):
    """A word of a message that stands for a value of the user's, as VALUE in `unlabelled=(VALUE,)`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Made:
    """A value that is made by a call, as `BandChoice(numbers=(3, 2, 1))`: the callee's name and its keywords."""

    callee: str
    keywords: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Mention:
    """A setting that a message names. job: another function that takes it. has_value: False for a bare name."""

    name: str
    value: Any = None
    job: str | None = None
    has_value: bool = False


def setting(name: str, *value: Any, job: str | None = None) -> str:
    """The setting as messages name it: `name` alone, or `name=value` as one types it in Python.

    value: one at the most; a str, bool, number, path, tuple, dict, Made or Placeholder; `...` stands for any. job: the
    function that takes the setting, where it is another than the one that raises the message.
    """
    (text,) = (f"{name}={_literal(only)}" for only in value) if value else (name,)
    return f"`{job}({text})`" if job else f"`{text}`"


def settings_of(text: str, job: str) -> str:
    """The text with its settings named as those of `job`, where another function tells what that one noted."""
    return replace_settings(
        text,
        lambda one, _: setting(one.name, *([one.value] if one.has_value else []), job=one.job or job),
    )


def replace_settings(text: str, turn: Callable[[Mention, str], str | None]) -> str:
    """The text with every setting that it names put as `turn` says; None leaves one as it is.

    turn: takes the setting, and the text before it.
    """
    parts, done, at = [], 0, 0
    while found := _MENTION.search(text, at):
        mention = _parsed(found)
        said = None if mention is None else turn(mention, text[: found.start()])
        # A backquote of a file's name begins nothing; the next one may.
        at = found.start() + 1 if mention is None else found.end()
        if said is not None:
            parts += [text[done : found.start()], said]
            done = found.end()
    return "".join((*parts, text[done:]))


def settings_in(text: str) -> tuple[Mention, ...]:
    """The settings that a message names, in order."""
    found: list[Mention] = []
    replace_settings(text, lambda mention, _: found.append(mention))
    return tuple(found)


def _literal(value: Any) -> str:
    match value:
        case Placeholder():
            return str(value)
        case str() | os.PathLike():
            return f'"{"".join(map(_letter, os.fspath(value)))}"'
        case EllipsisType():
            return "..."
        case float():
            return _number(value)
        case tuple() | list():
            return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
        case Made():
            return f"{value.callee}({', '.join(f'{key}={_literal(one)}' for key, one in value.keywords.items())})"
        case Mapping():
            return f"{{{', '.join(f'{_literal(key)}: {_literal(one)}' for key, one in value.items())}}}"
        case _:
            return repr(value)


def _letter(letter: str) -> str:
    """As it stands between double quotes; a backquote would end the mention."""
    if letter in '"\\':
        return f"\\{letter}"
    if letter == "`":
        return r"\x60"
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")


def _number(value: float) -> str:
    """255 for 255.0, which options and people write so; otherwise all digits."""
    if value != value or value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _parsed(found: re.Match[str]) -> Mention | None:
    """None for what only looks like a setting."""
    if found["value"] is None:
        return Mention(found["name"], job=found["job"])
    try:
        node = ast.parse(found["value"][1:].strip(), mode="eval").body
        return Mention(found["name"], _value(node), found["job"], has_value=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Name(id=word):
            return Placeholder(word)
        case ast.Tuple(elts=elements):
            return tuple(map(_value, elements))
        case ast.Dict(keys=keys, values=values):
            return {
                _value(key): _value(one) for key, one in zip(keys, values, strict=True) if key is not None
            }
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str(text))]):
            return float(text)
        case ast.Call(func=ast.Name(id=callee), keywords=keywords, args=[]):
            return Made(callee, {word.arg or "": _value(word.value) for word in keywords})
        case _:
            return ast.literal_eval(node)
