"""Texts of vector files as they were meant: files state an encoding, none, or the wrong one."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting

AS_BYTES = "ISO-8859-1"
"""Read in this encoding a text holds its own bytes, one a letter, and nothing fails."""
_WESTERN = "cp1252"


def check_encoding(name: str, *, setting_name: str) -> None:
    """Raises SettingsError unless this is the name of an encoding of texts."""
    try:
        b"a".decode(codecs.lookup(name).name)
    except (LookupError, ValueError) as error:  # a codec of bytes, as base64, is a LookupError too
        raise SettingsError(
            f"{setting(setting_name, name)} is no encoding of texts; wanted for example UTF-8, ISO-8859-1 or cp1251"
        ) from error


@dataclass(slots=True)
class Texts:
    """Decode the texts of one layer and count what was not as stated.

    encoding: that its user or the file states; None where the file states none.
    """

    encoding: str | None
    path: str
    setting_name: str = "encoding"
    _odd: int = 0
    _first: int | None = None
    _unstated: int = 0

    def column(self, values: NDArray[Any], fids: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
        """The values (n,) of a column that was read AS_BYTES; what is no text stays as it is."""
        if values.dtype != object:
            return values
        out = values.copy()
        if _is_plain(values):
            return out
        for place in [k for k, value in enumerate(values) if isinstance(value, str) and not value.isascii()]:
            out[place] = self._decoded(values[place].encode(AS_BYTES, "replace"), int(fids[place]))
        return out

    def name(self, text: str) -> str:
        """A field's name that was read AS_BYTES."""
        if text.isascii():
            return text
        raw = text.encode(AS_BYTES, "replace")
        try:
            return raw.decode(self.encoding or "utf-8")
        except UnicodeDecodeError:
            return raw.decode(_WESTERN, "replace")

    @property
    def notes(self) -> tuple[str, ...]:
        """What was taken for granted about texts, with counts."""
        told = []
        remedy = f"say what they are in with {setting(self.setting_name, 'ISO-8859-1')}"
        if self._odd:
            stated = self.encoding or "UTF-8"
            told.append(
                f"{self.path}: {self._odd} texts are not {stated} (the first is of feature {self._first}) and were "
                f"read as Windows-1252; {remedy}"
            )
        if self._unstated:
            told.append(
                f"{self.path} states no encoding: {self._unstated} texts with letters beyond ASCII were read as UTF-8; "
                f"if they look wrong, {remedy}"
            )
        return tuple(told)

    def _decoded(self, raw: bytes, fid: int) -> str:
        try:
            text = raw.decode(self.encoding or "utf-8")
        except UnicodeDecodeError:
            self._odd += 1
            self._first = fid if self._first is None else self._first
            # Five bytes have no letter in Windows-1252; ISO-8859-1 has one for each.
            try:
                return raw.decode(_WESTERN)
            except UnicodeDecodeError:
                return raw.decode(AS_BYTES)
        self._unstated += self.encoding is None
        return text


def _is_plain(values: NDArray[Any]) -> bool:
    """Whether all of them are texts of ASCII alone, asked at once: one by one it is a third of reading a layer."""
    try:
        return "".join(values).isascii()
    except TypeError:  # NULLs, and what is no text
        return False
