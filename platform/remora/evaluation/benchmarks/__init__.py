"""The papers' benchmarks by name: one module each, scored by the published rules."""

from remora.errors import UnknownName, nearest
from remora.evaluation.benchmarks.base import Benchmark, score
from remora.evaluation.benchmarks.gqa import GQA
from remora.evaluation.benchmarks.mme import MME
from remora.evaluation.benchmarks.pope import POPE
from remora.evaluation.benchmarks.scienceqa import ScienceQA
from remora.evaluation.benchmarks.seed import SEED

BENCHMARKS: dict[str, Benchmark] = {b.name: b for b in (GQA(), MME(), POPE(), ScienceQA(), SEED())}


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name; UnknownName lists those there are."""
    if name not in BENCHMARKS:
        raise UnknownName(f"unknown benchmark {name!r}{nearest(name, BENCHMARKS)}; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


__all__ = ["BENCHMARKS", "Benchmark", "benchmark", "score"]
