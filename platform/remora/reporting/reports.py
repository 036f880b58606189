"""The figures of a benchmark as a table, with its warnings."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from remora.evaluation.measured import Measured
from remora.evaluation.report import Report
from remora.reporting.columns import digits


def print_report(report: Report, out: Console) -> None:
    """Print each figure with its interval, then every warning."""
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


def print_measured(found: Measured, out: Console, briefly: bool) -> None:
    """Print the figures of a benchmark, or why there are none, and the folder of its files."""
    if found.unscored:
        out.print(f"{found.benchmark}: no score here: {found.unscored}", highlight=False, soft_wrap=True)
    elif found.report and not briefly:
        print_report(found.report, out)
    for upload in found.uploads:
        out.print(f"to submit: {upload}", highlight=False, soft_wrap=True)
    out.print(f"answers: {found.folder}", highlight=False, soft_wrap=True)
