"""A model's canaries, for `remora explain`: those in which it was the candidate, as the journals have them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from remora.pipeline.origin.explanation import CanaryDecision
from remora.serving.canary.journal import journals, read


def canaries_of(runs: Path, versions: Collection[tuple[str, str]], names: Collection[str]) -> Iterator[CanaryDecision]:
    """The oldest first, endpoint by endpoint.

    Args:
        versions: (Registered model, version) that are the model.
        names: What it may have been named by: its variant, its bundle.

    Raises:
        StoreError: a journal cannot be read.
    """
    for file in journals(runs).values():
        for canary in read(file):
            if (canary.endpoint, canary.candidate) in versions or canary.plan.model in names:
                yield CanaryDecision(
                    endpoint=canary.endpoint,
                    candidate=canary.candidate,
                    stable=canary.stable,
                    began=canary.began,
                    ended=canary.ended,
                    decision=canary.phase or "",
                    why=canary.why,
                    comparisons=len(canary.comparisons),
                    rule=canary.plan.rule.words,
                    figures=tuple(figure.shown for figure in canary.looks[-1].figures) if canary.looks else (),
                )
