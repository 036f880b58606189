"""`remora score`: score an answer file from any source. No model, no Ray."""

from __future__ import annotations

import json
import sys

from remora.commands.options import ScoreOptions
from remora.evaluation.benchmarks import benchmark
from remora.evaluation.benchmarks import score as graded
from remora.evaluation.judge import judge_from_environment
from remora.evaluation.report import Report
from remora.reporting.columns import console
from remora.reporting.reports import print_report


def score(options: ScoreOptions) -> None:
    """Print a report, as JSON or as a table with every warning."""
    report = scored(options)
    if options.json:
        sys.stdout.write(json.dumps(report.as_json(), indent=1) + "\n")
    else:
        print_report(report, console())


def scored(options: ScoreOptions) -> Report:
    """The report.

    Raises:
        RemoraError: no such benchmark or protocol, files that do not match it, a judge that does not answer.
    """
    chosen = benchmark(options.benchmark)
    cache = options.runs / "cache" / "judge"
    judged = chosen.judged or options.judge_model
    judge = judge_from_environment(cache, options.judge_model, chosen.judge_model) if judged else None
    return graded(chosen, options.data, options.answers, options.protocol, options.questions, judge)
