"""Published scores of models, as lines."""

from __future__ import annotations

from remora import catalog


def scores_lines() -> str:
    """Every published model, one line each with all its figures; another source's figure in brackets."""
    return "\n".join(_line(name) for name in catalog.entries("scores"))


def _line(name: str) -> str:
    entry = catalog.scores(name)
    names = " = ".join((name, *entry.also))
    more = {key: f" ({', '.join(map(str, rest))})" for key, (_, *rest) in entry.differing.items()}
    return f"{names}: " + ", ".join(f"{key} {value}{more.get(key, '')}" for key, value in entry.merged.items())
