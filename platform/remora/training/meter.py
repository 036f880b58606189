"""Timing of steps: figures for the journal, and the progress line for the user."""

from __future__ import annotations

import time
from collections import deque

from remora.training.events import StepFigures

RECENT = 20
"""Recent steps from which the remaining time is estimated."""


class Meter:
    """Times a stage's steps on one rank.

    Args:
        steps: number of steps of the stage.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.waited = self.spent = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._began = self._loaded = time.monotonic()

    def begin(self) -> None:
        """A step begins."""
        self._began = time.monotonic()

    def loaded(self) -> None:
        """Its batches have arrived."""
        self._loaded = time.monotonic()

    @property
    def wait(self) -> float:
        """Seconds that this step waited for its batches."""
        return self._loaded - self._began

    def done(self) -> float:
        """A step ends; returns its seconds."""
        seconds = time.monotonic() - self._began
        self.waited, self.spent = self.waited + self.wait, self.spent + seconds
        self._recent.append(seconds)
        return seconds

    def left(self, step: int) -> float:
        """Estimated seconds until the end of the stage, after `step`, from the last steps."""
        return (self.steps - step - 1) * sum(self._recent) / max(1, len(self._recent))

    @property
    def share(self) -> float:
        """Fraction of all steps' time spent waiting for batches."""
        return self.waited / self.spent if self.spent else 0.0


def line(stage: str, steps: int, event: StepFigures) -> str:
    """A step's journal event as one line."""
    rates = " ".join(f"{part} {rate:.2e}" for part, rate in event["lr"].items())
    mfu = f"  mfu {event['mfu']:.1%}" if event.get("mfu") is not None else ""
    return (
        f"{stage} {event['step'] + 1}/{steps}  loss {event['loss']:.4f}  norm {event['grad_norm']:.3g}  lr {rates}  "
        f"{event['tokens_per_second']:,.0f} tokens/s{mfu}  wait {event['wait_share']:.1%}  "
        f"{event['memory']:.2f} GiB  {duration(event['eta'])} left"
    )


def duration(seconds: float) -> str:
    """4:05 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
