"""Relative paths in a spec: made absolute once, when its file is read, so that every process finds the same files.

A path is looked up beside the spec first, then in the working folder. If it is in neither, it is taken as beside the
spec.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

MAGIC = "*?[{"
"""Glob characters in file names (docs/data.md)."""
YAMLS = (".yaml", ".yml")


def located(raw: object, folder: Path) -> object:
    """The content of a YAML file in `folder` with every relative path made absolute: datasets, pictures, recipe files
    and benchmark files. Anything that is not a spec is returned as is."""
    if not isinstance(raw, dict):
        return raw
    found = dict(raw)
    if "recipe" in raw:
        found["recipe"] = _each(raw["recipe"], lambda v: _yaml(v, folder))
    if "benchmarks" in raw:
        found["benchmarks"] = _each(raw["benchmarks"], lambda v: _yaml(v, folder))
    if isinstance(champion := raw.get("champion"), dict) and "benchmark" in champion:
        found["champion"] = champion | {"benchmark": _yaml(champion["benchmark"], folder)}
    if isinstance(overrides := raw.get("overrides"), dict):
        found["overrides"] = {name: _stage(stage, folder) for name, stage in overrides.items()}
    if isinstance(axes := raw.get("axes"), dict):
        found["axes"] = {name: _axis(name, axis, folder) for name, axis in axes.items()}
    if isinstance(cases := raw.get("cases"), list):
        found["cases"] = [located(case, folder) for case in cases]
    if "smoke" in raw:
        found["smoke"] = located(raw["smoke"], folder)
    if "stages" in raw:
        found["stages"] = _each(raw["stages"], lambda stage: _stage(stage, folder))
    if isinstance(given := raw.get("embeddings"), dict):
        found["embeddings"] = given | {
            k: placed(v, folder) for k in ("images", "texts") if isinstance(v := given.get(k), str)
        }
    if "source" in raw:
        found["source"] = _entry(raw["source"], folder)
    return found


def placed(text: str, folder: Path) -> str:
    """`text` as an absolute path: below `folder`, or below the working folder if it exists only there. URLs stay."""
    if not text or "://" in text or text.startswith("~") or Path(text).is_absolute():
        return text
    here = next((base for base in (folder, Path.cwd()) if _is_there(base, text)), folder)
    return str(here.absolute() / text)


def _is_there(base: Path, text: str) -> bool:
    """Whether a path, or any file that matches a pattern, exists below `base`."""
    at = next((i for i, c in enumerate(text) if c in MAGIC), None)
    try:
        if at is None:
            return (base / text).exists()
        where, _, start = text[:at].rpartition("/")
        return any(p.name.startswith(start) for p in (base / where).iterdir())
    except (OSError, ValueError):  # not a valid file name
        return False


def _each(value: object, change: Callable[[object], object]) -> object:
    return [change(v) for v in value] if isinstance(value, list) else change(value)


def _yaml(value: object, folder: Path) -> object:
    return placed(value, folder) if isinstance(value, str) and value.endswith(YAMLS) else value


def _stage(stage: object, folder: Path) -> object:
    """A stage, or how one is validated, which reads a mixture and a benchmark too."""
    if not isinstance(stage, dict):
        return stage
    found = dict(stage)
    if "mixture" in stage:
        found["mixture"] = _mixture(stage["mixture"], folder)
    if "validate" in stage:
        found["validate"] = _stage(stage["validate"], folder)
    if isinstance(asked := stage.get("benchmark"), dict) and "name" in asked:
        found["benchmark"] = asked | {"name": _yaml(asked["name"], folder)}
    return found


def _axis(name: str, axis: object, folder: Path) -> object:
    """An axis of a space; its values may be mixtures, or set one."""
    if isinstance(axis, dict) and "values" in axis:
        return axis | {"values": _axis(name, axis["values"], folder)}
    if _is_mixture(name):
        if isinstance(axis, dict):
            return {label: _mixture(value, folder) for label, value in axis.items()}
        return [_mixture(value, folder) for value in axis] if isinstance(axis, list) else axis
    if isinstance(axis, dict):  # labels with the keys that they set
        return {
            label: {k: _mixture(v, folder) if _is_mixture(k) else v for k, v in keys.items()}
            if isinstance(keys, dict)
            else keys
            for label, keys in axis.items()
        }
    return axis


def _is_mixture(key: str) -> bool:
    return key.rpartition(".")[2] == "mixture"


def _mixture(value: object, folder: Path) -> object:
    return _each(value, lambda entry: _entry(entry, folder))


def _entry(entry: object, folder: Path) -> object:
    if not isinstance(entry, dict):
        return entry
    return entry | {k: placed(v, folder) for k in ("path", "images") if isinstance(v := entry.get(k), str)}
