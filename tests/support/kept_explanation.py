"""An explanation read back from the JSON that `remora explain --json` prints."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping

from remora.pipeline.origin.explanation import Explanation


def read_explanation(text: str) -> Explanation:
    found = _made(Explanation, json.loads(text))
    assert isinstance(found, Explanation)
    return found


def _made(kind: object, value: object) -> object:
    """JSON as a value of that type: dataclasses and tuples are made, the rest stays."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _made(next(each for each in inner if each is not type(None)), value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _made(hints[name], each) for name, each in value.items()})
    if origin is tuple and isinstance(value, list):
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        return tuple(_made(of, each) for of, each in zip(kinds, value, strict=True))
    if origin is Mapping and isinstance(value, dict):
        return {key: _made(inner[1], each) for key, each in value.items()}
    return value
