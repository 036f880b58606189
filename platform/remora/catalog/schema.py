"""JSON schemas of the files that users write, made of their readers, for completion and checks in an editor.

A schema knows keys, types, bounds and short forms, and offers the catalog's names. Rules that join several keys are the
reader's own: a file that a schema accepts may still be refused by `remora render`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from remora.catalog import KINDS, PAPERS, OwnBenchmark, entries
from remora.spec import Condensation, Recipe, Space, Stage, Variant
from remora.spec.base import Spec, models_in
from remora.spec.doc_lines import meaning

Schema = dict[str, object]
DRAFT = "https://json-schema.org/draft/2020-12/schema"

FILES: Mapping[str, type[Spec]] = {
    "variant": Variant,
    "space": Space,
    "recipe": Recipe,
    "condensation": Condensation,
    "benchmark": OwnBenchmark,
}
"""Kind of a file -> its model."""
CATALOG: Mapping[str, type[Spec]] = {kind: model for kind, model in KINDS.items() if kind != "recipes"}
"""Files of a catalog folder: entries by name."""

NAMES: Mapping[tuple[str, str], str] = {
    **{(model, part): part for model in ("Variant", "Space") for part in ("vision", "llm")},
    **{(model, "connector"): "connectors" for model in ("Variant", "Space")},
    **{(model, "recipe"): "recipes" for model in ("Variant", "Space")},
    **{(model, "benchmarks"): "benchmarks" for model in ("Variant", "Space")},
    ("Champion", "benchmark"): "benchmarks",
    ("BenchmarkSample", "name"): "benchmarks",
    ("Stage", "template"): "templates",
    ("MixtureEntry", "dataset"): "datasets",
}
"""(model, key) whose value, or each of whose values, is most often a name of the catalog, and its kind."""
CHANGES = "StageChanges"
"""The definition of a stage's keys where each may be left out."""


def schema_of(kind: str) -> Schema:
    """The schema of a kind of file: one of FILES, or of CATALOG."""
    if kind in FILES:
        model = FILES[kind]
        definitions = _definitions(model)
        whole = definitions.pop(model.__name__)
        assert isinstance(whole, dict)
    else:
        model = CATALOG[kind]
        definitions = _definitions(model)
        whole = {"type": "object", "additionalProperties": _ref(model.__name__)}
    return {"$schema": DRAFT, "title": f"Remora: {kind}", **whole, "$defs": definitions}


def schema_of_model(model: type[BaseModel]) -> Schema:
    """The schema of one model: as of `schema_of`, for a file of another room."""
    return {**_ref(model.__name__), "$defs": _definitions(model)}


def modeline(schema: str) -> str:
    """The first line of a YAML file by which editors find its schema: a path or URL."""
    return f"# yaml-language-server: $schema={schema}"


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _definitions(model: type[BaseModel]) -> dict[str, object]:
    """The schema of every model that `model` names, by class name."""
    models = _all_of(model)
    if any("overrides" in found.model_fields for found in models):
        models += [found for found in _all_of(Stage) if found not in models]
    _, made = models_json_schema([(found, "validation") for found in models], by_alias=True)
    definitions: dict[str, object] = made["$defs"]
    for found in models:
        schema = definitions[found.__name__]
        assert isinstance(schema, dict)
        definitions[found.__name__] = _described(found, schema)
    stage = definitions.get("Stage")
    if isinstance(stage, dict):
        keys = {key: value for key, value in stage["properties"].items() if key != "name"}
        definitions[CHANGES] = {"type": "object", "properties": keys, "additionalProperties": False}
    for found in models:
        if issubclass(found, Spec) and (forms := found.short_forms()):
            definitions[found.__name__] = {"anyOf": [*forms, definitions[found.__name__]]}
    return definitions


def _all_of(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and all that its keys name, each once."""
    found = [model]
    for one in found:
        for info in one.model_fields.values():
            found += [inner for inner in models_in(info.annotation) if inner not in found]
    return found


def _described(model: type[BaseModel], schema: Schema) -> Schema:
    """With what each key means, the catalog's names, and without what says nothing to a reader."""
    keys = schema.get("properties", {})
    assert isinstance(keys, dict)
    described: dict[str, Schema] = {}
    for name, info in model.model_fields.items():
        key = info.alias or name
        said = {k: v for k, v in keys[key].items() if k != "title" and not (k == "default" and isinstance(v, dict))}
        if key == "overrides":
            said |= {"type": "object", "additionalProperties": _ref(CHANGES)}
        if kind := NAMES.get((model.__name__, key)):
            said = _offering(said, _names(kind))
        if about := meaning(model, name, info):
            said["description"] = " ".join(about.split())
        described[key] = said
    if "smoke" in described:
        others = {k: {"anyOf": [v, {"type": "null"}]} for k, v in described.items() if k not in ("name", "smoke")}
        smoke = {"type": "object", "properties": others, "additionalProperties": False}
        described["smoke"] = smoke | {"description": described["smoke"]["description"]}
    plain = {k: v for k, v in schema.items() if k != "title"}
    about_it = {"description": " ".join((model.__doc__ or "").split())}
    return plain | about_it | {"properties": described}


def _names(kind: str) -> list[str]:
    return [*(PAPERS if kind == "benchmarks" else ()), *entries(kind)]


def _offering(schema: Schema, names: Sequence[str]) -> Schema:
    """Text that an editor completes to one of `names`; any other text is accepted, too."""
    one: Schema = {"anyOf": [{"enum": list(names)}, {"type": "string"}]}
    if schema.get("type") == "array":
        return {**schema, "items": one}
    kept = {k: v for k, v in schema.items() if k not in ("type", "anyOf")}
    nullable = schema.get("anyOf")
    return {**kept, **({"anyOf": [*_parts(one), {"type": "null"}]} if nullable else one)}


def _parts(schema: Schema) -> list[object]:
    parts = schema["anyOf"]
    assert isinstance(parts, list)
    return parts
