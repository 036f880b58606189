"""The papers' benchmarks by name: one module each, scored by the published rules; and everybody's own."""

import sys
from pathlib import Path

from remora import catalog
from remora.catalog.entries import Benchmark as Entry
from remora.errors import DataError
from remora.evaluation.benchmarks.base import Benchmark, score
from remora.evaluation.benchmarks.gqa import GQA
from remora.evaluation.benchmarks.llava_bench import LLaVABench
from remora.evaluation.benchmarks.mmbench import MMBench, MMBenchCN
from remora.evaluation.benchmarks.mme import MME
from remora.evaluation.benchmarks.mmmu import MMMU
from remora.evaluation.benchmarks.mmvet import MMVet
from remora.evaluation.benchmarks.own import Own
from remora.evaluation.benchmarks.pope import POPE
from remora.evaluation.benchmarks.scienceqa import ScienceQA
from remora.evaluation.benchmarks.seed import SEED
from remora.evaluation.benchmarks.textvqa import TextVQA
from remora.evaluation.benchmarks.vizwiz import VizWiz
from remora.evaluation.benchmarks.vqav2 import VQAv2
from remora.evaluation.report import Report
from remora.spec import load, validate

BENCHMARKS: dict[str, Benchmark] = {
    b.name: b
    for b in (
        *(VQAv2(), GQA(), VizWiz(), ScienceQA(), TextVQA(), POPE(), MME(), MMBench(), MMBenchCN(), SEED(), MMMU()),
        *(MMVet(), LLaVABench()),
    )
}

FOLDERS: dict[str, tuple[str, ...]] = {
    "mme": ("mme", "MME"),
    "mmbench-cn": ("mmbench-cn", "mmbench_cn"),
    "seed": ("seed", "seed_bench"),
    "mmvet": ("mmvet", "mm-vet"),
    "llava-bench": ("llava-bench", "llava-bench-in-the-wild"),
    "mmmu": ("mmmu", "MMMU"),
}
"""The folders that a benchmark may be in below playground/data/eval, where it is not its name (LLaVA's layout)."""


def summary(chosen: Benchmark) -> str:
    """What a benchmark asks, in a line: the first paragraph of its module."""
    return " ".join((sys.modules[type(chosen).__module__].__doc__ or "").partition("\n\n")[0].split())


def benchmark(name: str) -> Benchmark:
    """The published benchmark of that name, or the one in the YAML file that `name` is the path of, or the catalog's.

    Raises:
        UnknownName: there is none; it lists those there are.
        SpecError: the YAML breaks a rule.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if name.endswith((".yaml", ".yml")):
        return Own(Path(name).stem, load(Entry, name))
    catalog.check_benchmark(name)
    return Own(name, catalog.benchmark(name))


def benchmark_of(report: Report) -> Benchmark:
    """The benchmark that a report is of. An own one's YAML need not be there any more.

    Raises:
        UnknownName: a published benchmark that is not known here.
        SpecError: what the report holds of its own benchmark breaks a rule.
    """
    if report.own is None:
        return benchmark(report.benchmark)
    return Own(report.benchmark, validate(Entry, report.own, f"the report of {report.benchmark}"))


def located(name: str, runs_data: Path, eval_data: Path | None = None) -> Path:
    """The data of the benchmark of that name: `eval_data`, or <run folder>/data/eval, holds a folder for each published
    one, as LLaVA's playground/data/eval does; a folder of one benchmark's files may be given as it is.

    Raises:
        DataError: there is no such folder.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name).absolute().parent
    if name not in BENCHMARKS:
        return runs_data
    root = (eval_data or runs_data / "eval").absolute()
    names = FOLDERS.get(name, (name,))
    for folder in names:
        if (root / folder).is_dir():
            return root / folder
    if eval_data is not None and root.exists():
        return root
    raise DataError(
        f"no data of benchmark {name!r}: {root} holds no folder {' or '.join(names)}; put its published files there, "
        "or give their folder with --data DIR (docs/benchmarks.md)"
    )


__all__ = ["BENCHMARKS", "Benchmark", "Own", "benchmark", "benchmark_of", "located", "score", "summary"]
