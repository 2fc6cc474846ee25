"""A recipe as the TOML that makes it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def toml_lines(document: Mapping[str, Any], remarks: Mapping[str, str] | None = None) -> list[str]:
    """A recipe as TOML, which has no word for None: such keys are comments.

    remarks: what to add to a key's line as a comment, by its name with its table ("training.crop").
    """
    lines: list[str] = []
    for table, settings in document.items():
        lines += [*([""] if lines else []), f"[{table}]"]
        for key, value in settings.items():
            remark = (remarks or {}).get(f"{table}.{key}")
            text = f"# {key}: not set" if value is None else f"{key} = {_toml(value)}"
            lines.append(f"{text}  # {remark}" if remark and value is not None else text)
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        # TOML has no null: an option that is None is one that is not given.
        pairs = [f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items() if one is not None]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    # Texts, numbers, true, false and lists are written alike in JSON and TOML.
    return json.dumps(value)
