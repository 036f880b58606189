"""`remora score`: the figures of an answer file that anything wrote. No model, no Ray."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table

from remora.evaluation.benchmarks import benchmark
from remora.evaluation.benchmarks import score as graded
from remora.evaluation.judge import judge_from_environment
from remora.evaluation.report import Report
from remora.reporting.fitting import console, digits


def score(args: argparse.Namespace) -> None:
    """Print a report, as JSON or as a table with every warning."""
    chosen = benchmark(args.benchmark)
    cache = args.runs / "cache" / "judge"
    judged = chosen.judged or args.judge_model
    judge = judge_from_environment(cache, args.judge_model, chosen.judge_model) if judged else None
    report = graded(chosen, args.data, args.answers, args.protocol, args.questions, judge)
    if args.json:
        sys.stdout.write(json.dumps(report.as_json(), indent=1) + "\n")
    else:
        show(report, console())


def show(report: Report, out: Console) -> None:
    judge = f", judged by {report.judge}" if report.judge else ""
    out.print(f"{report.benchmark}, protocol {report.protocol}, {report.n:,} questions{judge}", highlight=False)
    table = Table()
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("95%", justify="right")
    for name, value in report.metrics.items():
        low, high = report.intervals[name]
        n = digits(high - low, most=4)
        table.add_row(name, f"{value:.{n}f}", f"{low:.{n}f} to {high:.{n}f}")
    out.print(table)
    for line in report.warnings:
        out.print(f"! {line}", markup=False, highlight=False, soft_wrap=True)
