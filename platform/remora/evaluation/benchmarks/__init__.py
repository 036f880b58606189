"""The papers' benchmarks by name (catalog/papers.py), scored by the published rules; and your own.

A benchmark's package is loaded on demand.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from remora.catalog.papers import PAPERS
from remora.errors import DataError
from remora.evaluation.benchmarks.protocol import Benchmark, score
from remora.evaluation.report import Report


def summary(chosen: Benchmark) -> str:
    """A benchmark's one-line description: the first paragraph of its module."""
    return " ".join((sys.modules[type(chosen).__module__].__doc__ or "").partition("\n\n")[0].split())


def benchmark(name: str) -> Benchmark:
    """The published benchmark of that name, the one in the YAML file at that path, or the catalog's.

    Raises:
        UnknownName: there is none; the message lists the existing ones.
        SpecError: the YAML breaks a rule.
    """
    if name in PAPERS:
        module, _, kind = PAPERS[name].protocol.partition(":")
        found: Benchmark = getattr(import_module(module), kind)(name, PAPERS[name].title)
        return found
    from remora.evaluation.benchmarks.own import own_benchmark

    return own_benchmark(name)


def benchmark_of(report: Report) -> Benchmark:
    """A report's benchmark. The YAML of one of your own is not needed any more.

    Raises:
        UnknownName: an unknown published benchmark.
        SpecError: the report's copy of the YAML breaks a rule.
    """
    if report.own is None:
        return benchmark(report.benchmark)
    from remora.evaluation.benchmarks.own import kept_benchmark

    return kept_benchmark(report.benchmark, report.own)


def folders(name: str) -> tuple[str, ...]:
    """The possible folder names of a published benchmark's files, the usual one first."""
    return PAPERS[name].folders or (name,)


def located(name: str, runs_data: Path, eval_data: Path | None = None) -> Path:
    """The data of the benchmark of that name. `eval_data`, or <run folder>/data/eval, holds one folder per published
    benchmark, like LLaVA's playground/data/eval; `eval_data` may also be a single benchmark's folder.

    Raises:
        DataError: there is no such folder.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name).absolute().parent
    if name not in PAPERS:
        return runs_data
    root = (eval_data or runs_data / "eval").absolute()
    for folder in folders(name):
        if (root / folder).is_dir():
            return root / folder
    if eval_data is not None and root.exists():
        return root
    raise DataError(
        f"no data of benchmark {name!r}: {root} holds no folder {' or '.join(folders(name))}; put its published files "
        "there, or give their folder with --data DIR (docs/benchmarks.md)"
    )


__all__ = ["Benchmark", "benchmark", "benchmark_of", "folders", "located", "score", "summary"]
