"""A registered alias moves to a model that is not significantly worse than the one it names; the history is kept.

`<runs>/promotions.jsonl` has a line before the alias moves, the intent, and one once it has. An intent whose process
died in between is settled by what MLflow says: a promotion, or nothing (`settle`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from remora import tracking
from remora.errors import GateError, RemoraError, SpecError
from remora.evaluation.gate import GateFigure, gate
from remora.evaluation.kept import Kept, pairs, reports_of
from remora.evaluation.report import Report
from remora.files import MANIFEST, exclusive, lines, sha256_file
from remora.files.lines import utc_now
from remora.inference.bundle import bundle_name, check_bundle, weights_digest
from remora.notebook import table
from remora.pipeline.tracked_runs import bundle_models
from remora.processes import user_name
from remora.runs.rungs import figure_name
from remora.tracking import Model, Run, Tracker

FILE, INTENT, NOTHING = "promotions.jsonl", "intent", "nothing_came_of"
ALPHA = 0.05
"""Level of the gate, unless another is given."""


@dataclass(frozen=True)
class Promotion:
    """What moved an alias."""

    at: str
    """UTC, as 2026-11-30T04:20:11Z."""
    model: str
    """The registered model."""
    alias: str
    version: str
    variant: str
    from_version: str | None
    """The version that had the alias; None where none had."""
    from_variant: str | None
    """None where its files are gone, too."""
    alpha: float
    gate: tuple[GateFigure, ...]
    """Empty where nothing was there to be held against, or nothing was measured."""
    forced: str = ""
    """Why it was promoted although the gate refused it."""
    refused: str = ""
    """What the gate said then."""
    moved: bool = True
    """False where the alias named this very model already."""
    weights: str = ""
    """Digest of the model's weights; empty in lines from before it was recorded."""
    by: str = ""
    """Who did it, and by which command."""

    def _repr_html_(self) -> str:
        """What the gate compared, in a notebook."""
        before = f", before version {self.from_version} ({self.from_variant})" if self.from_version else ""
        why = f"; forced: {self.forced}" if self.forced else "" if self.moved else "; it was before"
        title = f"{self.model}@{self.alias} is version {self.version} ({self.variant}){before}{why}"
        rows = ((g.benchmark, g.metric, g.candidate, g.incumbent, g.low, g.high, g.p, g.n) for g in self.gate)
        columns = ("benchmark", "figure", "this model", "the one before", "difference from", "to", "p", "questions")
        return table(title, columns, rows)


_PROMOTION = TypeAdapter(Promotion)


def promote(
    candidate: Model,
    given: str,
    runs: Path,
    tracker: Tracker,
    name: str = "remora",
    alias: str = "champion",
    benchmarks: Sequence[str] = (),
    alpha: float = ALPHA,
    force: str | None = None,
    key: str | None = None,
    tags: Mapping[str, str] | None = None,
    command: str = "remora promote",
) -> Promotion:
    """Move the alias to the candidate if it is not significantly worse than the model that has it.

    Both must have been measured on the same questions of each benchmark; nothing is measured here.

    Args:
        given: What the candidate was named by, for the next command.
        key: Of the run in MLflow that its version belongs to; None for one of its own.
        benchmarks: Names; by default all that the incumbent was measured on.
        tags: Of the version, beside those of its promotion.
        command: What it was promoted by.
        force: A reason to promote whatever the gate says; it is recorded.

    Raises:
        GateError: the candidate is significantly worse, or one of them was not measured on the same questions.
        TrackingError: MLflow cannot be reached or refuses, or the incumbent's files are gone.
    """
    if not 0 < alpha < 1:
        raise SpecError(f"--alpha {alpha:g} is no probability between 0 and 1; the usual one is 0.05")
    if force is not None and not force.strip():
        raise SpecError("--force needs a reason, which is recorded: --force 'fixes the crash on PNGs'")
    check_bundle(candidate.folder)
    with exclusive(runs / f".{FILE}.lock"):  # two promotions at once would each be held against the same incumbent
        _settle(runs, tracker)
        info = tracking.standing(tracker, name, alias)
        weights = weights_digest(candidate.folder)
        made = Promotion(utc_now(), name, alias, "", candidate.name, info and info["version"], None, alpha, ())
        made = replace(made, weights=weights, by=f"{user_name()}, {command}".removeprefix(", "))
        if info:
            try:
                incumbent = tracking.fetch(tracker, info, into=runs / "cache" / "champions")
                made = replace(made, from_variant=bundle_name(incumbent))
                found = _gate(runs, (given, weights), (f"{name}@{alias}", incumbent), benchmarks, alpha)
                if found is None:
                    return replace(made, version=info["version"], moved=False)
                made = replace(made, gate=found)
                _check(made, given)
            except RemoraError as e:
                if force is None:
                    raise
                made = replace(made, forced=force, refused=str(e).partition("; next: ")[0])
        lines.append(runs / FILE, [{INTENT: asdict(made)}], sync=True)
        number = _version(candidate, runs, tracker, name, alias, command, {**(tags or {}), **_tags(made)}, key)
        made = replace(made, version=number)
        lines.append(runs / FILE, [asdict(made)], sync=True)
        return made


def check(candidate: Model, given: str, runs: Path, tracker: Tracker, name: str, alias: str) -> None:
    """Whether `promote` would move the alias now; nothing is changed.

    Raises:
        GateError, TrackingError: as `promote`.
    """
    info = tracking.standing(tracker, name, alias)
    if info is None:
        return
    incumbent = tracking.fetch(tracker, info, into=runs / "cache" / "champions")
    found = _gate(runs, (given, weights_digest(candidate.folder)), (f"{name}@{alias}", incumbent), (), ALPHA)
    if found is not None:
        its_variant = bundle_name(incumbent)
        _check(Promotion("", name, alias, "", candidate.name, info["version"], its_variant, ALPHA, found), given)


def add_version(
    model: Model,
    runs: Path,
    tracker: Tracker,
    name: str,
    alias: str | None,
    source: str,
    key: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """A version of the registered model `name` that is this bundle, with the alias on it: its number.

    Args:
        key: Of the run in MLflow that the version belongs to; None for one of its own.

    Raises:
        TornArtifact: the bundle's files are not what was published.
        TrackingError: MLflow cannot be reached or refuses.
    """
    check_bundle(model.folder)
    return _version(model, runs, tracker, name, alias, source, tags or {}, key)


def _version(
    model: Model,
    runs: Path,
    tracker: Tracker,
    name: str,
    alias: str | None,
    source: str,
    tags: Mapping[str, str],
    key: str | None,
) -> str:
    """`add_version` of a bundle that was verified."""
    if key is None:  # a version belongs to an MLflow run, and an imported or copied bundle has none
        identity = sha256_file(model.folder / MANIFEST)
        about = {"mlflow.source.name": source, "remora.bundle": identity, "remora.model": model.shown}
        models = bundle_models(model.folder, runs, made=True)
        run = Run(runs, key=f"registration/{identity}", name=f"{model.name} registered", tags=about, models=models)
        run.keep()
        key = run.key
    return tracking.register(tracker, name, key, model.folder, alias, tags={"variant": model.name, **tags})


def history(runs: Path) -> list[Promotion]:
    """Every promotion in a run folder, the oldest first; what a crash left half is left out."""
    found = []
    for record in lines.read(runs / FILE, "at").records:
        try:
            found.append(_PROMOTION.validate_python(record))
        except ValidationError:
            continue
    return found


def settle(runs: Path, tracker: Tracker) -> None:
    """Complete the history by promotions whose process died before it had written that they were done.

    Raises:
        TrackingError: there are such, and MLflow cannot be reached.
    """
    if _unsettled(runs):
        with exclusive(runs / f".{FILE}.lock"):
            _settle(runs, tracker)


def _settle(runs: Path, tracker: Tracker) -> None:
    open_ = _unsettled(runs)
    if open_:
        tracker.sync()  # a version that was asked for is made by the next sync, whoever it is
    for made in open_:
        version = tracking.promoted_version(tracker, made.model, made.at, made.variant)
        record = asdict(replace(made, version=version)) if version else {NOTHING: _which(made)}
        lines.append(runs / FILE, [record], sync=True)


def _unsettled(runs: Path) -> list[Promotion]:
    """Intents of which nothing is known."""
    over = [_which(made) for made in history(runs)]
    over += [line[NOTHING] for line in lines.read(runs / FILE, NOTHING).records]
    meant = [line[INTENT] for line in lines.read(runs / FILE, INTENT).records]
    return [made for made in map(_PROMOTION.validate_python, meant) if _which(made) not in over]


def _which(made: Promotion) -> list[str]:
    return [made.at, made.model, made.alias, made.variant]


def _gate(
    runs: Path, candidate: tuple[str, str], incumbent: tuple[str, Path], benchmarks: Sequence[str], alpha: float
) -> tuple[GateFigure, ...] | None:
    """The gate's figures; None if both models have the same weights.

    Args:
        candidate: What it is named by, and the digest of its weights.
        incumbent: What it is named by, and its folder.

    Raises:
        GateError: as `_reports`.
    """
    (named, folder), (_, weights) = incumbent, candidate
    its_weights = weights_digest(folder)
    if its_weights == weights:
        return None
    return gate(_reports(runs / "scores", candidate, (named, its_weights), benchmarks), alpha)


def _reports(
    scores: Path, candidate: tuple[str, str], incumbent: tuple[str, str], benchmarks: Sequence[str]
) -> dict[str, tuple[Report, Report]]:
    """Both models' reports by benchmark; each model is (what it is named by, the digest of its weights).

    Raises:
        GateError: one of them was not measured, or on fewer questions than the other.
    """
    kept = {named: reports_of(scores, weights) for named, weights in (candidate, incumbent)}
    wanted = [figure_name(b) for b in benchmarks] or _measured(kept[incumbent[0]])
    if not wanted:
        shown = ",".join(_measured(kept[candidate[0]])) or "NAME"
        raise GateError(
            f"{incumbent[0]} has no report in {scores}, so nothing can be held against it; "
            f"next: remora evaluate {incumbent[0]} --benchmarks {shown}"
        )
    for named, its in kept.items():
        there = _measured(its)
        if missing := [b for b in wanted if b not in there]:
            raise GateError(
                f"{named} was not measured on {', '.join(missing)} (measured: {', '.join(there) or 'nothing'}); "
                f"next: remora evaluate {named} --benchmarks {','.join(missing)}"
            )
    both = pairs(kept[candidate[0]], kept[incumbent[0]])
    for benchmark in wanted:
        counts = dict(zip(kept, (report.n for report in both[benchmark]), strict=True))
        if len(set(counts.values())) > 1:
            fewer = min(counts, key=lambda named: counts[named])
            raise GateError(
                f"{benchmark}: {fewer} was asked {min(counts.values()):,} of {max(counts.values()):,} questions; "
                f"next: remora evaluate {fewer} --benchmarks {benchmark}"
            )
    return {benchmark: both[benchmark] for benchmark in wanted}


def _measured(kept: Sequence[Kept]) -> list[str]:
    return sorted({k.report.benchmark for k in kept})


def _check(made: Promotion, given: str) -> None:
    if failed := [figure.shown for figure in made.gate if figure.worse]:
        named = f"{made.model}@{made.alias}"
        raise GateError(
            f"{named} stays version {made.from_version}, {made.from_variant}: {given} is significantly worse on "
            f"{'; on '.join(failed)}; next: remora compare {given} {named}, or promote it with --force REASON"
        )


def _tags(made: Promotion) -> dict[str, str]:
    """Of the version, in MLflow. All of them every time: a version may be promoted again."""
    before = (
        f"version {made.from_version} ({made.from_variant or 'its files are gone'})" if made.from_version else "none"
    )
    figures = "; ".join(figure.shown for figure in made.gate) or "nothing to be held against"
    return {"promoted_at": made.at, "promoted_from": before, "gate": figures, "forced": made.forced}
