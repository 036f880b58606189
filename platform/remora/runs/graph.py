"""A variant as a path of stage runs, and a search as the union of its variants' paths.

A stage run's identity is the digest of everything that decides its result: its parent's identity, the parts and their
sources, the resolved stage and its template, the data, the seed, the precision, and NUMERICS. The rest of the
`cluster:` block is left out on purpose: workers, ZeRO stage and micro batches do not change the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remora import catalog
from remora.data.mixture import Readable, fingerprint, read_mixture, with_known
from remora.errors import SpecError, nearest
from remora.files import digest
from remora.model.refs import source_digest
from remora.runs.tuning_check import check_stages
from remora.spec import PARTS, KeyLines, MixtureEntry, Stage, Variant, validate
from remora.versions import NUMERICS

PLACE = {"dataset", "path", "images", "max_skipped"}
"""Fields of a mixture entry that locate its data; in an identity, the data's digest replaces them."""


WATCHED = {"mixture", "every", "limit", "benchmark"}
"""What of a validation changes no result of its stage."""


@dataclass(frozen=True)
class StageRun:
    """One stage of one variant: a node of the graph."""

    id: str
    stage: Stage
    parent: StageRun | None
    parts: tuple[tuple[str, str], ...]
    """(part, catalog name) of every part of the stage, in PARTS order."""
    seed: int
    datasets: tuple[Path, ...] = field(default=(), compare=False)
    """The indexes that it reads; their content is part of the identity."""
    others: tuple[Path, ...] = field(default=(), compare=False)
    """The indexes of its validation mixture, if it has one."""

    @property
    def name(self) -> str:
        """Folder and display name: the stage and the start of its identity."""
        return f"{self.stage.name}-{self.id[:12]}"

    @property
    def lineage(self) -> tuple[StageRun, ...]:
        """From the first stage run to this one."""
        return (*(self.parent.lineage if self.parent else ()), self)


def variant_name(variant: Variant) -> str:
    """The variant's name; default: recipe-vision-llm-connector in the catalog's short names (share-Sig-Phi-mlp)."""
    return variant.name or "-".join(
        (
            _recipe_name(variant.recipe),
            catalog.vision(variant.vision).short,
            catalog.llm(variant.llm).short,
            catalog.connector(variant.connector).short,
        )
    )


def _recipe_name(recipe: str) -> str:
    """A catalog recipe's name (llava-1.5-lora), or the name of a recipe file without folder and suffix."""
    return Path(recipe).stem if recipe.endswith((".yaml", ".yml")) else recipe


def recipe_stages(variant: Variant) -> list[Stage]:
    """The stage that trains the variant's language model from scratch, if any, then the recipe's stages."""
    own = catalog.llm(variant.llm).stage
    return ([own] if own else []) + list(catalog.recipe(variant.recipe).stages)


@dataclass(frozen=True)
class Written:
    """The file of a spec, so that errors can name a line."""

    file: str
    lines: KeyLines

    def at(self, *keys: str | int) -> str:
        line = self.lines.get(keys)
        return f"{self.file}:{line}" if line else self.file


def check_overrides(
    overrides: Iterable[str], known: Sequence[str], written: Written | None, within: tuple[str | int, ...] = ()
) -> None:
    """Check that every override is for an existing stage; `within` is their path in the file.

    Raises:
        SpecError: one is not.
    """
    for name in overrides:
        if name not in known:
            where = f"{written.at(*within, 'overrides', name)}: " if written else ""
            raise SpecError(f"{where}overrides: no stage {name!r}{nearest(name, known)}; there are: {', '.join(known)}")


def resolve_stages(variant: Variant, written: Written | None = None) -> tuple[Stage, ...]:
    """The variant's stages in order, with its overrides applied; `written` has their lines.

    Raises:
        SpecError: an override names an unknown stage, or is invalid.
    """
    stages = recipe_stages(variant)
    check_overrides(variant.overrides, [s.name for s in stages], written)
    found = (overridden(s, variant.overrides.get(s.name, {}), written) for s in stages)
    return tuple(map(_with_known, found))


def _with_known(stage: Stage) -> Stage:
    known = stage.model_copy(update={"mixture": tuple(map(with_known, stage.mixture))})
    if stage.validation is None:
        return known
    others = tuple(map(with_known, stage.validation.mixture))
    return known.model_copy(update={"validation": stage.validation.model_copy(update={"mixture": others})})


def check_names(variants: Iterable[Variant]) -> None:
    """Refuse equal names: plans, tables, bundles and MLflow identify variants by name only."""
    known: dict[str, Variant] = {}
    for variant in variants:
        name = variant_name(variant)
        if (twin := known.setdefault(name, variant)) is not variant:
            pairs = ((key, getattr(twin, key), getattr(variant, key)) for key in ("recipe", *PARTS, "choice"))
            differ = [f"{key} {one} and {other}" for key, one, other in pairs if one != other]
            raise SpecError(
                f"two variants share a name: {name}: {', '.join(differ) or 'one choice is listed twice'}; "
                "give them different names (the recipe's file, or your entry's short name), or run them separately"
            )


def overridden(
    stage: Stage, changes: dict[str, object], written: Written | None, within: tuple[str | int, ...] = ()
) -> Stage:
    """A recipe's stage with a spec's overrides; `within` is their path in the file.

    Raises:
        SpecError: the result is invalid.
    """
    if not changes:
        return stage
    merged = stage.model_dump(mode="json", exclude_none=True)
    # epochs and steps exclude each other: setting one removes the other
    if "steps" in changes:
        merged.pop("epochs", None)
    if "epochs" in changes:
        merged.pop("steps", None)
    merged |= {k: v for k, v in changes.items() if k not in ("tune", "validate")}
    tune = changes.get("tune", {})
    merged["tune"] = merged["tune"] | tune if isinstance(tune, dict) else tune
    if "validate" in changes:
        merged["validate"] = _validated_by(merged.get("validate") or {}, changes["validate"])
    if written is None:
        return validate(Stage, merged, f"overrides: {stage.name}")
    return validate(Stage, merged, written.file, written.lines, (*within, "overrides", stage.name))


def _validated_by(before: dict[str, object], changes: object) -> object:
    """As with epochs and steps, a mixture takes the place of a share and the other way round."""
    if not isinstance(changes, dict):
        return changes
    kept = dict(before)
    if {"share", "mixture"} & changes.keys():
        kept = {k: v for k, v in before.items() if k not in ("share", "mixture")}
    return kept | changes


def checked_stages(variant: Variant) -> tuple[Stage, ...]:
    """The variant's stages, after checking that parts, benchmarks, templates and tunings fit. Reads no data.

    Raises:
        UnknownName: a part, recipe, template or benchmark does not exist.
        SpecError: they do not fit.
    """
    stages = resolve_stages(variant)
    check_stages(variant, stages)
    return stages


Mixture = tuple[MixtureEntry, ...]
MixtureReader = Callable[[Mixture, Path], Sequence[Readable]]
"""Finds the datasets of a mixture; `read_mixture` opens their indexes, and builds them if necessary."""
Opened = dict[Mixture, Sequence[Readable]]
"""Mixtures with their datasets."""


def paths(
    variants: Iterable[Variant], data: Path, read: MixtureReader = read_mixture
) -> dict[str, tuple[StageRun, ...]]:
    """Every variant's stage runs, by the variant's name; shared mixtures are opened once. See `path`.

    Raises:
        SpecError: two variants share a name.
    """
    variants = list(variants)
    check_names(variants)
    opened: Opened = {}
    return {variant_name(v): path(v, data, opened, read) for v in variants}


def path(
    variant: Variant, data: Path, opened: Opened | None = None, read: MixtureReader = read_mixture
) -> tuple[StageRun, ...]:
    """The variant's stage runs, in order. Indexes its data if necessary; `opened` caches mixtures.

    Raises:
        UnknownName: a part, recipe, template or dataset is not in the catalog.
        DataError: a dataset or picture is missing or unreadable.
    """
    stages = checked_stages(variant)  # report misfits before gigabytes of data are read
    names = {part: getattr(variant, part) for part in PARTS}
    run: StageRun | None = None
    opened = {} if opened is None else opened
    for stage in stages:
        other = stage.validation.mixture if stage.validation else ()
        for mixture in (stage.mixture, other):
            if mixture not in opened:
                opened[mixture] = read(mixture, data)
        datasets = opened[stage.mixture]
        present = stage.tune.present
        # These keys were added later, so they are part of the identity only if they act: existing identities stay.
        place: dict[str, Any] = {"mixture": {"__all__": PLACE}} | ({} if stage.past_context else {"past_context": True})
        place["validation"] = True if stage.validation is None or other else WATCHED
        identity = {
            "numerics": NUMERICS,
            "parent": run.id if run else None,
            "parts": {p: [names[p], source_digest(p, names[p])] for p in present},
            "stage": stage.model_dump(mode="json", exclude=place),
            "template": catalog.template(stage.template).model_dump(mode="json", exclude={"source"}),
            "data": fingerprint(stage.mixture, datasets),
            "seed": variant.seed,
            "precision": variant.cluster.precision,
        }
        parts = tuple((p, names[p]) for p in present)
        folders, others = (tuple(d.folder for d in opened[mixture]) for mixture in (stage.mixture, other))
        run = StageRun(digest(identity), stage, run, parts, variant.seed, folders, others)
    assert run is not None
    return run.lineage


def union(paths: Iterable[Sequence[StageRun]]) -> dict[str, StageRun]:
    """Every stage run that a search needs, once, parents first."""
    return {run.id: run for p in paths for run in p}
