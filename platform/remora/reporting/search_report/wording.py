"""Figures as the report prints them."""

from __future__ import annotations

from remora.errors import several
from remora.evaluation.score import ScoreRecord
from remora.reporting.search_report.graph import StageGraph
from remora.spec import SPEEDS
from remora.training.meter import duration


def decimals(figure: float) -> int:
    """Own benchmarks' figures lie in [0, 1], published ones' are as papers print them."""
    return 3 if 0 <= figure <= 1 else 1


def figure(value: float) -> str:
    return f"{value:.{decimals(value)}f}"


def span(value: float, low: float, high: float) -> str:
    """`0.865 (0.858 to 0.871)`."""
    n = decimals(max(value, high))
    return f"{value:.{n}f} ({low:.{n}f} to {high:.{n}f})"


def count(number: float | None) -> str:
    """`2.7 B`, `317 M`, `5,160 k`, `640`."""
    if number is None:
        return "unknown"
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 1000 * size else f"{number / size:,.0f} {unit}"
    return f"{number:,.0f}"


def priced(cost: str, value: float) -> str:
    """A cost with its unit."""
    return {
        "parameters": f"{count(value)} parameters",
        "picture_tokens": f"{value:,.0f} tokens a picture",
        "steps": f"{value:,.0f} steps",
        "seconds": f"{duration(value)} of training",
        "answer_seconds": f"{value:.3g} s an answer",
        "answering_memory": f"{value:.3g} GiB",
    }[cost]


def objective(name: str, value: float) -> str:
    """A figure of the Pareto set, which is a score, a count or something measured."""
    if name in ("parameters", "picture_tokens", "steps"):
        return count(value)
    return f"{value:.3g}" if name in SPEEDS or name == "memory" else figure(value)


def apart(behind: tuple[float, float, float]) -> str:
    """What a variant lacks to the best: `-0.021 (-0.035 to -0.007)`."""
    value, low, high = (-b + 0.0 for b in behind)
    n = decimals(max(abs(b) for b in behind))
    return f"{value:+.{n}f} ({high:+.{n}f} to {low:+.{n}f})"


def unseeing(score: ScoreRecord) -> str:
    """Why a figure does not show that the model looks at the pictures: baselines that its interval does not exceed."""
    baselines = (
        ("with the pictures shuffled it has", score.get("blind")),
        ("the best answers from the questions' words alone have", score.get("question_only")),
    )
    found = [f"{what} {figure(value)}" for what, value in baselines if value is not None and value >= score["ci"][0]]
    if not found:
        return ""
    of = f"The champion's {figure(score['accuracy'])} on {score['benchmark']}"
    return f"{of} does not show that it looks at the pictures: {', and '.join(found)}."


def drop(expected: float, of: float) -> str:
    """What the figure `of` is expected to fall by, in its digits: `-0.4`; `under 0.1`."""
    n = decimals(of)
    return f"-{expected:.{n}f}" if round(expected, n) else f"under {10**-n:.{n}f}"


def saved(found: StageGraph) -> str:
    """What sharing and stopping saved."""
    spent = found.spending
    each, whole = f"{spent.alone:,}", spent.alone or 1
    again = f", {spent.again:,} of them again after interruptions" if spent.again else ""
    again += f", {spent.dropped:,} of variants that the space has no more" if spent.dropped else ""
    return (
        f"Each variant on its own: {several(found.planned_runs, 'stage run')}, {each} steps. Sharing and reuse saved "
        f"{spent.shared:,} steps ({spent.shared / whole:.0%}), stopping {spent.unspent:,} "
        f"({spent.unspent / whole:.0%}). {spent.taken:,} were taken{again}, {spent.ratio:.1%} of what each stage run "
        "trained once needs."
    )
