"""Strict YAML: what a user wrote becomes a frozen pydantic model, or one line that names file, line, key and value."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from remora.errors import SpecError, nearest
from remora.spec.paths import located


class Spec(BaseModel):
    """Base of everything that a user writes: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=BaseModel)
Lines = dict[tuple[str | int, ...], int]


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice; plain YAML keeps the last one and says nothing."""


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} cannot be a key", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is written twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _lines(node: yaml.Node | None, path: tuple[str | int, ...], found: Lines) -> Lines:
    """Line number (from 1) of every key and list item below `node`, by its path."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            found[(*path, key.value)] = key.start_mark.line + 1
            _lines(value, (*path, key.value), found)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            found[(*path, i)] = value.start_mark.line + 1
            _lines(value, (*path, i), found)
    return found


def parse_yaml(text: str, name: str) -> tuple[Any, Lines]:
    """Parse YAML and find the line of every key.

    Raises:
        SpecError: the text is not YAML, or a key is written twice.
    """
    try:
        return yaml.load(text, Loader=_Loader), _lines(yaml.compose(text, Loader=_Loader), (), {})
    except (yaml.YAMLError, ValueError) as e:  # ValueError: a date that is none
        mark = getattr(e, "problem_mark", None)
        problem = getattr(e, "problem", None) or str(e).splitlines()[0]
        raise SpecError(f"{name}:{mark.line + 1 if mark else 1}: not valid YAML: {problem}") from None


def read_yaml(path: Path | str) -> tuple[Any, Lines]:
    """Read a YAML file; see `parse_yaml`."""
    path = Path(path)
    try:
        text = path.read_text()
    except OSError as e:
        raise SpecError(f"{path}: cannot read: {e.strerror}; give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: not a text file; give the path of a YAML file") from None
    return parse_yaml(text, str(path))


def load(model: type[S], path: Path | str) -> S:
    """Read `path` as one `model`; its relative paths are made absolute (spec/paths.py).

    Raises:
        SpecError: one line a broken rule: file, line, key, value and what is known.
    """
    raw, lines = read_yaml(path)
    return validate(model, located(raw, Path(path).parent), str(path), lines)


def validate(model: type[S], raw: Any, name: str, lines: Lines | None = None) -> S:
    """`raw` as a `model`; errors name `name` and, where `lines` has it, the line."""
    if not isinstance(raw, dict):
        raise SpecError(f"{name}: expected keys and values ({', '.join(model.model_fields)}), found {raw!r}")
    try:
        return model.model_validate(raw)
    except ValidationError as e:
        broken = [err["loc"] for err in e.errors()]
        # pydantic also counts an item that it could not read as missing from its list: once is enough
        errors = [
            err
            for err in e.errors()
            if not (err["type"] == "too_short" and any(loc[: len(err["loc"])] == err["loc"] != loc for loc in broken))
        ]
        raise SpecError("\n".join(dict.fromkeys(_explain(model, err, name, lines or {}) for err in errors))) from None


def _explain(model: type[BaseModel], err: Any, name: str, lines: Lines) -> str:
    loc = tuple(err["loc"])
    # pydantic adds the names of union branches and validators to `loc`; the file knows only keys and positions.
    known = loc
    while known and known not in lines:
        known = known[:-1]
    where = f"{name}:{lines[known]}" if known in lines else name
    key = ".".join(str(p) for p in loc)
    if err["type"] == "extra_forbidden":
        fields = _fields_at(model, loc[:-1])
        return f"{where}: unknown key {key!r}{nearest(str(loc[-1]), fields)} (known: {', '.join(fields)})"
    if err["type"] == "missing":
        return f"{where}: key {key!r} is missing"
    message = err["msg"].removeprefix("Value error, ")
    shown = err["input"] if isinstance(err["input"], (str, int, float, bool, type(None))) else None
    return f"{where}: {key or 'spec'}: {message}" + (f" (found {shown!r})" if shown is not None else "")


def _fields_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Field names of the model that stands at `loc`, following annotations as far as they go."""
    current: Any = model
    for part in loc:
        models = _models_in(current.model_fields[part].annotation) if part in current.model_fields else [current]
        current = models[0] if models else current
    return list(current.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in getattr(annotation, "__args__", ()) for m in _models_in(arg)]
