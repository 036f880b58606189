"""The papers' benchmarks by name: one module each, scored by the published rules."""

from remora.errors import UnknownName, nearest
from remora.evaluation.benchmarks.base import Benchmark, score
from remora.evaluation.benchmarks.gqa import GQA
from remora.evaluation.benchmarks.mmbench import MMBench
from remora.evaluation.benchmarks.mmmu import MMMU

BENCHMARKS: dict[str, Benchmark] = {b.name: b for b in (GQA(), MMBench(), MMMU())}


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name; UnknownName lists those there are."""
    if name not in BENCHMARKS:
        raise UnknownName(f"unknown benchmark {name!r}{nearest(name, BENCHMARKS)}; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


__all__ = ["BENCHMARKS", "Benchmark", "benchmark", "score"]
