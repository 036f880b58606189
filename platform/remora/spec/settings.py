"""`--set KEY=VALUE`: keys of a spec that a command line changes, typed and checked as in the file.

KEY is a key of the file (`cluster.workers`, `axes.finetune.lr`), of a stage (`finetune.lr`), or of every stage of the
recipe (`lr`). VALUE is YAML. A relative path in it is looked up in the working folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from remora.errors import SpecError, nearest
from remora.spec.axes import Key, changes, stage_key
from remora.spec.base import S, keys_of, models_in, validate
from remora.spec.paths import located
from remora.spec.recipe import Stage
from remora.spec.space import Space
from remora.spec.strict_yaml import KeyLines, parse_yaml
from remora.spec.variant import CHOSEN, Job

OWN = ("choice", "settings")
"""Keys of a job that other keys decide."""


@dataclass(frozen=True)
class Setting:
    """One `--set`."""

    key: str
    value: object
    written: str

    @property
    def about(self) -> str:
        """What errors about it begin with."""
        return f"--set {self.written}"


def settings_of(written: Iterable[str]) -> tuple[Setting, ...]:
    """Parse `KEY=VALUE`s.

    Raises:
        SpecError: one has no key or no `=`, or its value is not YAML.
    """
    found = []
    for text in written:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise SpecError(f"--set {text}: write KEY=VALUE, as in --set finetune.lr=1e-4")
        found.append(Setting(key.strip().removeprefix("overrides."), parse_yaml(value, f"--set {text}")[0], text))
    return tuple(found)


def of_stages(model: type[BaseModel], settings: Iterable[Setting]) -> tuple[Setting, ...]:
    """Those of keys of stages, paths in their values made absolute.

    Raises:
        SpecError: neither the model nor a stage has such a key.
    """
    return tuple(_placed_in_stage(one) for one in settings if not _of_file(model, one))


def validated(
    model: type[S], raw: object, name: str, lines: KeyLines, settings: Iterable[Setting], at: tuple[str | int, ...] = ()
) -> S:
    """`raw` with the settings of the file's own keys, as a `model`; a space keeps those of stages in `settings`.

    Raises:
        SpecError: the file is invalid, or becomes so by a setting.
    """
    settings = tuple(settings)
    if not settings or not isinstance(raw, dict):
        return validate(model, raw, name, lines, at)
    changed: dict[str, object] = dict(raw)
    for one in settings:
        if path := _of_file(model, one):
            value = one.value
            if (path, value) == (("cluster",), "auto"):
                value = _chosen_anew(changed.get("cluster"))
            changed = _put(changed, path, _placed(path, value))
    below = of_stages(model, settings)
    if below and issubclass(model, Space):
        changed["settings"] = {one.key: one.value for one in below}
    try:
        found = validate(model, changed, name, lines, at)
    except SpecError:
        validate(model, raw, name, lines, at)  # a mistake of the file has its line
        validate(model, changed, " ".join(one.about for one in settings))
        raise
    if isinstance(found, Space):
        _check_axes(found, below)
    return found


def _chosen_anew(cluster: object) -> dict[str, object]:
    """A cluster block whose keys that `auto` chooses are left to it; the others, such as `precision`, stay."""
    said = cluster if isinstance(cluster, dict) else {}
    return {"auto": True, **{key: value for key, value in said.items() if key not in (*CHOSEN, "auto")}}


def _of_file(model: type[BaseModel], setting: Setting) -> tuple[str, ...]:
    """The path of a setting in the file; empty if its key is one of stages."""
    first, *rest = setting.key.split(".")
    known = {k: v for k, v in keys_of(model).items() if k not in OWN}
    if first not in known:
        _check_stage_key(model, setting, list(known))
        return ()
    if (first, model) == ("axes", Space) and rest:
        return first, ".".join(rest)
    path, fields = [first], known[first]
    for part in rest:
        inner = next(iter(models_in(fields)), None)
        if inner is None or part not in keys_of(inner):
            there = f"{nearest(part, keys_of(inner))} (known: {', '.join(keys_of(inner))})" if inner else ""
            raise SpecError(f"{setting.about}: {'.'.join(path)} has no key {part!r}{there}")
        path.append(part)
        fields = keys_of(inner)[part]
    return tuple(path)


def _check_stage_key(model: type[BaseModel], setting: Setting, known: list[str]) -> None:
    about, first = setting.about, setting.key.partition(".")[0]
    if not issubclass(model, Job):
        raise SpecError(f"{about}: no key {first!r}{nearest(first, known)} (known: {', '.join(known)})")
    try:
        stage_key(setting.key)
    except ValueError as e:
        stage = [k for k in keys_of(Stage) if k != "name"]
        if isinstance(setting.value, dict) and setting.value and "." not in setting.key:
            inner = next(iter(setting.value))
            raise SpecError(f"{about}: keys of a stage are set one by one: --set {first}.{inner}=…") from None
        if "." not in setting.key:
            hint = nearest(first, [*known, *stage])
            raise SpecError(
                f"{about}: no key {first!r}{hint} (of the file: {', '.join(known)}; of its stages: {', '.join(stage)})"
            ) from None
        if hint := nearest(first, known):
            raise SpecError(f"{about}: no key {first!r}{hint} (known: {', '.join(known)})") from None
        raise SpecError(f"{about}: {e}") from None


def _put(tree: dict[str, object], path: tuple[str, ...], value: object) -> dict[str, object]:
    key, *below = path
    if not below:
        return tree | {key: value}
    inner = tree.get(key)
    return tree | {key: _put(inner if isinstance(inner, dict) else {}, tuple(below), value)}


def _placed(path: tuple[str, ...], value: object) -> object:
    """A value with its relative paths made absolute, from the working folder."""
    found = located(_put({}, path, value), Path.cwd())
    for key in path:
        assert isinstance(found, dict)
        found = found[key]
    return found


def _placed_in_stage(setting: Setting) -> Setting:
    path = stage_key(setting.key).path
    return Setting(setting.key, _placed(("stages", *path), setting.value), setting.written)


def _check_axes(space: Space, settings: Iterable[Setting]) -> None:
    """A key that an axis varies cannot be set as well: it would be without effect.

    Raises:
        SpecError: one is.
    """
    for one in settings:
        key = stage_key(one.key)
        for name, axis in space.axes.items():
            varied = {k for value in (axis.values or {"": 0}).values() for k in changes(name, value)}
            if any(_overlap(key, stage_key(other)) for other in varied):
                raise SpecError(
                    f"{one.about}: axis {name} of the space varies it; set the axis: --set 'axes.{name}=[…]'"
                )


def _overlap(one: Key, other: Key) -> bool:
    length = min(len(one.path), len(other.path))
    same_stage = one.stage is None or other.stage is None or one.stage == other.stage
    return same_stage and one.path[:length] == other.path[:length]
