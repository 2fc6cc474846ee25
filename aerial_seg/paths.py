"""Paths, lists of paths and devices as people write them: the one door of the public functions."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from aerial_seg.errors import SettingsError
from aerial_seg.printable import shortened

StrPath: TypeAlias = str | os.PathLike[str]
"""A path, or an address on a server."""
StrPaths: TypeAlias = StrPath | Iterable[StrPath]
"""One path, or several in a list."""


def as_path(value: StrPath, what: str) -> Path:
    """The path. what: the argument's name, for messages. Raises SettingsError for what is none."""
    return value if isinstance(value, Path) else Path(_text(value, what))


def as_optional_path(value: StrPath | None, what: str) -> Path | None:
    """The path, or None."""
    return None if value is None else as_path(value, what)


def as_paths(value: StrPaths, what: str) -> tuple[Path, ...]:
    """The path or the paths. Raises SettingsError for what is neither."""
    return tuple(as_path(one, what) for one in _listed(value, what))


def as_name(value: StrPath, what: str) -> str:
    """The name of a file or an address, as it was written. Raises SettingsError for what is none."""
    return _text(value, what)


def as_names(value: StrPaths, what: str) -> tuple[str, ...]:
    """The names of files, folders, globs or addresses, as they were written. Raises SettingsError for what is none."""
    return tuple(_text(one, what) for one in _listed(value, what))


def _listed(value: Any, what: str) -> tuple[Any, ...]:
    if isinstance(value, str | os.PathLike):
        return (value,)
    if isinstance(value, bytes | dict) or not isinstance(value, Iterable):
        raise SettingsError(f"{what} is {shortened(repr(value))}, wanted a path, or several in a list")
    return tuple(value)


def _text(value: Any, what: str) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text:
        raise SettingsError(f"{what} is {shortened(repr(value))}, wanted a path")
    return text


Settings = TypeVar("Settings", bound=Any)


def with_device(settings: Settings, device: str) -> Settings:
    """The settings with the device that a job was told beside them, where that is not auto.

    Raises SettingsError where both name one and not the same.
    """
    if device == "auto" or settings.device == device:
        return settings
    if settings.device != "auto":
        raise SettingsError(
            f"device is '{shortened(str(device))}', and '{settings.device}' in the settings; name it in one place"
        )
    return replace(settings, device=device)
