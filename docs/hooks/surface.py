"""What a user can write: verbs with their flags, keys of every YAML, names of the Python API. Read off the code.

The reference pages (reference.py) and tests/test_surface.py are made of it.
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import remora
from remora.catalog.entries import LLM, Connector, DatasetEntry, OwnBenchmark, Template, Vision
from remora.catalog.published import PublishedModel, Scores
from remora.cli import Verb
from remora.commands.options import flag_of, kind_of
from remora.serving.args import EndpointArgs
from remora.serving.keys import KeyFile
from remora.spec import Recipe, Space, Variant
from remora.spec.base import models_in
from remora.spec.condensation import Condensation
from remora.spec.doc_lines import meaning


@dataclass(frozen=True)
class Page:
    """A kind of YAML: the models of its files, and what they are for."""

    title: str
    about: str
    models: Mapping[str, type[BaseModel]]
    """Where the file is or what it is called -> its model."""


YAMLS = {
    "jobs": Page(
        "Jobs",
        "A job names one variant: its parts, its recipe, and where it runs. Shipped ones are in `jobs/`.",
        {"jobs/NAME.yaml": Variant},
    ),
    "recipes": Page(
        "Recipes",
        "A recipe is an ordered list of stages. `remora catalog recipes NAME` prints a shipped one; a job may name the "
        "path of your own. A job's `overrides` sets any key of a stage.",
        {"recipes/NAME.yaml": Recipe},
    ),
    "spaces": Page(
        "Spaces",
        "A space is what a search may choose from. Shipped ones are in `tune/`. "
        "[Searching](../searching.md) has examples.",
        {"tune/NAME.yaml": Space},
    ),
    "condensations": Page(
        "Condensations",
        "A condensation says which samples of a dataset to keep. [Condense a dataset](../condense.md) has an example.",
        {"jobs/condense.yaml": Condensation},
    ),
    "endpoint": Page(
        "The endpoint",
        "The keys under `args:` of a Serve config (`serve/local.yaml`, `serve/production.yaml`), and the key file. "
        "[The endpoint](../serving.md) explains them.",
        {"args: of serve/NAME.yaml": EndpointArgs, "keys.yaml": KeyFile},
    ),
    "catalog": Page(
        "Catalog entries",
        "Each file of a folder that `REMORA_CATALOG` names holds entries by name. [The catalog](../catalog.md) has "
        "examples.",
        {
            "vision.yaml": Vision,
            "llm.yaml": LLM,
            "connectors.yaml": Connector,
            "templates.yaml": Template,
            "datasets.yaml": DatasetEntry,
            "benchmarks.yaml": OwnBenchmark,
            "published.yaml": PublishedModel,
            "scores.yaml": Scores,
        },
    ),
}
"""Every YAML that a user writes, by the name of its page."""


@dataclass(frozen=True)
class Key:
    """One key of a YAML."""

    name: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Flag:
    """One argument of a verb. `written` as in a usage line: `--runs DIR`, `SPEC`."""

    written: str
    meaning: str


def flags(verb: Verb) -> list[Flag]:
    """A verb's arguments: positional ones first, then its own flags, then those that all verbs have."""
    found: list[tuple[int, Flag]] = []
    for f in fields(verb.options):
        kind, several = kind_of(f.type)
        parsing = f.metadata["parsing"]
        choices = parsing.get("choices")
        value = (
            "" if kind is bool else str(parsing.get("metavar") or ("|".join(choices) if choices else f.name.upper()))
        )
        optional = f.default is not MISSING or f.default_factory is not MISSING
        more = " …" if several else ""
        meaning = str(parsing.get("help") or "")
        if not f.metadata["flags"]:
            word = f"{f.name.upper()}{more}"
            found.append((0, Flag(f"[{word}]" if optional else word, meaning)))
            continue
        word = f"{flag_of(f)} {value}{more}".strip()
        found.append(
            (
                2 if f.name in ("runs", "debug", "quiet") else 1,
                Flag(word if optional else f"{word} (required)", meaning),
            )
        )
    return [flag for _, flag in sorted(found, key=lambda pair: pair[0])]


def models(first: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and all that its keys name, each once, outer ones first."""
    found = [first]
    for model in found:
        for info in model.model_fields.values():
            found += [inner for inner in models_in(info.annotation) if inner not in found]
    return found


def keys(model: type[BaseModel]) -> list[Key]:
    """The keys of a model: its own in their order, then those that it shares with others."""
    own = inspect.get_annotations(model)
    return [
        Key(info.alias or name, kind(info), _default(info), meaning(model, name, info))
        for name, info in sorted(model.model_fields.items(), key=lambda field: field[0] not in own)
    ]


WORDS = {"int": "whole number", "float": "number", "str": "text", "bool": "true or false", "Path": "path"}
"""Types of Python, as a reader of YAML calls them."""
REQUIRED, NONE, ITS_OWN = "required", "–", "its own defaults"
BARE = (REQUIRED, NONE, ITS_OWN)
"""In place of a default value."""
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def kind(info: FieldInfo) -> str:
    """A field's type in words, with its bounds: `whole number, ≥ 1`."""
    bounds = [
        f"{sign} {_number(getattr(rule, name))}"
        for rule in info.metadata
        for name, sign in SIGNS.items()
        if hasattr(rule, name)
    ]
    bounds += [f"matches `{rule.pattern}`" for rule in info.metadata if getattr(rule, "pattern", None)]
    return ", ".join([_kind(info.annotation), *bounds])


def _number(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:,.10g}"


def _kind(annotation: object) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return " | ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(one) for one in inner if one is not types.NoneType)
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return f"list of {_kind(inner[0])}"
        return "[" + ", ".join(map(_kind, inner)) + "]"
    if origin is dict or annotation is dict:
        return f"mapping to {_kind(inner[1])}" if inner else "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    name = getattr(annotation, "__name__", str(annotation))
    return WORDS.get(name, "anything" if name in ("object", "Any") else name)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return REQUIRED
    value = info.default if info.default is not PydanticUndefined else None
    if value is None or value == () or value == {}:
        return NONE
    return _written(value)


def _written(value: object) -> str:
    """A value as YAML writes it, on one line."""
    if isinstance(value, BaseModel):
        said = {name: getattr(value, name) for name in value.model_fields_set}
        return "{" + ", ".join(f"{name}: {_written(one)}" for name, one in said.items()) + "}" if said else ITS_OWN
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, str) and (not value or value.strip() != value):
        return json.dumps(value)
    return str(value)


def functions() -> dict[str, str]:
    """The Python API: each name that `remora` offers, with its signature."""
    return {name: str(inspect.signature(getattr(remora, name))) for name in remora.__all__}


def returned() -> tuple[type, ...]:
    """The classes of what the functions return."""
    from remora.commands.evaluate import Evaluation
    from remora.evaluation.report import Report
    from remora.inference.loaded import LoadedModel
    from remora.pipeline.origin.explanation import Explanation
    from remora.pipeline.promotion import Promotion
    from remora.pipeline.search.search import Result
    from remora.pipeline.variant import Outcome
    from remora.planning import Plan

    return (Evaluation, Explanation, LoadedModel, Outcome, Plan, Promotion, Report, Result)


def classes() -> dict[str, list[str]]:
    """Public names of each of these classes, with their signatures or types."""
    return {cls.__name__: _members(cls) for cls in returned()}


def _members(cls: type) -> list[str]:
    found = [f"{name}: {kind}" for name, kind in inspect.get_annotations(cls).items() if not name.startswith("_")]
    for name, value in vars(cls).items():
        if name.startswith("_"):
            continue
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if inspect.isfunction(function):
            found.append(f"{name}{inspect.signature(function)}")
        elif isinstance(value, property):
            found.append(name)
    return sorted(found)
