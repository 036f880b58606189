"""What is known: facts in YAML beside this file, one getter a kind. Reads no network."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from remora.catalog.entries import LLM, Benchmark, Connector, Dataset, Template, Vision
from remora.errors import UnknownName, nearest
from remora.spec import Recipe, Spec, load, read_yaml, validate

HERE = Path(__file__).parent
E = TypeVar("E", bound=Spec)

KINDS: dict[str, type[Spec]] = {
    "vision": Vision,
    "llm": LLM,
    "connectors": Connector,
    "templates": Template,
    "datasets": Dataset,
    "benchmarks": Benchmark,
    "recipes": Recipe,
}


@cache
def entries(kind: str) -> dict[str, Spec]:
    """Every entry of a kind, by name.

    Raises:
        UnknownName: no such kind.
        SpecError: an entry breaks a rule.
    """
    if kind not in KINDS:
        raise UnknownName(f"no catalog kind {kind!r}{nearest(kind, KINDS)}; known: {', '.join(KINDS)}")
    if kind == "recipes":
        return {p.stem: load(Recipe, p) for p in sorted((HERE / "recipes").glob("*.yaml"))}
    path = HERE / f"{kind}.yaml"
    raw, lines = read_yaml(path)
    return {
        name: validate(KINDS[kind], entry, f"{path.name}: {name}", {k[1:]: n for k, n in lines.items() if k[0] == name})
        for name, entry in raw.items()
    }


def _getter(kind: str, label: str, model: type[E]) -> Callable[[str], E]:
    def get(name: str) -> E:
        known = entries(kind)
        if name not in known:
            raise UnknownName(
                f"unknown {label} {name!r}{nearest(name, known)}; known: {', '.join(known)}; see: remora catalog {kind}"
            )
        return known[name]  # type: ignore[return-value]

    get.__doc__ = f"The {label} of that name; UnknownName lists those there are."
    return get


vision = _getter("vision", "vision encoder", Vision)
llm = _getter("llm", "llm", LLM)
connector = _getter("connectors", "connector", Connector)
template = _getter("templates", "template", Template)
dataset = _getter("datasets", "dataset", Dataset)
benchmark = _getter("benchmarks", "benchmark", Benchmark)
_shipped_recipe = _getter("recipes", "recipe", Recipe)


def recipe(name: str) -> Recipe:
    """The recipe of that name, or the one in the YAML file that `name` is the path of."""
    return load(Recipe, name) if name.endswith((".yaml", ".yml")) else _shipped_recipe(name)


__all__ = [
    "KINDS",
    "LLM",
    "Benchmark",
    "Connector",
    "Dataset",
    "Template",
    "Vision",
    "benchmark",
    "connector",
    "dataset",
    "entries",
    "llm",
    "recipe",
    "template",
    "vision",
]
