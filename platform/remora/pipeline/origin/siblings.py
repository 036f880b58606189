"""What models in the store tell that differ from this one in a single choice: differences of figures and of costs.

The figures are of the same questions, paired; the interval is that of `remora compare`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from remora.errors import RemoraError
from remora.evaluation.compare import compare_reports
from remora.evaluation.kept import Kept, reports_of
from remora.inference.bundle import FILE, read_bundle_file, weights_digest
from remora.pipeline.origin.differences import FIXED, axes_between, choices
from remora.pipeline.origin.model import ModelOrigin, picture_tokens_of
from remora.pipeline.origin.stages import stages_of

MOST = 6
"""At most so many siblings are listed; each costs a paired test."""


@dataclass(frozen=True)
class Sibling:
    """A model that differs in one choice."""

    name: str
    axis: str
    """`connector`, `finetune.lr`."""
    this: str
    other: str
    """What it has in place of `this`."""
    benchmark: str
    metric: str
    n: int
    figure: float
    difference: float
    """Its figure less this model's."""
    low: float
    high: float
    """95% interval of the difference."""
    p: float
    picture_tokens: float | None
    """By how much it has more of them, as a share: -0.12 is 12% fewer."""
    seconds: float | None
    """The same of the time that its stage runs trained."""


def siblings_of(origin: ModelOrigin, runs: Path, benchmark: str | None) -> tuple[Sibling, ...]:
    """Those that were measured on the benchmark (the one that chose the model, or else its first), parts first.

    Raises:
        StoreError: a stage run's journal cannot be read.
    """
    asked = benchmark or next(iter(origin.scores), None)
    if not origin.variant or asked is None:
        return ()
    mine = _report(runs, origin.weights, asked)
    if mine is None:
        return ()
    found: list[Sibling] = []
    for folder, variant, axis in sorted(_candidates(origin, runs), key=lambda each: _order(each[2])):
        if len(found) == MOST:
            break
        if sibling := _compared(origin, mine, folder, variant, axis, asked, runs):
            found.append(sibling)
    return tuple(found)


def _candidates(origin: ModelOrigin, runs: Path) -> Iterator[tuple[Path, Mapping[str, object], str]]:
    """(bundle, variant, the one axis on which it differs)."""
    for file in sorted((runs / "bundles").glob(f"[!.]*/{FILE}")):
        try:
            about = read_bundle_file(file.parent)["about"]
        except RemoraError:
            continue
        variant = about.get("variant")
        if isinstance(variant, dict) and len(axes := axes_between(origin.variant, variant)) == 1:
            yield file.parent, variant, axes[0]


def _order(axis: str) -> tuple[int, str]:
    return (FIXED.index(axis) if axis in FIXED else len(FIXED), axis)


def _compared(
    origin: ModelOrigin,
    mine: Kept,
    folder: Path,
    variant: Mapping[str, object],
    axis: str,
    benchmark: str,
    runs: Path,
) -> Sibling | None:
    try:
        its = _report(runs, weights_digest(folder), benchmark)
        if its is None or its.questions != mine.questions:
            return None
        compared = compare_reports({benchmark: (its.report, mine.report)})[benchmark]
        about = read_bundle_file(folder)
    except RemoraError:  # another catalog, other questions, a torn folder: it tells nothing
        return None
    ((metric, d),) = compared.differences.items()
    names = about["about"].get("stages")
    stages, gaps = stages_of(runs, list(map(str, names)) if isinstance(names, list) else [])
    seconds = sum(s.seconds for s in stages) if stages and not gaps else None
    own = sum(s.seconds for s in origin.stages)
    tokens = picture_tokens_of({part: ref["name"] for part, ref in about["parts"].items()})
    return Sibling(
        name=about["name"],
        axis=axis,
        this=choices(origin.variant).get(axis, "none"),
        other=choices(variant).get(axis, "none"),
        benchmark=benchmark,
        metric=metric,
        n=compared.n,
        figure=d.a,
        difference=d.a - d.b,
        low=d.low,
        high=d.high,
        p=d.p,
        picture_tokens=_more(tokens, origin.picture_tokens),
        seconds=_more(seconds, own),
    )


def _report(runs: Path, weights: str, benchmark: str) -> Kept | None:
    return next(iter(reports_of(runs / "scores", weights, benchmark)), None)


def _more(its: float | None, mine: float | None) -> float | None:
    return its / mine - 1 if its is not None and mine else None
