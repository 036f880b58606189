"""`remora compare`: two models, or two reports, on the same questions."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from remora.errors import DataError
from remora.evaluation.compare import compare_reports
from remora.evaluation.kept import Kept, pairs, read_report, reports_of
from remora.evaluation.measured import SCORE
from remora.evaluation.sheet import ABOUT, REPORT
from remora.reporting.fitting import console as wide_console
from remora.reporting.tables import compared_table


def compare(args: argparse.Namespace) -> None:
    """Paired tests of two models on every benchmark that both were measured on."""
    first, second = _reports(args, args.a), _reports(args, args.b)
    if {k.file.resolve() for k in first} & {k.file.resolve() for k in second}:
        raise DataError(
            f"{args.a} and {args.b} are one model: both have the answers in {first[0].file.parent}; name another"
        )
    both = pairs(first, second)
    if not both:
        of = [", ".join(dict.fromkeys(k.report.benchmark for k in kept)) or "nothing" for kept in (first, second)]
        raise DataError(
            f"nothing to compare: {args.a} was measured on {of[0]}, {args.b} on {of[1]}; "
            "next: remora evaluate MODEL --benchmarks NAME"
        )
    found = compare_reports(both, args.all)
    if args.json:
        sys.stdout.write(json.dumps({n: c.as_json() for n, c in found.items()}, indent=1) + "\n")
        return
    console = wide_console()
    console.print(compared_table(str(args.a), str(args.b), found))
    for line in [w for c in found.values() for w in c.warnings]:
        console.print(f"! {line}", markup=False, highlight=False, soft_wrap=True)


def _reports(args: argparse.Namespace, given: str) -> list[Kept]:
    """The reports that an argument means: a report's file, a folder of them, or a model that was measured."""
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

    model = find_model(given, args.runs, args.tracking_uri).folder
    return reports_of(args.runs / "scores", weights_digest(model))
