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
        pairs = [f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items() if one is not None]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    # Texts, numbers, true, false and lists are written alike in JSON and TOML.
    return json.dumps(value)
