"""A space's variants: enumerate them, build the variant of an assignment, and say which make no model and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from remora import catalog
from remora.errors import SpecError, UnknownName
from remora.runs.choosing import Misfit, composed, no_stage, settled
from remora.runs.graph import Written, check_names, check_overrides, recipe_stages, resolve_stages, variant_name
from remora.runs.rungs import check_rule
from remora.runs.tuning_check import check_stages
from remora.spec import Space, Stage, Variant, load_job
from remora.spec.axes import stage_key
from remora.spec.search_blocks import MOST_VARIANTS
from remora.spec.settings import Setting, of_stages, settings_of, validated


@dataclass(frozen=True)
class Survey:
    """The variants of a spec, and the combinations that do not make a model."""

    variants: tuple[Variant, ...]
    pruned: tuple[tuple[str, str], ...] = ()
    """(name, why it does not make a model)"""
    space: Space | None = None
    """None for a single variant."""


def read_variant(file: Path | str, settings: Iterable[str] = ()) -> Variant:
    """The variant of a YAML file, or the published model of that name, with its overrides checked; `settings` as in
    `read_survey`.

    Raises:
        SpecError: the file is not a variant, or is invalid; the model is an average of several.
    """
    if models := _published(file):
        if len(models) > 1:
            raise SpecError(
                f"{file} is an average of {len(models)} models, each trained on its own; next: remora render {file}"
            )
        return _set(models[0], settings_of(settings))
    said = settings_of(settings)
    variant, lines = load_job(file, "variant", settings=said)
    assert isinstance(variant, Variant)
    resolve_stages(variant, Written(str(file), lines))
    return _settled(variant, said)


def read_space(file: Path | str, smoke: bool = False, settings: Iterable[str] = ()) -> Space:
    """The space of a YAML file, with all variants checked; with `smoke`, its trial run of minutes. `settings` as in
    `read_survey`.

    Raises:
        SpecError: the file is not a space, is invalid, or has no smoke block.
    """
    space, lines = load_job(file, "space", smoke=smoke, settings=settings_of(settings))
    assert isinstance(space, Space)
    survey(space, Written(str(file), lines))
    return space


def read_survey(file: Path | str, smoke: bool = False, settings: Iterable[str] = ()) -> Survey:
    """The variants of a YAML file with a space or a single variant. Of a range, both ends are taken.

    The name of a published model (`remora catalog published`) is taken as well. `settings` are KEY=VALUEs that win over
    the file (spec/settings.py).

    Raises:
        SpecError: the file is neither, or is invalid; with `smoke`, it has no smoke block; a setting is invalid.
    """
    said = settings_of(settings)
    if not smoke and (models := _published(file)):
        return Survey(tuple(_set(model, said) for model in models))
    job, lines = load_job(file, *(("space",) if smoke else ("variant", "space")), smoke=smoke, settings=said)
    written = Written(str(file), lines)
    if isinstance(job, Space):
        return survey(job, written)
    resolve_stages(job, written)
    return Survey((_settled(job, said),))


def read_variants(file: Path | str, settings: Iterable[str] = ()) -> list[Variant]:
    """The variants of `read_survey`."""
    return list(read_survey(file, settings=settings).variants)


def _set(variant: Variant, settings: tuple[Setting, ...]) -> Variant:
    """A variant that was not read from a file, with settings."""
    raw = variant.model_dump(mode="json", exclude_unset=True)
    return _settled(validated(Variant, raw, "published model", {}, settings), settings) if settings else variant


def _settled(variant: Variant, settings: tuple[Setting, ...]) -> Variant:
    below = of_stages(Variant, settings)
    return settled(variant, {one.key: one.value for one in below}) if below else variant


def _published(name: Path | str) -> list[Variant]:
    """What to train for the published model of that name; none if there is no such model, or a file is there."""
    if Path(name).exists() or str(name) not in catalog.entries("published"):
        return []
    return [variant for variant, _ in catalog.published(str(name)).variants(str(name)).values()]


def variants_of(space: Space) -> list[Variant]:
    """Every variant of a space's grid that makes a model, the first axis slowest.

    Raises:
        SpecError: the space is invalid, two variants would have the same name, none makes a model, or an axis is a
        range.
    """
    return list(_looked_through(space, space.grid(), None).variants)


def pruned(space: Space) -> list[tuple[str, str]]:
    """The variants of a space that do not make a model, with the reason: parts or stages do not fit.

    Raises:
        SpecError: as in `variants_of`.
    """
    return list(survey(space).pruned)


def survey(space: Space, written: Written | None = None) -> Survey:
    """Check every variant of a space; of a range, both ends. `written` has the lines of its file.

    Raises:
        SpecError: as in `variants_of`, except for ranges; the message has the file's line if known.
    """
    return _looked_through(space, islice(space.corners(), MOST_VARIANTS), written)


def variant_at(space: Space, assignment: Mapping[str, object], written: Written | None = None) -> Variant:
    """The variant of an assignment, which has a value or its label for every axis that exists for it.

    Raises:
        SpecError: the space excludes it, or its parts and stages do not fit.
    """
    if why := space.excluded(assignment):
        raise SpecError(f"the space leaves it out ({why})")
    variant = composed(space, assignment, written)
    check_stages(variant, resolve_stages(variant, written))
    return variant


def _looked_through(space: Space, assignments: Iterable[Mapping[str, object]], written: Written | None) -> Survey:
    _check_overridden(space, written)
    named: list[Variant] = []
    found: list[tuple[Variant, tuple[Stage, ...]]] = []
    unfit: list[tuple[str, str]] = []
    misfits: list[Misfit] = []
    for assignment in assignments:
        try:
            variant = composed(space, assignment, written)
        except Misfit as e:
            misfits.append(e)
            unfit.append((e.name, str(e)))
            continue
        named.append(variant)
        stages = resolve_stages(variant, written)
        try:
            check_stages(variant, stages)
        except UnknownName:
            raise
        except SpecError as e:
            unfit.append((variant_name(variant), str(e)))
        else:
            found.append((variant, stages))
    check_names(named)
    for misfit in misfits:
        for axis, value in misfit.values.items():
            if not any(v.choice.get(axis) == value for v, _ in found):  # a value that fits nowhere is a mistake
                raise SpecError(f"{written.at('axes', axis)}: {misfit}" if written else str(misfit))
    if not found:
        if not unfit:
            raise SpecError(f"space {space.name} has no variant: only and exclude leave none")
        more = f" (and {len(unfit) - 1} more variants make no model)" if len(unfit) > 1 else ""
        raise SpecError(f"{unfit[0][1]}{more}")
    check_rule(space.rule, found, space.champion.benchmark, written)
    return Survey(tuple(v for v, _ in found), tuple(unfit), space)


def _check_overridden(space: Space, written: Written | None) -> None:
    """Check that overrides name stages of a recipe of the space."""
    any_variant = {k: getattr(space, k)[0] for k in ("vision", "connector")}
    stages = [recipe_stages(Variant(**any_variant, recipe=r, llm=m)) for r in space.recipe for m in space.llm]
    known = list(dict.fromkeys(stage.name for found in stages for stage in found))
    check_overrides(space.overrides, known, written)
    for dotted in space.settings:
        stage = stage_key(dotted).stage
        if stage is not None and stage not in known:
            raise no_stage(dotted, stage, known)
    for i, case in enumerate(space.cases):
        check_overrides(case.overrides, known, written, ("cases", i))
