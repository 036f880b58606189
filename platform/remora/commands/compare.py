"""`remora compare`: two models, or two reports, on the same questions."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from remora.commands.options import CompareOptions
from remora.errors import DataError
from remora.evaluation.compare import Compared, compare_reports
from remora.evaluation.kept import Kept, pairs, read_report, reports_of
from remora.evaluation.sheet import ABOUT, REPORT, SCORE
from remora.reporting.columns import console as wide_console
from remora.reporting.tables import compared_table


def compare(options: CompareOptions) -> None:
    """Print paired tests of two models on every benchmark that both were measured on."""
    found = compared(options)
    if options.json:
        sys.stdout.write(json.dumps({n: c.as_json() for n, c in found.items()}, indent=1) + "\n")
        return
    console = wide_console()
    console.print(compared_table(options.a, options.b, found))
    for line in [w for c in found.values() for w in c.warnings]:
        console.print(f"! {line}", markup=False, highlight=False, soft_wrap=True)


def compared(options: CompareOptions) -> dict[str, Compared]:
    """The differences, by benchmark.

    Raises:
        RemoraError: no such model or report, both are the same, or they share no benchmark.
    """
    first, second = (reports_named(given, options.runs, options.tracking_uri) for given in (options.a, options.b))
    if {k.file.resolve() for k in first} & {k.file.resolve() for k in second}:
        raise DataError(
            f"{options.a} and {options.b} are one model: both have the answers in {first[0].file.parent}; name another"
        )
    both = pairs(first, second)
    if not both:
        of = [", ".join(dict.fromkeys(k.report.benchmark for k in kept)) or "nothing" for kept in (first, second)]
        raise DataError(
            f"nothing to compare: {options.a} was measured on {of[0]}, {options.b} on {of[1]}; "
            "next: remora evaluate MODEL --benchmarks NAME"
        )
    return compare_reports(both, options.all)


def reports_named(given: str, runs: Path, tracking_uri: str | None) -> list[Kept]:
    """The reports that an argument names: a report's file, a folder of them, or a measured model."""
    path = Path(given)
    if path.is_file():
        return [read_report(path)]
    if not (path / "bundle.json").exists():
        files = sorted([*path.glob("*.json"), *path.glob(f"*/{REPORT}")])
        if files := [f for f in files if f.name not in (ABOUT, SCORE)]:
            return [read_report(f) for f in files]
    # Loaded here: comparing two files needs no registry.
    from remora.inference.bundle import weights_digest
    from remora.tracking import find_model

    model = find_model(given, runs, tracking_uri).folder
    return reports_of(runs / "scores", weights_digest(model))
