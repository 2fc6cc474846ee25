"""A configuration as mmsegmentation writes it into its checkpoints: Python text, read as literals and never run."""

from __future__ import annotations

import ast
from collections.abc import Mapping

_LONGEST = 2_000_000
"""Characters; real ones have some ten thousand."""


def read_config(text: str) -> Mapping[str, object] | None:
    """What the text assigns by name: numbers, words, None, lists, tuples and dicts, also as dict(key=value).

    Whatever else it holds (imports, calls, names of its own) is left out. None for what is no such text.
    """
    if len(text) > _LONGEST:
        return None
    try:
        body = ast.parse(text).body
        return {
            target.id: value
            for statement in body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name) and (value := _value(statement.value)) is not _LEFT_OUT
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


_LEFT_OUT = object()


def _value(node: ast.expr) -> object:
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=words):
            return _kept({word.arg: word.value for word in words if word.arg is not None})
        case ast.Dict(keys=keys, values=values):
            named = zip(keys, values, strict=True)
            return _kept({key.value: one for key, one in named if isinstance(key, ast.Constant)})
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            found = [_value(one) for one in elements]
            whole = [None if one is _LEFT_OUT else one for one in found]
            return tuple(whole) if isinstance(node, ast.Tuple) else whole
        case _:
            try:
                return ast.literal_eval(node)
            except (ValueError, TypeError):
                return _LEFT_OUT


def _kept(nodes: Mapping[object, ast.expr]) -> dict[object, object]:
    values = {key: _value(node) for key, node in nodes.items()}
    return {key: value for key, value in values.items() if value is not _LEFT_OUT}
