"""Options that are made of the definitions of settings: names, choices, bounds, defaults and help stand there alone."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any, Literal, get_args, get_origin

import click

from aerial_seg.crf.settings import DenseCrf
from aerial_seg.errors import SettingsError
from aerial_seg.geo.raster.band_choice import BandChoice, parse_bands
from aerial_seg.mentions import FORMER_CALL, SAME_CALL, Made, Mention, replace_settings
from aerial_seg.printable import shell_word, shortened
from aerial_seg.settings import LARGEST, Definition, definitions, is_settings

from . import COMMANDS

Command = Callable[..., None]
Decorator = Callable[[Command], Command]


class Whole(click.ParamType[int]):
    """A whole number of these bounds; help does not show them, because nobody who means something meets them."""

    name = "integer"

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        text = str(value).strip()
        is_number = re.fullmatch(r"[+-]?[0-9]{1,30}", text) is not None
        if not is_number or not self.low <= int(text) <= self.high:
            self.fail(f"'{shortened(text)}' is not a whole number from {self.low} to {self.high}", param, ctx)
        return int(text)


class WholeOr(Whole):
    """A whole number of these bounds, or this word."""

    def __init__(self, low: int, high: int, word: str) -> None:
        super().__init__(low, high)
        self.word = word

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the word."""
        text = str(value).strip()
        if text == self.word:
            return text
        if re.fullmatch(r"[+-]?[0-9]+", text) is None:
            self.fail(f"'{shortened(text)}' is neither a whole number nor {self.word}", param, ctx)
        return super().convert(value, param, ctx)


class FiniteFloat(click.ParamType[float]):
    """A number of these bounds, neither NaN nor infinite: click's own lets those through."""

    name = "float"

    def __init__(self, low: float = -1e30, high: float = 1e30) -> None:
        self.low, self.high = low, high

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = float(click.FLOAT.convert(value, param, ctx))
        if not self.low <= number <= self.high:
            self.fail(f"'{value}' is not a number from {self.low:g} to {self.high:g}", param, ctx)
        return number


class SettingOption(click.Option):
    """An option that sets a setting. setting: which, as `shape.method`. definition: what is known of it."""

    def __init__(
        self, flags: Sequence[str], *, setting: str, definition: Definition, **attributes: Any
    ) -> None:
        super().__init__(flags, **attributes)
        self.setting, self.definition = setting, definition


class Written(click.ParamType[Any]):
    """A value in the form that the setting's definition reads it from."""

    name = "text"

    def __init__(self, definition: Definition) -> None:
        self._definition = definition

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value as the setting holds it."""
        try:
            return self._definition.fitted(value)
        except SettingsError as error:
            self.fail(_about(value, as_flags(str(error.__cause__ or error), ctx), param), param, ctx)


def _about(value: Any, message: str, param: click.Parameter | None) -> str:
    """The message, which click puts behind the option's name: with the value, and without that name once more."""
    shown, flags = shortened(str(value)), "|".join(map(re.escape, param.opts if param else ()))
    rest = re.sub(rf"^(?:{flags}):? (?:{re.escape(shown)}: )?", "", message) if flags else message
    is_shown = shown in rest or any(part in shown for part in re.findall("'([^']+)'", rest)[:1])
    return rest if is_shown else f"'{shown}'{':' if rest == message else ''} {rest}"


@dataclass(frozen=True, slots=True)
class _Taken:
    """One option, and the setting in whose object its value goes. name: that of its value in click's hands."""

    option: SettingOption
    definition: Definition

    def value(self, given: dict[str, Any]) -> Any:
        """What the setting gets."""
        found = given.pop(self.option.name or "")
        kind = self.definition.kind
        if self.definition.is_inverted:
            return not found
        if found is None and not self.definition.required:
            return self.definition.default
        if get_origin(kind) is Literal:
            return next(choice for choice in get_args(kind) if str(choice) == found)
        return found


@dataclass(frozen=True, slots=True)
class _Group:
    """The options of one class of settings, each by the field that it sets."""

    kind: Any
    members: Mapping[str, _Taken | _Group]

    def options(self) -> Iterator[SettingOption]:
        """All of them, in the order of the definitions."""
        for member in self.members.values():
            if isinstance(member, _Taken):
                yield member.option
            else:
                yield from member.options()

    def value(self, given: dict[str, Any]) -> Any:
        """The settings."""
        values = {name: member.value(given) for name, member in self.members.items()}
        if self.kind is BandChoice:
            return parse_bands(values["numbers"] or None, values["names"] or None, values["stack"])
        if self.kind is DenseCrf:
            return values["crf"] if values["parameters"] is None else values["parameters"]
        return self.kind(**values)


def from_settings(
    kind: Any,
    into: str = "settings",
    *,
    without: Sequence[str] = (),
    told: Mapping[str, Mapping[str, str]] | None = None,
) -> Decorator:
    """Adds an option for every setting of `kind`; the command gets them as one object of it, `into`.

    without: settings that stay at their defaults. told: by setting, attributes of the option that are the command's
    own, as help or metavar.
    """
    group = _group(kind, "", without, told or {})

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_settings(*arguments: object, **given: Any) -> None:
            settings = group.value(given)
            command(*arguments, **given, **{into: settings})

        return _with_options(with_settings, list(group.options()))

    return decorate


def setting_option(kind: Any, name: str, **attributes: Any) -> Decorator:
    """The option of one setting alone, as click hands its value on."""
    definition = definitions(kind)[name]
    return lambda command: _with_options(command, [_option(definition, name, attributes)])


def _with_options(command: Command, options: Sequence[SettingOption]) -> Command:
    # As click's own decorators leave them: the last one first.
    waiting: list[click.Parameter] = getattr(command, "__click_params__", [])
    command.__click_params__ = [*waiting, *reversed(options)]  # type: ignore[attr-defined]
    return command


def _group(kind: Any, place: str, without: Sequence[str], told: Mapping[str, Mapping[str, str]]) -> _Group:
    members: dict[str, _Taken | _Group] = {}
    for name, one in definitions(kind).items():
        if name in without:
            continue
        if one.kind is BandChoice:
            members[name] = _band_group(f"{place}{name}.")
        elif one.kind is DenseCrf:
            members[name] = _crf_group(one)
        elif is_settings(one.kind) and not one.optional and one.setting.read is None:
            members[name] = _group(one.kind, f"{place}{name}.", without, told)
        else:
            members[name] = _Taken(_option(one, f"{place}{name}", told.get(name, {})), one)
    return _Group(kind, members)


def _band_group(place: str) -> _Group:
    """Numbers, or names with their numbers, as texts: together they are one choice."""
    members = {}
    for name, one in definitions(BandChoice).items():
        text = {} if one.setting.several else {"type": click.STRING}
        option = _option(one, place, {**text, "default": () if one.setting.several else None})
        option.setting = f"{place}{option.name}"
        members[name] = _Taken(option, one)
    return _Group(BandChoice, members)


def _crf_group(one: Definition) -> _Group:
    defaults = ", ".join(f"{name}={field.default:g}" for name, field in definitions(DenseCrf).items())
    parameters = _option(
        one,
        f"{one.name}_parameters",
        {
            "flags": ("--crf-parameters",),
            "metavar": "NAME=VALUE,...",
            "help": f"As --crf, with other parameters; the defaults are {defaults} (xy in pixels, rgb in grey levels).",
        },
    )
    flag = _option(one, one.name, {"type": None, "is_flag": True, "default": False})
    return _Group(DenseCrf, {"crf": _Taken(flag, one), "parameters": _Taken(parameters, one)})


def _option(one: Definition, setting: str, attributes: Mapping[str, Any]) -> SettingOption:
    made: dict[str, Any] = {"help": one.setting.help, "metavar": one.setting.metavar, **_typed(one)}
    made |= attributes
    flags = made.pop("flags", one.flags)
    return SettingOption(flags, setting=setting, definition=one, **made)


def _typed(one: Definition) -> dict[str, Any]:
    """What click must know of the setting's type and default."""
    setting, kind = one.setting, one.kind
    default = None if one.default is MISSING else one.default
    if kind is bool:
        pair = "/" in one.flags[-1]
        return {"default": default} | (
            {"show_default": True} if pair else {"is_flag": True, "default": False}
        )
    shown = {"default": default, "show_default": default is not None}
    if one.choices:
        told = None if default is None else str(default)
        return shown | {"type": click.Choice(list(map(str, one.choices))), "default": told}
    if kind is tuple or get_origin(kind) is tuple:
        return _tuple_typed(one)
    if kind in (int, float) and setting.read is None:
        return shown | {"type": _number(kind, setting.low, setting.high, one)}
    if kind is Path:
        return shown | {"type": click.Path(path_type=Path)}
    if kind is str and setting.read is None and setting.check is None:
        return shown | {"type": click.STRING}
    return shown | {"type": Written(one), "default": None if default is None else str(default)}


def _tuple_typed(one: Definition) -> dict[str, Any]:
    parts = get_args(one.kind)
    if one.setting.several:
        kind = click.STRING if parts[0] is str else _number(parts[0], one.setting.low, one.setting.high, one)
        return {"type": kind, "multiple": True}
    if parts[1:] == (...,):
        default = None if not one.default else ",".join(one.default)
        return {"type": Written(one), "default": default}
    return {"type": _number(parts[0], one.setting.low, one.setting.high, one), "nargs": len(parts)}


def _number(kind: type, low: float | None, high: float | None, one: Definition) -> click.ParamType[Any]:
    if one.setting.may_be_nan:
        return click.FLOAT
    low = one.setting.mistyped_below or low
    if kind is int and one.setting.word is not None:
        return WholeOr(int(low or 0), int(LARGEST if high is None else high), one.setting.word)
    if kind is int:
        return Whole(int(-LARGEST if low is None else low), int(LARGEST if high is None else high))
    return FiniteFloat(-LARGEST if low is None else low, LARGEST if high is None else high)


_REVERSED = frozenset({"no_georef"})
"""Flags that say no to their setting."""
_SHORT = frozenset({"output"})
"""Options that are called by their letter."""
_SPEAKS_OF = {"info": "predict"}
"""Commands that tell what another one will need."""
_COMMAND = re.compile(r"`aerial-seg ([a-z-]+)`")


def as_flags(text: str, context: click.Context | None = None) -> str:
    """The text with the settings of the running command as its options; others stay as Python writes them.

    A setting of another function, `predict(confidence=True)`, and one after the name of another command
    (run `aerial-seg tile` with `val=0.1`) are that one's. context: without one, that of the command at work.
    """
    context = context or click.get_current_context(silent=True)
    running = None if context is None else context.command
    if running is not None and running.name in _SPEAKS_OF:
        running = _command(_SPEAKS_OF[running.name])

    def turn(mention: Mention, before: str) -> str | None:
        if mention.job is not None:
            said = _said(mention, _command(mention.job))
            return said and f"{mention.job} {said}"
        named = _COMMAND.findall(before)
        return _said(mention, running) or _said(mention, _command(named[-1]) if named else None)

    told = replace_settings(text, turn) if "`" in text else text
    if running is None:
        return told
    return told.replace(SAME_CALL, "run the same command again").replace(
        FORMER_CALL, "repeat the former command"
    )


def _command(name: str) -> click.Command | None:
    if name not in COMMANDS:
        return None
    found = importlib.import_module(f"aerial_seg.cli.{name.replace('-', '_')}").command
    return found if isinstance(found, click.Command) else None


def _said(mention: Mention, command: click.Command | None) -> str | None:
    """The option with its value; None where the command has no such setting, or cannot say this value of it."""
    if command is None:
        return None
    if isinstance(mention.value, Made):
        return _bands(mention.value, command)
    option = _option_of(command, mention.name)
    if option is None:
        return None
    value = mention.value
    if not mention.has_value or isinstance(value, EllipsisType):
        return _flag(option)
    if isinstance(value, bool):
        if value != (option.name in _REVERSED):
            return _flag(option) if option.is_flag else None
        return option.secondary_opts[0] if option.secondary_opts else None
    if isinstance(value, tuple) and option.multiple:
        return " ".join(f"{_flag(option)} {_text(one)}" for one in value)
    shown = shell_word(_text(value)) if option.nargs == 1 else _text(value, between=" ")
    return f"{_flag(option)} {shown}"


def _flag(option: click.Option) -> str:
    """What is typed: the long form, but for those that everybody calls by their letter."""
    by_letter = option.name in _SHORT
    return next((word for word in option.opts if word.startswith("--") != by_letter), option.opts[0])


def _option_of(command: click.Command, setting: str) -> click.Option | None:
    return next((option for name, option in _settings(command) if name == setting), None)


def _settings(command: click.Command) -> Iterator[tuple[str, click.Option]]:
    """The settings that the command takes as options."""
    for option in command.params:
        if isinstance(option, SettingOption):
            # Of a setting of settings, shape.method, the last word is the one that is typed in Python.
            yield option.setting.rpartition(".")[2], option
        elif isinstance(option, click.Option):
            yield option.name or "", option


def _bands(made: Made, command: click.Command) -> str | None:
    """A choice of bands: by number, by name, or files that bring some."""
    numbers, names, stack = (made.keywords.get(key) for key in ("numbers", "names", "stack"))
    name = "--bands" if names is not None else "--bidx" if numbers is not None else "--stack"
    options = {word for one in command.params for word in one.opts}
    if made.callee != "BandChoice" or not {"--bands", "--bidx", "--stack"} <= options:
        return None
    if isinstance(numbers, tuple) and isinstance(names, tuple):
        pairs = dict(zip(names, numbers, strict=False))
        return f"{name} {_text(pairs)}"
    value = {"--bands": names, "--bidx": numbers, "--stack": stack}[name]
    return name if isinstance(value, EllipsisType) else f"{name} {_text(value)}"


def _text(value: Any, *, between: str = ",") -> str:
    """As it is typed behind an option."""
    match value:
        case EllipsisType():
            return "…"
        case tuple():
            return between.join(map(_text, value))
        case Mapping():
            pairs = ((_text(key), _text(one)) for key, one in value.items())
            return between.join("=".join(pair) if pair != ("…", "…") else "…" for pair in pairs)
        case _:
            return str(value)
