"""Text that came from outside: what of it a terminal may be shown, and whether it can be a name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

LONGEST_NAME = 1000
"""Characters of a name; a longer one is a text that strayed into the wrong field."""

_HIDDEN = frozenset(
    (0xAD, 0x180E, *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFC))
)
"""Characters that show nothing, or turn the order of others around: a name with them reads as another one."""
_JOINERS = frozenset((0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x061C))
"""Characters that show nothing, and that words in Persian, Hindi, Khmer or Hebrew are written with."""
_KEPT = "\t\n"


def printable(text: str, *, lines: bool = True) -> str:
    r"""The text as a terminal may be shown it: what steers one is written out, as \x1b or \u202e.

    These are control characters, lone surrogates (bytes of a file's name that are no text) and what turns or breaks
    lines. lines: whether line ends and tabs stay. Letters of every script stay as they are.
    """
    kept = _KEPT if lines else ""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        written_out(letter) if letter not in kept and _steers(letter) else letter for letter in text
    )


def _steers(letter: str) -> bool:
    code = ord(letter)
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or code in _HIDDEN or _is_none(code)


def _is_none(code: int) -> bool:
    """Whether Unicode keeps this number from being a character, as U+FFFE and U+FFFF."""
    return code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF


def written_out(letter: str) -> str:
    r"""The letter as \x.., \u.... or \U........, which any terminal shows."""
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte of a file's name, as Python smuggles it into text
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shortened(text: str, longest: int = 80) -> str:
    """The text, printable on one line, its middle left out where it is longer than `longest`."""
    told = printable(" ".join(text.split()), lines=False)
    return told if len(told) <= longest else f"{told[: longest // 2]}…{told[-longest // 4 :]}"


def shell_word(text: str) -> str:
    """As a shell takes it for one: in quotes where it has blanks or letters that mean something there."""
    if not re.search(r"[\s;&|<>()*?'\[\]{}]", text) or re.search(r'["$\x60\\!]', text):
        return text
    return f'"{text}"'


def name_problem(name: str) -> str | None:
    """What keeps a text from being the name of a class or band; None where nothing does.

    A name must survive XML, DBF, JSON and a terminal, and read as what it is. The text tells the character and its
    place. Letters, marks and blanks of all scripts are fine, and between them the joiners that some are written with.
    """
    if not name.strip():
        return "it is empty"
    if len(name) > LONGEST_NAME:
        return f"it has {len(name):,} characters, wanted {LONGEST_NAME:,} at the most"
    has_script = any(not letter.isascii() and ord(letter) not in _JOINERS for letter in name)
    for place, letter in enumerate(name):
        is_joined = has_script and 0 < place < len(name) - 1
        if _steers(letter) or (ord(letter) in _JOINERS and not is_joined):
            what = unicodedata.name(letter, "a control character" if ord(letter) < 160 else "no character")
            return (
                f"its character {place + 1} is U+{ord(letter):04X} ({what.lower()}), which no name can hold"
            )
    return None


def name_problems(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The names that cannot be one, as a terminal may be shown them, each with its problem."""
    for name in names:
        problem = name_problem(name)
        if problem is not None:
            yield shortened(name), problem


def cleaned_name(name: str) -> str:
    """The name without what keeps it from being one: such characters are gone, blanks at its ends as well."""
    if name_problem(name) is None:
        return name
    bare = "".join(letter for letter in name if not _steers(letter) and ord(letter) not in _JOINERS)
    return bare.strip()[:LONGEST_NAME]
