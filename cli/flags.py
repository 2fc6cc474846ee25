"""Settings that messages name, as the options of the command that runs."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from types import EllipsisType
from typing import Any

import click

from aerial_seg.mentions import FORMER_CALL, SAME_CALL, Made, Mention, replace_settings

from .setting_options import SettingOption

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
    from .main import COMMANDS

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
    option = _option(command, mention.name)
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
    return f"{_flag(option)} {_text(value, between=' ' if option.nargs != 1 else ',')}"


def _flag(option: click.Option) -> str:
    """What is typed: the long form, but for those that everybody calls by their letter."""
    by_letter = option.name in _SHORT
    return next((word for word in option.opts if word.startswith("--") != by_letter), option.opts[0])


def _option(command: click.Command, setting: str) -> click.Option | None:
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
