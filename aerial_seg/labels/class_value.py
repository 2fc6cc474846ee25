"""What labels hold as a class, spelled in one way: whole numbers are integers, everything else is a word."""

from __future__ import annotations

import math
import re
from datetime import date, datetime, time
from numbers import Integral, Real

Key = int | str
"""A value of labels as classes are looked up by it: 1 for 1, 1.0 and '1'; 'road' for 'road' and 'road '."""

_WHOLE = re.compile(r"([+-]?[0-9]{1,18})(?:\.0*)?")


def key_of(value: object) -> Key | None:
    """The key of a value as it stands in a column, a pixel or a table; None for NULL, NaN, infinity, blank text.

    Text is taken without the blanks around it, and text that is a whole number is that number. True and False stay
    words. Dates become ISO text.
    """
    if isinstance(value, str):
        text = value.strip()
        whole = _WHOLE.fullmatch(text)
        return int(whole[1]) if whole else text or None
    kind = type(value).__name__
    if isinstance(value, bool) or kind in ("bool", "bool_"):
        return str(bool(value))
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        # numpy writes a float32 with its own few digits.
        return None if not math.isfinite(number) else int(number) if number.is_integer() else str(value)
    # pandas has values of its own for what is missing, one of which calls itself a datetime.
    if value is None or kind in ("NAType", "NaTType"):
        return None
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    return _key_of_another(value)


def _key_of_another(value: object) -> Key | None:
    """numpy's moments count in units of their own, and write themselves with all of these."""
    text = str(value)
    if type(value).__name__ == "datetime64":
        return None if text == "NaT" else key_of(datetime.fromisoformat(text[:26]))
    return key_of(text)
