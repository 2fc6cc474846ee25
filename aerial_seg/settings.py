"""What a setting is: one definition that validation, documentation and the command line's option are made of.

A class of settings is a frozen dataclass whose fields are `Annotated[type, Setting("what it does", …)]`, under the
decorator `settings`. Values are fitted to the type when an object is made; what does not fit is refused by name. This
module and those that define settings import the standard library alone, so that `--help` waits for nothing. (Not
pydantic: taking a list for a tuple or a text for a path, but not True for 1, would need a validator for every type.)
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.printable import shortened

MOST_PIXELS = 65_536
"""Of a side. Every number has an end: beyond it lie mistypings, and errors of libraries."""
LARGEST = 1e30

Made = TypeVar("Made", bound=type)
Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, said once.

    help: what it does, for the documentation and for `--help`. low, high: bounds of a number, both allowed.
    mistyped_below: numbers that work and that nobody means who types them.
    wanted: what is wanted, in words, where the type does not say it. read: from another form of the value (the text
    of the command line, as "2GB") to the value; what is none of its forms comes back as it is. check: raises
    SettingsError for a value that has the right type and cannot work. file: a text that names a file, so that a Path
    is taken too. may_be_nan: of a number. word: a text that is a value too, beside those of the type.

    flag: the option's name or names on the command line, `--name` of the field's by default. metavar: what stands
    for the value there. several: the option may be repeated, one value each time.
    """

    help: str
    low: float | None = None
    high: float | None = None
    mistyped_below: int | None = None
    wanted: str | None = None
    read: Callable[[Any], Any] | None = None
    check: Callable[[Any], None] | None = None
    file: bool = False
    may_be_nan: bool = False
    word: str | None = None
    flag: str | tuple[str, ...] | None = None
    metavar: str | None = None
    several: bool = False


@dataclass(frozen=True, slots=True)
class Definition:
    """A setting as its class holds it. kind: its type without None; optional: whether None is a value too."""

    name: str
    kind: Any
    optional: bool
    default: Any
    setting: Setting

    @property
    def required(self) -> bool:
        """Whether the setting has no default."""
        return self.default is MISSING

    @property
    def flags(self) -> tuple[str, ...]:
        """The option's names on the command line, the one that messages tell last."""
        flag = self.setting.flag or f"--{self.name.replace('_', '-')}"
        return (flag,) if isinstance(flag, str) else flag

    @property
    def is_inverted(self) -> bool:
        """Whether the option on the command line turns off what is on without it."""
        return self.kind is bool and self.default is True and "/" not in self.flags[-1]

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a setting that is one of a few; empty for others."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def wanted(self) -> str:
        """What is wanted, in words."""
        said = self.setting.wanted or _wanted(self.kind, self.setting)
        return f"{said}, or None" if self.optional else said

    def fitted(self, value: Any) -> Any:
        """The value as the setting holds it. Raises SettingsError, naming the setting, for one that does not fit."""
        if value is None and self.optional:
            return None
        setting = self.setting
        try:
            found = value if setting.read is None else setting.read(value)
            if found is None and self.optional:
                return None
            if setting.word is not None and isinstance(found, str) and found == setting.word:
                return setting.word
            found = _fitted(found, self.kind, setting)
            if setting.check is not None:
                setting.check(found)
        except _Unfit as error:
            hint = did_you_mean(value, self.choices) if isinstance(value, str) and self._named else ""
            raise SettingsError(
                f"{self.name} is {_shown(value)}, wanted {self.wanted}{error}{hint}"
            ) from None
        except SettingsError as error:
            raise SettingsError(f"{self.name} is {_shown(value)}: {error}") from error
        return found

    @property
    def _named(self) -> bool:
        return all(isinstance(choice, str) for choice in self.choices)


class _Unfit(Exception):
    """The value is none of the kind that is wanted. Its text is a hint, or empty."""


def settings(kind: Made) -> Made:
    """The dataclass with every value validated when one is made, and with its settings told in its documentation.

    Raises SettingsError for unknown names and for values that do not fit, then what the class itself refuses.
    """
    made: Callable[..., None] = vars(kind)["__init__"]
    signature = inspect.signature(made)

    @functools.wraps(made)
    def validated(self: Any, *given: Any, **named: Any) -> None:
        made(self, **_validated(kind, signature, (self, *given), named))

    setattr(kind, "__init__", validated)  # noqa: B010 - mypy knows no class whose __init__ may be replaced
    kind.__doc__ = f"{inspect.cleandoc(kind.__doc__ or '')}\n\n{_documentation(kind)}"
    return kind


def _validated(
    kind: type, signature: inspect.Signature, given: tuple[Any, ...], named: Mapping[str, Any]
) -> dict[str, Any]:
    known = definitions(kind)
    for name in named:
        if name not in known:
            raise SettingsError(
                f"{kind.__name__} has no setting '{shortened(name)}'{did_you_mean(name, known)}; "
                f"known: {', '.join(known)}"
            )
    try:
        bound = signature.bind(*given, **named)
    except TypeError as error:
        raise SettingsError(f"{kind.__name__}: {error}; its settings are {', '.join(known)}") from None
    values = {}
    for name, value in list(bound.arguments.items())[1:]:
        try:
            values[name] = known[name].fitted(value)
        except SettingsError as error:
            raise SettingsError(f"{kind.__name__}: {error}") from error
    return values


@functools.cache
def definitions(kind: type) -> Mapping[str, Definition]:
    """The settings of a class by name, in order. Raises TypeError for a field that says nothing of itself."""
    hints = get_type_hints(kind, include_extras=True)
    return types.MappingProxyType(
        {field.name: _definition(field, hints[field.name]) for field in fields(kind)}
    )


def is_settings(kind: object) -> bool:
    """Whether this is a class of settings."""
    return isinstance(kind, type) and is_dataclass(kind) and hasattr(vars(kind)["__init__"], "__wrapped__")


def chosen(given: Kind | None, kind: type[Kind], what: str = "settings") -> Kind:
    """The settings that a function was given, or those without any choice.

    what: the argument's name. Raises SettingsError for anything else, whose fields would end in errors of Python.
    """
    if given is None:
        return kind()
    if not isinstance(given, kind):
        hint = f"; write {kind.__name__}()" if isinstance(given, type) and given is kind else ""
        raise SettingsError(f"{what} is {_shown(given)}, wanted {kind.__name__}(…), or None{hint}")
    return given


def fitted(name: str, hint: Any, value: Any) -> Any:
    """The value of an argument as the setting takes it that the hint defines. Raises SettingsError by that name."""
    return _defined(name, hint, None).fitted(value)


def _definition(field: Field[Any], hint: Any) -> Definition:
    return _defined(
        field.name, hint, field.default if field.default_factory is MISSING else field.default_factory()
    )


def _defined(name: str, hint: Any, default: Any) -> Definition:
    if get_origin(hint) is not Annotated or not isinstance(hint.__metadata__[0], Setting):
        raise TypeError(f"{name} is no Annotated[…, Setting(…)]")
    whole, setting = get_args(hint)[:2]
    kinds = get_args(whole) if get_origin(whole) in (Union, types.UnionType) else (whole,)
    word = Literal[setting.word] if setting.word is not None else None
    others = [kind for kind in kinds if kind is not types.NoneType and kind != word]
    if len(others) != 1:
        raise TypeError(f"{name} is of {len(others)} types, wanted one, or one and None")
    return Definition(name, others[0], types.NoneType in kinds, default, setting)


def _documentation(kind: type) -> str:
    lines = ["Settings:"]
    for one in definitions(kind).values():
        default = "" if one.required else f" Default: {_shown(one.default)}."
        if one.is_inverted:
            default = f"{default} This is what False does."
        lines.append(f"    {one.name}: {one.setting.help} Wanted: {one.wanted}.{default}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return shortened(str(value) if isinstance(value, os.PathLike) else repr(value))


def _fitted(value: Any, kind: Any, setting: Setting) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _one_of(value, parts)
    if origin is tuple:
        return _all_fitted(value, parts, setting)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _Unfit
        return {_fitted(k, parts[0], setting): _fitted(v, parts[1], setting) for k, v in value.items()}
    if kind in _PLAIN:
        return _PLAIN[kind](value, setting)
    if not isinstance(value, kind):
        # A class in place of one of its objects is a pair of brackets forgotten.
        raise _Unfit(f"; write {kind.__name__}()" if value is kind else "")
    return value


def _one_of(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        same_type = type(value) is type(choice) or (
            isinstance(choice, int) and isinstance(value, numbers.Integral) and not isinstance(value, bool)
        )
        if (same_type or (isinstance(choice, str) and isinstance(value, str))) and value == choice:
            return choice
    raise _Unfit


def _all_fitted(value: Any, parts: tuple[Any, ...], setting: Setting) -> tuple[Any, ...]:
    # Neither a text, whose letters nobody means, nor what has no order.
    listed = isinstance(value, Sequence) or (hasattr(value, "tolist") and hasattr(value, "__len__"))
    if not listed or isinstance(value, str | bytes | bytearray):
        raise _Unfit
    kinds = (parts[0],) * len(value) if parts[1:] == (...,) else parts
    if len(kinds) != len(value):
        raise _Unfit
    return tuple(_fitted(one, kind, setting) for one, kind in zip(value, kinds, strict=True))


def _true_or_false(value: Any, _: Setting) -> bool:
    if isinstance(value, bool) or type(value).__name__ == "bool_" or type(value).__name__ == "bool":
        return bool(value)
    raise _Unfit


def _whole(value: Any, setting: Setting) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise _Unfit
    return _within(int(value), setting)


def _number(value: Any, setting: Setting) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise _Unfit
    try:
        number = float(value)
    except (OverflowError, ValueError):
        raise _Unfit from None
    if math.isnan(number) and setting.may_be_nan:
        return number
    return _within(number, setting)


Number = TypeVar("Number", int, float)


def _within(number: Number, setting: Setting) -> Number:
    low = -LARGEST if setting.low is None else setting.low
    high = LARGEST if setting.high is None else setting.high
    if not low <= number <= high:
        raise _Unfit
    return number


def _text(value: Any, setting: Setting) -> str:
    if setting.file and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise _Unfit
    return str(value)


def _path(value: Any, _: Setting) -> Path:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text:
        raise _Unfit
    return value if isinstance(value, Path) else Path(text)


_PLAIN: Mapping[Any, Callable[[Any, Setting], Any]] = types.MappingProxyType(
    {bool: _true_or_false, int: _whole, float: _number, str: _text, Path: _path}
)


def _wanted(kind: Any, setting: Setting) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple and parts[1:] == (...,):
        return f"a list, of {_wanted(parts[0], setting)} each"
    if origin is tuple:
        return f"{len(parts)} of {_wanted(parts[0], setting)}"
    if isinstance(origin, type):
        return f"a mapping, {_wanted(parts[0], setting)} to {_wanted(parts[1], setting)}"
    if kind in (int, float):
        return ("a whole number" if kind is int else "a number") + _bounds(setting)
    names = {bool: "True or False", str: "a name" if setting.file else "a text", Path: "a path"}
    return names.get(kind) or f"a {kind.__name__}"


def _bounds(setting: Setting) -> str:
    if setting.low is None:
        return ""
    if setting.high is not None and setting.high < 2**62:
        return f" from {setting.low:,.10g} to {setting.high:,.10g}"
    return f" from {setting.low:,.10g} on"


_UNITS = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


def byte_size(value: Any) -> Any:
    """The bytes that a text like 2GB, 800MB or 1.5GiB means; what is no text comes back as it is."""
    if not isinstance(value, str):
        return value
    number = value.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = _UNITS.get(value.strip()[len(number) :].upper())
    plain = number.strip()
    digits = plain.replace(".", "", 1)
    if unit is None or not (digits.isascii() and digits.isdigit()) or len(plain) > 20:
        raise SettingsError(
            f"'{shortened(value)}' is no amount of memory; wanted a number with a unit, as 2GB or 800MB"
        )
    return int(float(plain) * unit)


_SECONDS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}


def time_span(value: Any) -> Any:
    """The seconds that a text like 10min, 90s or 1.5h means; what is no text comes back as it is."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([a-z]+)", value.strip().lower())
    if found is None or found[2] not in _SECONDS:
        raise SettingsError(
            f"'{shortened(value)}' is no time; wanted a number with a unit, as 10min, 90s or 2h"
        )
    return float(found[1]) * _SECONDS[found[2]]


def names_in(value: Any) -> Any:
    """The names between the commas of a text, as the command line takes them; what is no text comes back as it is."""
    if not isinstance(value, str):
        return value
    return tuple(name.strip() for name in value.split(",") if name.strip())
