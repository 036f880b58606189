"""The results of a training run or a search, as lines: the same on a terminal, in a pipe and in a job's log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from remora.evaluation.choice import ChoiceRecord
from remora.evaluation.score import ScoreRecord
from remora.pipeline.objectives import ParetoRecord
from remora.pipeline.promotion import Promotion
from remora.pipeline.search.records import OtherVariant, ResultRecord, StoppedAt
from remora.pipeline.search.spending import SpentSteps

SHOWN = 8
"""Variants that a line lists."""


def variant_lines(scores: Mapping[str, ScoreRecord], bundle: Path | str) -> Iterator[str]:
    """A variant's figures, each with its 95% interval and its baselines, and the model's folder.

    `scores` are `evaluation.score.as_json`'s, by benchmark.
    """
    yield from (score_line(score) for score in scores.values())
    yield f"bundle: {bundle}"
    yield f"next: remora serve {bundle}"


def score_line(score: ScoreRecord) -> str:
    """`easy-vqa: accuracy 0.8650 (0.8581 to 0.8712), blind 0.6680, question only 0.6700, n 9,673`."""
    ci, n = score.get("ci") or [], 4 if 0 <= score["accuracy"] <= 1 else 2
    interval = f" ({ci[0]:.{n}f} to {ci[1]:.{n}f})" if len(ci) == 2 else ", no interval"
    baselines = (("blind", score.get("blind")), ("question only", score.get("question_only")))
    beside = [f", {what} {v:.{n}f}" for what, v in baselines if v is not None]
    broken = f", {score['broken']:,} could not be asked" if score.get("broken") else ""
    figure = f"{score['metric']} {score['accuracy']:.{n}f}{interval}"
    return f"{score['benchmark']}: {figure}{''.join(beside)}, n {score['n']:,}{broken}"


def choice_line(choice: ChoiceRecord) -> str:
    """What a choice is worth; `choice` is a `ChampionChoice.as_json`.

    `not distinguishable from: a, b (p at least 0.21); the cheapest of them: a (2.9 M parameters, 49 picture tokens);
    expected drop: 0.0043`.
    """
    by_name = {v["name"]: v for v in choice["variants"]}
    chosen, best = choice["chosen"], choice["best"]
    if len(by_name) == 1:
        return "the only variant"
    others = [name for name in (best, *choice["equals"]) if name != chosen]
    if others:
        p = min(by_name[name]["p"] for name in choice["equals"])
        shown = ", ".join(others[:SHOWN]) + (f" and {len(others) - SHOWN} more" if len(others) > SHOWN else "")
        cheapest = "it is" if choice["cheapest"] == chosen else choice["cheapest"]
        said = [
            f"not distinguishable from: {shown} (p at least {p:.2f})",
            f"the cheapest of them: {cheapest} ({cost_text(by_name[choice['cheapest']]['cost'])})",
        ]
    else:
        p = max(v["p"] for name, v in by_name.items() if name != best)
        said = [f"better than {'the other' if len(by_name) == 2 else f'all {len(by_name) - 1} others'} (p {p:.4f})"]
    if chosen != best:
        said.insert(0, f"chosen for its cost; the best is {best}")
    n = 4 if 0 <= by_name[best]["figure"] <= 1 else 2
    return "; ".join([*said, f"expected drop: {choice['expected_drop']:.{n}f}"])


def cost_text(cost: Mapping[str, float]) -> str:
    """`3.1 B parameters, 729 picture tokens`."""
    return ", ".join(f"{_short(value)} {name.replace('_', ' ')}" for name, value in cost.items())


def _short(value: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:,g}"


def search_lines(result: ResultRecord) -> Iterator[str]:
    """The lines of a `pipeline.search.search.Result.as_json`: every variant, then the champion."""
    for variant in result["variants"]:
        for score in variant["benchmarks"].values():
            yield f"{variant['name']}: {score_line(score)}"
    name, counts = result["register_as"], result["stage_runs"]
    version = result["version"]
    there = (
        f", version {version} of {name}"
        if version
        else f"; once MLflow answers, remora sync makes it a version of {name}"
    )
    choice = result["choice"]
    yield f"champion: {result['champion']}{there}; {choice_line(choice)}"
    (champion,) = (v for v in result["variants"] if v["name"] == result["champion"])
    for benchmark, score in champion["benchmarks"].items():
        yield f"{'chosen' if benchmark == choice['benchmark'] else 'reported'} on {score_line(score)}"
    yield f"bundle: {result['bundle']}"
    yield from stopped_lines(result.get("others", ()))
    if pareto := result.get("pareto"):
        yield from pareto_lines(pareto)
    yield f"stage runs: {counts['planned']} planned, {counts['trained']} trained, {counts['reused']} reused"
    yield from spent_lines(result["steps"])
    if result.get("stopped"):
        yield f"ended by {result['stopped']}"
    yield from _alias_lines(result)


def _alias_lines(result: ResultRecord) -> Iterator[str]:
    """What the gate said of a search's champion, and the next command."""
    named = f"{result['register_as']}@champion"
    if result["refused"]:
        yield f"{named} was not moved: {result['refused']}"
        yield f"next: remora serve {result['bundle']}, or remora promote {result['bundle']}"
        return
    for figure in result["gate"]:
        yield f"{figure}: not significantly worse"
    yield f"next: remora serve {named}"


def stopped_lines(others: Sequence[OtherVariant]) -> Iterator[str]:
    """Where the variants stand that were not trained to their end, the furthest and best placed first."""

    def far(other: OtherVariant) -> tuple[float, float]:
        at = other.get("at")
        return (-at["share"], at["place"][0] if at["place"] else 0) if at else (0.0, 0)

    for other in sorted(others, key=far)[:SHOWN]:
        at = other.get("at")
        yield f"{other['state']}: {other['name']}{stopped_at(at) if at else ''}"
    if len(others) > SHOWN:
        yield f"and {len(others) - SHOWN} more that did not come to their end: remora searches show"


def stopped_at(at: StoppedAt) -> str:
    """` at 33% of finetune, loss 1.2345, place 2 of 3`."""
    place = ", place {} of {}".format(*at["place"]) if at["place"] else ""
    return f" at {at['share']:.0%} of {at['stage']}, {at['figure']} {at['value']:.4f}{place}"


def spent_lines(steps: SpentSteps) -> Iterator[str]:
    """What a search spent and saved, against each missing stage run trained once."""
    needed, dropped = steps["optimum"] - steps["unspent"], steps.get("dropped", 0)
    ratio = f", {(steps['taken'] - dropped) / needed:.1%} of what each stage run trained once needs" if needed else ""
    of = [f"{steps['again']:,} again, after interruptions"] if steps["again"] else []
    of += [f"{dropped:,} of variants that the space has no more"] if dropped else []
    among = f" ({', '.join(of)})" if of else ""
    yield f"spent: {steps['taken']:,} steps{among}{ratio}"
    saved = [f"{steps['alone'] - steps['optimum']:,} by sharing and reuse"]
    saved += [f"{steps['unspent']:,} by stopping"] if steps["unspent"] else []
    yield f"saved: {' and '.join(saved)}, of {steps['alone']:,} steps of all variants on their own"


def pareto_lines(found: ParetoRecord) -> Iterator[str]:
    """The variants that no other beats in all objectives; `found` is an `objectives.ParetoSet.as_json`."""
    best = [v for v in found["variants"] if v["front"]]
    of = ", ".join(f"{figure} ({direction})" for figure, direction in found["objectives"].items())
    without = f"; without one of the figures: {', '.join(found['without'])}" if found["without"] else ""
    yield f"Pareto set of {of}: {len(best):,} of {len(found['variants']):,} variants{without}"
    for v in best[:SHOWN]:
        yield f"  {v['name']}: {', '.join(f'{name} {_figure(value)}' for name, value in v['figures'].items())}"
    if more := len(best) - SHOWN:
        yield from [f"  and {more} more"] if more > 0 else []


def _figure(value: float) -> str:
    return f"{value:.4f}" if 0 <= value <= 1 and value != int(value) else _short(value)


def promotion_lines(made: Promotion) -> Iterator[str]:
    """What the gate saw, and where the alias is now."""
    named = f"{made.model}@{made.alias}"
    if not made.moved:
        yield f"{named} is version {made.version}, {made.variant}, already"
        return
    for figure in made.gate:
        yield f"{figure.shown}: {'significantly worse' if figure.worse else 'not significantly worse'}"
    yield f"{named}: {_moved(made)}"
    yield f"next: remora serve {named}"


def history_lines(promotions: Sequence[Promotion], runs: Path) -> Iterator[str]:
    """Every promotion with the figures of its gate, the oldest first."""
    if not promotions:
        yield f"{runs}: nothing was promoted; next: remora promote MODEL"
    for made in promotions:
        yield f"{made.at} {made.model}@{made.alias}: {_moved(made)}"
        yield from (f"  {figure.shown}" for figure in made.gate)


def _moved(made: Promotion) -> str:
    incumbent = f"version {made.from_version}" + (f", {made.from_variant}" if made.from_variant else "")
    before = f" instead of {incumbent}" if made.from_version else ", the first"
    return f"version {made.version}, {made.variant}{before}" + (f"; forced: {made.forced}" if made.forced else "")
