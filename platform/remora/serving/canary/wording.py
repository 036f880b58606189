"""A canary in lines: what was decided at each look by which figures, as it happened or under another rule."""

from __future__ import annotations

from collections.abc import Sequence

from remora.serving.canary.course import Course
from remora.serving.canary.journal import Canary
from remora.serving.canary.rule import CanaryLook


def canary_lines(canary: Canary) -> list[str]:
    """A canary as it happened."""
    plan = canary.plan
    shares = ", ".join(f"{share:.0%}" for share in plan.share) or "none"
    return [
        f"{canary.endpoint}: version {canary.candidate} ({plan.model}) beside {canary.stable}, since {canary.began}",
        f"shadow {plan.shadow:.0%} of the requests; shares of the clients: {shares}",
        f"rule: {plan.rule.words}",
        *look_lines(canary.looks),
        f"{len(canary.comparisons):,} of {plan.rule.comparisons:,} comparisons",
        f"{canary.ended}: {canary.phase}: {canary.why}" if canary.phase else "not decided yet",
    ]


def replayed_lines(canary: Canary, course: Course) -> list[str]:
    """What another rule would have decided by the same comparisons."""
    rule = course.plan.rule
    lines = [f"rule: {rule.words}", *look_lines(course.looks)]
    counted = len(course.comparisons)
    if course.verdict == "go on":
        lines.append(
            f"undecided: the journal ends at {counted:,} of {rule.comparisons:,} comparisons"
            if counted < rule.comparisons
            else "undecided"
        )
    else:
        lines.append(f"would {course.verdict} after {counted:,} comparisons: {course.looks[-1].why}")
    happened = f"{canary.phase} after {len(canary.comparisons):,}" if canary.phase else "not decided yet"
    return [*lines, f"what happened: {happened}"]


def look_lines(looks: Sequence[CanaryLook]) -> list[str]:
    """A line a look, and below the last one its figures."""
    lines = [
        f"look {look.look} at {look.n:,} comparisons, level {look.level:.2g}: {look.verdict}" + (f", {_worst(look)}")
        for look in looks
    ]
    if looks:
        told = looks[-1].told
        lines += [f"  {figure.shown}" for figure in looks[-1].figures]
        lines.append(
            f"  told, not tested: same text {told.same:.1%}, words in common {told.overlap:.1%} (F1), tokens "
            f"{told.tokens_candidate:.1f} against {told.tokens_stable:.1f}; {told.dropped:,} dropped"
        )
    return lines


def _worst(look: CanaryLook) -> str:
    tested = [figure for figure in look.figures if figure.tested]
    if not tested:
        return "nothing tested"
    worst = min(tested, key=lambda figure: figure.p_beyond)
    return f"nearest to a limit: {worst.name}, p beyond {worst.p_beyond:.2g}"
