"""Published figures beside ours, where the search's space names a paper's."""

from __future__ import annotations

from dataclasses import dataclass

from remora.reporting.search_report.record import SearchRecord


@dataclass(frozen=True)
class Beside:
    """One variant on one benchmark."""

    variant: str
    benchmark: str
    published: float
    ours: float | None
    """None if it was not measured here."""
    low: float | None
    high: float | None

    @property
    def inside(self) -> bool:
        """Whether the published figure lies in the interval of ours."""
        return self.low is not None and self.high is not None and self.low <= self.published <= self.high


def beside(record: SearchRecord) -> tuple[Beside, ...]:
    """Every published figure of the space, in its order."""
    scores = {v.name: v.scores for v in record.variants}
    found = []
    for variant, figures in (record.space.published if record.space else {}).items():
        for benchmark, published in figures.items():
            # mme.cognition is a figure of mme beside its headline one
            name, _, figure = benchmark.partition(".")
            score = scores.get(variant, {}).get(name)
            if score and not figure:
                found.append(Beside(variant, benchmark, published, score["accuracy"], *score["ci"]))
            else:
                ours = score["metrics"].get(figure) if score else None
                found.append(Beside(variant, benchmark, published, ours, None, None))
    return tuple(found)
