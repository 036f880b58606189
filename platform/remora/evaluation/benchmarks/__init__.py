"""The papers' benchmarks by name (catalog/papers.py), scored by the published rules; and everybody's own.

A benchmark's package is loaded when it is asked for.
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
    """What a benchmark asks, in a line: the first paragraph of its module."""
    return " ".join((sys.modules[type(chosen).__module__].__doc__ or "").partition("\n\n")[0].split())


def benchmark(name: str) -> Benchmark:
    """The published benchmark of that name, or the one in the YAML file that `name` is the path of, or the catalog's.

    Raises:
        UnknownName: there is none; it lists those there are.
        SpecError: the YAML breaks a rule.
    """
    if name in PAPERS:
        module, _, kind = PAPERS[name].protocol.partition(":")
        found: Benchmark = getattr(import_module(module), kind)(name, PAPERS[name].title)
        return found
    from remora.evaluation.benchmarks.own import own_benchmark

    return own_benchmark(name)


def benchmark_of(report: Report) -> Benchmark:
    """The benchmark that a report is of. An own one's YAML need not be there any more.

    Raises:
        UnknownName: a published benchmark that is not known here.
        SpecError: what the report holds of its own benchmark breaks a rule.
    """
    if report.own is None:
        return benchmark(report.benchmark)
    from remora.evaluation.benchmarks.own import kept_benchmark

    return kept_benchmark(report.benchmark, report.own)


def folders(name: str) -> tuple[str, ...]:
    """The folders that a published benchmark's files may be in, the usual one first."""
    return PAPERS[name].folders or (name,)


def located(name: str, runs_data: Path, eval_data: Path | None = None) -> Path:
    """The data of the benchmark of that name: `eval_data`, or <run folder>/data/eval, holds a folder for each published
    one, as LLaVA's playground/data/eval does; a folder of one benchmark's files may be given as it is.

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
