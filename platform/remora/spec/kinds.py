"""Which kind of spec a file is, by its keys, so that the wrong kind gives one error and not a list of unknown keys."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from remora.errors import SpecError
from remora.spec.base import S
from remora.spec.paths import located
from remora.spec.settings import Setting, validated
from remora.spec.space import Space, smoked
from remora.spec.strict_yaml import KeyLines, read_yaml
from remora.spec.tuning import PARTS
from remora.spec.variant import Variant

NEXT = {
    "variant": "remora train {file}",
    "space": "remora search {file}",
    "recipe": "name it as the recipe of a variant (recipe: {file}), then remora train that",
    "condensation": "remora data condense {file}",
    "benchmark": "name it in the benchmarks of a variant (benchmarks: [{file}])",
}
"""The next command for each kind."""


def kind_of(raw: object) -> str | None:
    """variant, space, recipe, condensation or benchmark, by the keys that only it has; None if unclear."""
    if not isinstance(raw, dict):
        return None
    choices = [part for part in (*PARTS, "recipe") if isinstance(raw.get(part), list)]
    if raw.keys() & {"champion", "axes", "seeds"} or choices:
        return "space"
    if "stages" in raw:
        return "recipe"
    if "clusters" in raw:
        return "condensation"
    if {"questions", "metric"} <= raw.keys():
        return "benchmark"
    return "variant" if len(raw.keys() & {*PARTS, "recipe"}) > 1 else None


def read_kind(path: Path | str, *kinds: str) -> tuple[str, object, KeyLines]:
    """(kind, raw content, lines) of a file that must be one of `kinds`; the first of them if its keys do not decide.

    Raises:
        SpecError: it is of another kind; the message names the command for that kind.
    """
    raw, lines = read_yaml(path)
    found = kind_of(raw) or kinds[0]
    if found not in kinds:
        raise SpecError(f"{path} is a {found}, not a {' or a '.join(kinds)}; next: {NEXT[found].format(file=path)}")
    return found, raw, lines


def load(model: type[S], path: Path | str, settings: Iterable[Setting] = ()) -> S:
    """Read `path` as one `model`, with `settings`; its relative paths are made absolute (spec/paths.py).

    Raises:
        SpecError: one line per error (file, line, key, value, what is known), or it is another kind of spec.
    """
    kind = model.__name__.lower()
    _, raw, lines = read_kind(path, kind) if kind in NEXT else ("", *read_yaml(path))
    return validated(model, located(raw, Path(path).parent), str(path), lines, settings)


def load_job(
    path: Path | str, *kinds: str, smoke: bool = False, settings: Iterable[Setting] = ()
) -> tuple[Variant | Space, KeyLines]:
    """A variant or a space from a file, with absolute paths (spec/paths.py), and the line of every key.

    `smoke` takes a space with what its smoke block replaces. Of `settings`, a variant takes only those of the file's
    own keys (see `settings.of_stages`).

    Raises:
        SpecError: it is invalid, or not one of `kinds`.
    """
    kind, raw, lines = read_kind(path, *kinds)
    if smoke:
        raw, lines = smoked(raw, lines, str(path))
    model: type[Variant] | type[Space] = Space if kind == "space" else Variant
    return validated(model, located(raw, Path(path).parent), str(path), lines, settings), lines
