"""A recipe as the TOML that makes it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def toml_lines(document: Mapping[str, Any], remarks: Mapping[str, str] | None = None) -> list[str]:
    """A recipe as TOML, which has no word for None: such keys are comments.

    remarks: what to add to a key's line as a comment, by its name with its table ("training.crop"), or to a table's.
    """
    told, lines = remarks or {}, list[str]()
    for table, settings in document.items():
        # A list of tables is that of further stages.
        several = [(f"[[{table}]]", one) for one in settings] if isinstance(settings, list) else []
        for title, one in several or [(f"[{table}]", settings)]:
            lines += [*([""] if lines else []), _remarked(title, told.get(table))]
            for key, value in one.items():
                text = f"# {key}: not set" if value is None else f"{key} = {_toml(value)}"
                lines.append(_remarked(text, None if value is None else told.get(f"{table}.{key}")))
    return lines


def _remarked(line: str, remark: str | None) -> str:
    return f"{line}  # {remark}" if remark else line


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        # TOML has no null: an option that is None is one that is not given.
        pairs = [f"{_toml(key)} = {_toml(one)}" for key, one in value.items() if one is not None]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    # Numbers, true and false are written alike in JSON and TOML.
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(value: str) -> str:
    """As JSON, but for characters beyond 16 bits: of these JSON writes two halves, and TOML knows no halves."""
    escaped = (f"\\U{ord(one):08x}" if ord(one) > 0xFFFF else json.dumps(one)[1:-1] for one in value)
    return f'"{"".join(escaped)}"'
