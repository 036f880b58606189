"""The page and its pictures: one HTML file that loads nothing, and a PNG a figure. Needs the extra "report"."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from remora.errors import several
from remora.evaluation.ranking import ALPHA
from remora.files import disk_errors, write_atomic
from remora.reporting.escaped import templates
from remora.reporting.search_report import charts, wording
from remora.reporting.search_report.axes import Importances
from remora.reporting.search_report.curves import ranks
from remora.reporting.search_report.drawing import Plate, plate
from remora.reporting.search_report.findings import Findings, findings
from remora.reporting.search_report.record import page_of
from remora.reporting.search_report.tradeoffs import PRICES
from remora.reporting.search_report.training import WINDOWS
from remora.training.meter import duration

TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class SearchPage:
    """A report that was written."""

    page: Path
    images: tuple[Path, ...]
    """A PNG a figure, in the page's order: for MLflow, slides, papers."""


@dataclass(frozen=True)
class PageSection:
    """Figures under one heading."""

    anchor: str
    title: str
    plates: tuple[Plate, ...]
    lead: str = ""


def write_report(runs: Path, search: str, out: Path | None = None) -> SearchPage:
    """Write the page of a search, and its pictures into a folder beside it.

    Args:
        out: The page's file; `page_of` if not given.

    Raises:
        StoreError: no such search, or the disk.
    """
    found = findings(runs, search)
    page = out or page_of(runs, search)
    sections = tuple(s for s in _sections(found) if s.plates or s.lead)
    images = page.with_name(f"{page.stem}-figures")
    with disk_errors(page.parent):
        page.parent.mkdir(parents=True, exist_ok=True)
        images.mkdir(parents=True, exist_ok=True)
        for old in images.glob("*.png"):
            old.unlink()
        files = []
        for each in (each for section in sections for each in section.plates):
            files.append(images / f"{each.name}.png")
            files[-1].write_bytes(each.png)
        write_atomic(page, rendered(found, sections))
    return SearchPage(page, tuple(files))


def rendered(found: Findings, sections: tuple[PageSection, ...]) -> str:
    """The page's text."""
    environment = templates(Path(__file__).parent)
    environment.filters |= {"count": wording.count, "figure": wording.figure, "duration": duration}
    environment.globals |= {"span": wording.span, "apart": wording.apart, "drop": wording.drop, "alpha": ALPHA}
    environment.globals |= {"objective": wording.objective, "several": several, "unseeing": wording.unseeing}
    return environment.get_template(TEMPLATE).render(
        found=found,
        record=found.record,
        board=found.leaderboard,
        verdict=found.leaderboard.verdict,
        sections=sections,
        blind=any(s.get("blind") is not None for v in found.record.measured for s in v.scores.values()),
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


def _sections(found: Findings) -> Iterator[PageSection]:
    yield PageSection("ablations", "What each axis does", tuple(_ablations(found)), _unmatched(found))
    yield PageSection("tradeoffs", "Score against cost", tuple(_tradeoffs(found)))
    yield PageSection("pareto", "Objectives", (), _pareto(found))
    why_none = _no_importance(found.importances) if found.parallel else ""  # of one axis there is nothing to say
    yield PageSection("use", "Use", (), found.use.said if found.use else "")
    yield PageSection("axes", "All axes at once", tuple(_axes(found)), why_none)
    yield PageSection("curves", "Learning curves", tuple(_curves(found)))
    yield PageSection("rungs", "Rungs", tuple(_rungs(found)))
    yield PageSection("stages", "Stage runs", tuple(_stages(found)))
    yield PageSection("timeline", "Timeline", tuple(_timeline(found)))
    yield PageSection("published", "Beside published figures", tuple(_published(found)))


def _scores(found: Findings) -> dict[str, dict[str, int | str]]:
    """Benchmark -> its metric, and how many questions it has."""
    scores = [(b, s) for v in found.record.variants for b, s in v.scores.items()]
    return {b: {"metric": s["metric"], "n": s["n"]} for b, s in scores}


def _ablations(found: Findings) -> Iterator[Plate]:
    scores = _scores(found)
    asked = ", ".join(f"{b} {scores[b]['n']:,} questions" for b in found.record.benchmarks)
    for i, a in enumerate(found.ablations):
        mean = f"means over the {a.settings} settings" if a.settings > 1 else "the one setting"
        lines = "ranges over seeds" if a.seeds > 1 else f"95% intervals{' (their means)' * (a.settings > 1)}"
        caption = (
            f"{a.axis}, all other axes equal: {mean} of the other axes in which each of its values was measured. "
            f"Lines: {lines}. {asked}."
        )
        if a.left_out:
            caption += f" Not among them: {', '.join(a.left_out)}."
        said = "; ".join(f"{b.benchmark} {b.value} {wording.figure(b.figure)}" for b in a.bars)
        chart = charts.bars(a, {b: str(s["metric"]) for b, s in scores.items()})
        yield plate(f"ablation-{i + 1}", chart, caption, f"Bars of {a.axis}: {said}")


def _unmatched(found: Findings) -> str:
    without = [a for a in found.record.axes if a != "seed" and a not in {each.axis for each in found.ablations}]
    if not without:
        return ""
    return f"No two measured variants differ in {' or '.join(without)} only, so nothing is drawn of it."


def _tradeoffs(found: Findings) -> Iterator[Plate]:
    rank = ranks(found.leaderboard)
    for t in found.tradeoffs:
        n = _scores(found)[t.benchmark]["n"]
        front = [p.variant for p in t.points if p.front]
        ends = f"from {front[0]} to {front[-1]}" if len(front) > 1 else f"{front[0]} alone"
        caption = (
            f"{t.benchmark} ({n:,} questions, 95% intervals) by {PRICES[t.cost]}, {len(t.points)} variants. "
            f"Dashed: the Pareto front, {ends}."
        )
        if t.cost in ("steps", "seconds"):
            caption += " Of the whole lineage, as if nothing were shared."
        said = "; ".join(
            f"{p.variant} {wording.figure(p.figure)} at {wording.priced(t.cost, p.cost)}" for p in t.points
        )
        yield plate(f"score-by-{t.cost.replace('_', '-')}", charts.scatter(t, rank), caption, said)


def _pareto(found: Findings) -> str:
    pareto = found.record.result.get("pareto")
    if not pareto:
        return ""
    best = sum(v["front"] for v in pareto["variants"])
    said = ", ".join(f"{name} ({direction})" for name, direction in pareto["objectives"].items())
    without = f" Without one of the figures: {', '.join(pareto['without'])}." if pareto["without"] else ""
    return f"No variant beats the first {best} of {len(pareto['variants'])} in all of {said}: the Pareto set.{without}"


def _axes(found: Findings) -> Iterator[Plate]:
    if p := found.parallel:
        scored = sum(t.figure is not None for t in p.threads)
        caption = (
            f"Each line is a variant: its value on each axis, then its {p.benchmark}. The redder, the better; thin "
            f"and grey: {len(p.threads) - scored} of {len(p.threads)} that were not measured."
        )
        yield plate("parallel", charts.threads(p), caption, f"{len(p.threads)} variants over {len(p.axes)} axes")
    if (i := found.importances).shares:
        caption = (
            f"How much of the variance of {found.record.benchmark} each axis explains: {i.evaluator} of Optuna on "
            f"{i.variants} measured variants. With so few, a rough guide; stopped variants are not among them."
        )
        said = "; ".join(f"{axis} {share:.0%}" for axis, share in i.shares)
        yield plate("importance", charts.shares(i), caption, said)


def _no_importance(found: Importances) -> str:
    return f"No importance of axes: {found.why_none}." if found.why_none else ""


def _curves(found: Findings) -> Iterator[Plate]:
    for stage in found.curves:
        window = max(c.run.window for c in stage.curves)
        samples = max(c.run.samples for c in stage.curves)
        held = sum(len(c.run.validations) for c in stage.curves)
        smooth = f"means of {window} steps" if window > 1 else "every step"
        of = f"{several(len(stage.curves), 'stage run')} of {stage.stage}"
        caption = f"Training loss of {of}, up to {samples:,} samples ({smooth}, weighted by supervised tokens)."
        if held:
            caption += f" Diamonds: loss over held-out samples, {several(held, 'validation')}."
        said = f"Losses of {of} by samples, in {WINDOWS} points at most"
        yield plate(f"curves-{stage.stage}", charts.learning(stage), caption, said)


def _rungs(found: Findings) -> Iterator[Plate]:
    rule = found.record.board.decided[-1].rule if found.record.board.decided else "none"
    for i, r in enumerate(found.rungs):
        arrived = len({p.variant for p in r.points})
        kept = sum(p.decision in ("promote", "go on") for p in r.points)
        caption = (
            f"{r.figure} of {several(arrived, 'variant')} at the rungs of {r.stage}; rule: {rule}. "
            f"{kept} of {len(r.points)} arrivals went on."
        )
        said = "; ".join(f"{p.variant} {p.value:.4g} at {p.share:.0%}" for p in r.points)
        yield plate(f"rungs-{i + 1}", charts.rungs(r), caption, said)


def _stages(found: Findings) -> Iterator[Plate]:
    if g := found.graph:
        of = f"{several(len(g.nodes), 'stage run')} of {several(len(found.record.variants), 'variant')}"
        caption = f"{of}, sized by steps; a line leads to the stage runs that go on from one. {wording.saved(g)}"
        said = f"A tree of {several(len(g.nodes), 'stage run')}; {wording.saved(g)}"
        yield plate("stage-graph", charts.stages(g), caption, said)


def _timeline(found: Findings) -> Iterator[Plate]:
    if t := found.timeline:
        caption = (
            f"{several(len(t.spans), 'item')} of the ledger, in as many rows as were at work at once ({t.lanes}); "
            f"rows were busy for {t.busy:.0%} of {duration(t.seconds)}."
        )
        if any(s.how == "lost" for s in t.spans):
            caption += " Lost: its worker or the search was killed; drawn up to the next item."
        if t.cuts:
            caption += f" Dashed: {duration(sum(s for _, s in t.cuts))} in which nothing ran, cut out."
        yield plate("items", charts.lanes(t), caption, f"{len(t.spans)} items in {t.lanes} rows")


def _published(found: Findings) -> Iterator[Plate]:
    if figures := found.beside:
        ours = sum(b.ours is not None for b in figures)
        inside = sum(b.inside for b in figures)
        here = f"of {ours} that were measured here, {inside} have the published one in their 95% interval"
        named = f"{several(len(figures), 'published figure')} as the space names them"
        caption = f"{named}; {here if ours else 'none of them was measured here'}."
        said = "; ".join(f"{b.variant} {b.benchmark} {b.published:g}" for b in figures)
        yield plate("published-figures", charts.dumbbells(figures), caption, said)
