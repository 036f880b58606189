"""Build the variant of a space's assignment, with all chosen values as overrides of its stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from remora import catalog
from remora.errors import SpecError, nearest
from remora.runs.graph import Written, overridden, recipe_stages, variant_name
from remora.spec import MixtureEntry, PartTuning, Space, Stage, Variant, validate
from remora.spec.axes import changes, short_names, stage_key
from remora.spec.space import FIXED
from remora.spec.variant import Job

LONGEST = 100
"""Maximum bytes of a variant's name, which is used for folders."""


class Misfit(SpecError):
    """A stage is invalid with a combination of axis values, each of which may fit other values."""

    def __init__(self, message: str, name: str, values: Mapping[str, object]) -> None:
        super().__init__(message)
        self.name = name
        """The variant's name."""
        self.values = values
        """Axis -> the variant's value."""


def composed(space: Space, assignment: Mapping[str, object], written: Written | None = None) -> Variant:
    """The variant of an assignment: the recipe's stages with the space's overrides, those of its cases, then its axes.

    Raises:
        SpecError: it lacks an axis, has an unknown value, names a stage that is not in the recipe, or is invalid.
    """
    domain, active = space.domain(), space.active(assignment)
    try:
        chosen = {name: domain[name].find(assignment[name]) for name in active}
    except KeyError as e:
        raise SpecError(f"the assignment has no value for {e.args[0]}; its axes: {', '.join(active)}") from None
    except ValueError as e:
        raise SpecError(f"no variant of space {space.name}: {e}") from None
    labels = {name: domain[name].label(chosen[name]) for name in active if name not in FIXED}
    shown = {k: v if isinstance(v := chosen[k], int | float | str) else label for k, label in labels.items()}
    shared = {k: getattr(space, k) for k in Job.model_fields} | {"seed": chosen.get("seed", space.seed)}
    plain = Variant(**shared | {k: chosen[k] for k in FIXED})
    name = _name(plain, labels)
    stages = _Stages(plain)
    stages.override(space.overrides, written)
    for i, case in enumerate(space.cases):
        if space.holds(case.when, chosen):
            stages.override(case.overrides, written, ("cases", i))
    stages.settle(space.settings)
    touched: dict[str, dict[str, str]] = {}
    for axis in (axis for axis in labels if axis != "seed"):
        about = f"{written.at('axes', axis)}: " if written else ""
        for dotted, value in changes(axis, chosen[axis]).items():
            for stage in stages.set(dotted, value, f"{about}axes: {dotted}"):
                touched.setdefault(stage, {})[axis] = labels[axis]
    for stage, axes in touched.items():
        try:
            stages.check(stage)
        except SpecError as e:
            said = ", ".join(f"{axis}={label}" for axis, label in axes.items())
            why = str(e).removeprefix("overrides: ")
            raise Misfit(f"axes: {said}: {why}", name, {axis: shown[axis] for axis in axes}) from None
    more = {"name": name, "choice": shown} if labels else {}
    return plain.model_copy(update={"overrides": stages.overrides, **more})


def settled(variant: Variant, settings: Mapping[str, object]) -> Variant:
    """A variant with keys of stages set by their dotted names, which win over its overrides.

    Raises:
        SpecError: it has no such stage, or a stage becomes invalid.
    """
    stages = _Stages(variant)
    for dotted in settings:
        stage = stage_key(dotted).stage
        if stage is not None and stage not in stages.stages:
            raise no_stage(dotted, stage, stages.stages)
    stages.override(variant.overrides, None)
    stages.settle(settings)
    return variant.model_copy(update={"overrides": stages.overrides})


def no_stage(dotted: str, stage: str, known: Iterable[str]) -> SpecError:
    """The error about a setting of a stage that there is not."""
    known = list(known)
    return SpecError(f"--set {dotted}: no stage {stage!r}{nearest(stage, known)}; there are: {', '.join(known)}")


def _name(variant: Variant, labels: Mapping[str, str]) -> str:
    """recipe-vision-llm-connector, then what the axes add: base-C-TL-mlp-lr=1e-4-s1."""
    short = short_names([name for name in labels if name != "seed"])
    added = (f"s{label}" if name == "seed" else f"{short[name]}={label}" for name, label in labels.items())
    name = "-".join((variant_name(variant), *added))
    if len(name.encode()) > LONGEST:
        raise SpecError(f"variant name {name} has more than {LONGEST} bytes; give the values of axes shorter labels")
    return name


class _Stages:
    """A variant's stages as written, and the overrides collected for them."""

    def __init__(self, variant: Variant) -> None:
        self.recipe = variant.recipe
        self.stages = {stage.name: stage for stage in recipe_stages(variant)}
        self.own = [stage.name for stage in catalog.recipe(variant.recipe).stages]
        self.overrides: dict[str, dict[str, object]] = {}

    def override(
        self, layer: Mapping[str, dict[str, object]], written: Written | None, within: tuple[str | int, ...] = ()
    ) -> None:
        """Add the overrides of stages that exist."""
        for name, keys in layer.items():
            if name in self.stages:
                self.overrides[name] = _joined(self.overrides.get(name, {}), keys)
                overridden(self.stages[name], self.overrides[name], written, within)

    def set(self, dotted: str, value: object, about: str) -> list[str]:
        """Set one key of a stage, or of every stage of the recipe; returns the changed stages."""
        key = stage_key(dotted)
        if key.stage is not None and key.stage not in self.stages:
            raise SpecError(
                f"{about}: recipe {self.recipe!r} has no stage {key.stage!r} (it has {', '.join(self.own)}); "
                "say for which recipes the axis is there: {values: […], when: {recipe: …}}"
            )
        names = [key.stage] if key.stage is not None else self.own
        for name in names:
            before = self.overrides.get(name, {})
            self.overrides[name] = _joined(before, _change(self.stages[name], before, key.path, value, about))
        return names

    def settle(self, settings: Mapping[str, object]) -> None:
        """Set keys by their dotted names, of stages that exist."""
        for dotted, value in settings.items():
            stage = stage_key(dotted).stage
            if stage is None or stage in self.stages:
                for name in self.set(dotted, value, f"--set {dotted}"):
                    try:
                        self.check(name)
                    except SpecError as e:
                        raise SpecError(f"--set {dotted}: {str(e).removeprefix('overrides: ')}") from None

    def check(self, name: str) -> None:
        """Check that a stage is valid with its overrides."""
        overridden(self.stages[name], self.overrides[name], None)


def _joined(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """Merge two overrides of a stage; if both have a key, the second wins."""
    length = {"epochs", "steps"} if {"epochs", "steps"} & above.keys() else set()
    found = {k: v for k, v in below.items() if k not in length} | dict(above)
    one, other = below.get("tune"), above.get("tune")
    if isinstance(one, dict) and isinstance(other, dict):
        found["tune"] = one | other
    return found


def _change(
    stage: Stage, overrides: Mapping[str, Any], path: tuple[str, ...], value: object, about: str
) -> dict[str, object]:
    """The override that sets one key of a stage, nested or not, and leaves the rest unchanged."""
    top, *below = path
    if not below:
        return {top: value}
    recipe = stage.model_dump(mode="json", exclude_none=True)
    if top == "tune":
        part, *below = below
        tune = overrides.get("tune", {})
        now = (recipe["tune"] | (tune if isinstance(tune, dict) else {}))[part]
        return {
            "tune": {part: _put(_whole(PartTuning, now, f"{about}: {stage.name}"), below, value) if below else value}
        }
    now = overrides.get(top, recipe.get(top))
    if top == "mixture":
        name, key = below
        entries = [_whole(MixtureEntry, entry, f"{about}: {stage.name}") for entry in now or ()]
        return {"mixture": _mixed(entries, name, key, value, about)}
    return {top: _put(now, below, value)}


def _whole(model: type[PartTuning] | type[MixtureEntry], written: object, about: str) -> dict[str, object]:
    """A short form with all of its keys written out."""
    raw = model.model_validate(written) if isinstance(written, str) else validate(model, written, about)
    return raw.model_dump(mode="json", exclude_none=True)


def _put(written: object, path: list[str], value: object) -> dict[str, object]:
    """`written` with the key at `path` set; values without keys are replaced."""
    tree = written if isinstance(written, dict) else {}
    key, *below = path
    taken = {"mode", "blocks"} if key in ("last", "from") else set()  # they replace a mode
    kept = {k: v for k, v in tree.items() if k not in taken}
    return kept | {key: _put(tree.get(key, {}), below, value) if below else value}


def _mixed(entries: list[dict[str, object]], name: str, key: str, value: object, about: str) -> list[dict[str, object]]:
    """A mixture with one key of the entry `name` set; an entry of weight 0 is removed."""
    names = [str(entry.get("dataset") or Path(str(entry["path"])).stem) for entry in entries]
    if name not in names:
        raise SpecError(f"{about}: no dataset {name!r} in the mixture{nearest(name, names)}; it has {', '.join(names)}")
    found = [entry | {key: value} if known == name else entry for known, entry in zip(names, entries, strict=True)]
    return [entry for entry in found if (key, entry.get("weight")) != ("weight", 0)]
