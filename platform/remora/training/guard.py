"""Bad steps: how to detect them and what to do about them."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable

from remora.errors import TrainingError
from remora.spec import Guard

RECENT = 32
"""Number of recent losses whose median a spike is compared with; at least half as many are needed."""


class RolledBack(Exception):
    """The step was bad and the rule is roll_back: training restarts from the newest checkpoint."""


class Watch:
    """Checks the losses of a stage's steps by the recipe's rule, with the same result on every rank.

    Args:
        recent: losses of the last steps, the oldest first.
        bad: number of bad steps so far.
    """

    def __init__(self, rule: Guard, recent: Iterable[float] = (), bad: int = 0) -> None:
        self.rule = rule
        self.recent = deque(recent, RECENT)
        self.bad = bad

    def taken(self, loss: float) -> None:
        self.recent.append(loss)

    def problem(self, loss: float, norm: float = 0.0) -> str | None:
        """What is wrong with a step of this loss (nats per token) and gradient norm, or None."""
        if not math.isfinite(loss):
            return f"loss is {loss}"
        if self.rule.spike and len(self.recent) >= RECENT // 2:
            median = statistics.median(self.recent)
            if loss > self.rule.spike * median:
                return f"loss {loss:.4g} is over {self.rule.spike:g} times the recent median {median:.4g}"
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm}"
        return None

    def refuse(self, where: str, problem: str) -> None:
        """Count a bad step.

        Raises:
            TrainingError: the rule is to stop, or there were more than its limit.
            RolledBack: the rule is to roll back.
        """
        self.bad += 1
        if self.rule.bad == "stop":
            raise TrainingError(f"{where}: {problem}; lower lr, set clip: 1.0 or guard: {{bad: skip}}, then run again")
        if self.bad > self.rule.limit:
            raise TrainingError(f"{where}: {problem}; guard.limit is {self.rule.limit} bad steps; lower lr or set clip")
        if self.rule.bad == "roll_back":
            raise RolledBack
