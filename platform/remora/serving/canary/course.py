"""The course of a canary: what follows from its comparisons, one after the other.

The endpoint and a replay of its journal are the same fold, so a replay under the same rule is what happened.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from remora.serving.canary.args import CanaryArgs
from remora.serving.canary.observed import Comparison
from remora.serving.canary.rule import CanaryLook, CanaryVerdict, decide

Phase = Literal["shadow", "share", "deciding", "promoted", "replaced", "rolled back", "told"]
"""deciding: the rule has decided, and the alias is being moved. replaced: it was promoted, and another version has been
served since. told: the rule has decided, and `promote` is off."""


@dataclass(frozen=True)
class CanaryState:
    """Where a canary is, as ingress replicas need it and /version shows it."""

    phase: Phase
    share: float
    """Of the clients, that get the candidate's answers now."""
    comparisons: int = 0
    of: int = 0
    looks: int = 0
    why: str = ""
    figures: tuple[str, ...] = ()
    """Of the last look, in words."""

    @property
    def running(self) -> bool:
        return self.phase in ("shadow", "share")


@dataclass
class Course:
    """A canary so far."""

    plan: CanaryArgs
    comparisons: list[Comparison] = field(default_factory=list)
    looks: list[CanaryLook] = field(default_factory=list)

    @property
    def verdict(self) -> CanaryVerdict:
        return self.looks[-1].verdict if self.looks else "go on"

    @property
    def share(self) -> float:
        """The share that follows from the looks so far."""
        return self.plan.share_after(len(self.looks)) if self.verdict == "go on" else 0.0

    def add(self, comparison: Comparison) -> CanaryLook | None:
        """The look that this comparison completes, if it does. After a verdict nothing counts."""
        if self.verdict != "go on":
            return None
        self.comparisons.append(comparison)
        look = len(self.looks) + 1
        if len(self.comparisons) < self.plan.rule.look_at(look):
            return None
        self.looks.append(decide(self.comparisons, self.plan.rule, look))
        return self.looks[-1]

    def state(self, phase: Phase | None = None, why: str = "") -> CanaryState:
        """`phase` if the verdict was acted upon."""
        last = self.looks[-1] if self.looks else None
        verdict: Phase = "share" if self.share else "shadow"
        if self.verdict != "go on":
            verdict = "deciding" if self.verdict == "promote" else "rolled back"
        now = phase or verdict
        # While the alias is being moved the clients stay where they are.
        last_share = self.plan.share_after(self.plan.rule.looks)
        share = {"promoted": 1.0, "deciding": last_share}.get(now, self.share)
        return CanaryState(
            now,
            share,
            len(self.comparisons),
            self.plan.rule.comparisons,
            len(self.looks),
            why or (last.why if last else ""),
            tuple(figure.shown for figure in last.figures) if last else (),
        )


def course_of(plan: CanaryArgs, comparisons: Iterable[Comparison]) -> Course:
    """The course that a plan would take with these comparisons, as far as they go."""
    course = Course(plan)
    for comparison in comparisons:
        course.add(comparison)
        if course.verdict != "go on":
            break
    return course
