"""What a canary may do: `canary:` in the endpoint's arguments, `--canary` and its options on the command line."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from remora.spec.base import Spec, validate


class CanaryRule(Spec):
    """When a candidate is rolled back, and when it takes over. Each limit says how much worse it may be.

    `looks` times, the candidate is rolled back if it is significantly beyond a limit; at the last look it takes over if
    it is significantly within all of them. Otherwise it goes: it was not shown to be no worse.
    """

    comparisons: int = Field(default=400, ge=20, le=100_000)
    """Requests that both versions answer, until the last look."""
    looks: int = Field(default=20, ge=1, le=200)
    """At equal numbers of comparisons."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Probability at most that a candidate within all limits is rolled back as worse, at all looks together."""
    beta: float = Field(default=0.05, gt=0, lt=0.5)
    """Probability at most that a candidate at or beyond a limit takes over."""
    spending: Literal["pocock", "obrien-fleming", "linear"] = "pocock"
    """How much of alpha is spent by when: pocock nearly alike at all looks, obrien-fleming hardly any at first."""
    errors: float = Field(default=0.02, gt=0, lt=1)
    """How much larger the candidate's share of failed requests may be."""
    empty: float = Field(default=0.02, gt=0, lt=1)
    """How much larger its share of empty answers may be."""
    cut: float = Field(default=0.1, gt=0, lt=1)
    """How much larger its share of answers may be that end at their length limit."""
    first_token: float = Field(default=1.5, gt=1)
    """How many times as long its first token may take, in the median request."""
    first_token_p95: float = Field(default=2.0, gt=1)
    """The same of the slowest 5%."""
    token_time: float = Field(default=1.5, gt=1)
    """How many times as long each further token may take, in the median request."""
    token_time_p95: float = Field(default=2.0, gt=1)
    """The same of the slowest 5%."""

    @model_validator(mode="after")
    def _looks(self) -> CanaryRule:
        if self.looks > self.comparisons:
            raise ValueError(f"looks is {self.looks}, above comparisons {self.comparisons}")
        if self.comparisons < (needed := self.fewest):
            raise ValueError(
                f"comparisons is {self.comparisons}, and a candidate without a fault needs {needed} to be shown within "
                f"these limits with beta {self.beta:g}"
            )
        return self

    @property
    def fewest(self) -> int:
        """Comparisons that show a flawless candidate to be within all limits."""
        rates = max(math.log(self.beta) / math.log1p(-limit) for limit in (self.errors, self.empty, self.cut))
        slowest = 10 * math.ceil(-math.log2(self.beta))  # at p95, one of ten pairs has an answer among the slowest
        return math.ceil(max(rates, slowest))

    def look_at(self, look: int) -> int:
        """The number of comparisons at a look, from 1 to `looks`."""
        return -(-look * self.comparisons // self.looks)

    @property
    def words(self) -> str:
        """The rule in a line."""
        p95 = f"{self.first_token_p95:g}/{self.token_time_p95:g} times those at p95"
        return (
            f"{self.comparisons:,} comparisons, {self.looks} looks ({self.spending}, alpha {self.alpha:g}, beta "
            f"{self.beta:g}); limits: errors +{self.errors:g}, empty +{self.empty:g}, cut +{self.cut:g}, first token "
            f"{self.first_token:g}x, token time {self.token_time:g}x, {p95}"
        )


class CanaryArgs(Spec):
    """A candidate beside the served model."""

    model: str
    """A variant, a bundle's folder, or name@alias of the registry."""
    shadow: float = Field(default=0.2, gt=0, le=1)
    """Share of the requests that both versions answer; the client gets one of the answers."""
    share: tuple[float, ...] = (0.05, 0.25, 0.5)
    """Shares of the clients that get the candidate's answers, one after the other, each for as many comparisons. Before
    the first of them it works in the shadow alone. Empty: to the end."""
    sticky: Literal["client", "conversation"] = "client"
    """What stays on one version: who sends the request (the `user` field, within the key's name; without both, the
    conversation), or the conversation."""
    in_flight: int = Field(default=4, ge=1, le=256)
    """Requests that one ingress replica has in the shadow at a time; others are dropped, and counted."""
    patience_s: float = Field(default=60, gt=0)
    """An answer in the shadow that takes longer has failed."""
    promote: bool = True
    """Move the alias when the verdict is in, by the gate of `remora promote`. False: only tell."""
    rule: CanaryRule = CanaryRule()

    @model_validator(mode="after")
    def _rises(self) -> CanaryArgs:
        if not all(0 < share < 1 for share in self.share) or any(a >= b for a, b in pairwise(self.share)):
            raise ValueError(f"share must rise, above 0 and below 1: 0.05, 0.25, 0.5; found {list(self.share)}")
        if self.rule.looks < self.steps:
            raise ValueError(f"rule.looks is {self.rule.looks}, fewer than the {self.steps} steps of shadow and share")
        return self

    @property
    def steps(self) -> int:
        """The shadow alone, then each share."""
        return 1 + len(self.share)

    def share_after(self, look: int) -> float:
        """The share of clients that get the candidate after so many looks."""
        step = min(self.steps - 1, look * self.steps // self.rule.looks)
        return self.share[step - 1] if step else 0.0

    def with_rule(self, settings: dict[str, object]) -> CanaryArgs:
        """The same with some settings of the rule changed.

        Raises:
            SpecError: an unknown setting, or a value that breaks a rule.
        """
        raw = self.model_dump(mode="json")
        return validate(CanaryArgs, {**raw, "rule": {**self.rule.model_dump(mode="json"), **settings}}, "canary")
