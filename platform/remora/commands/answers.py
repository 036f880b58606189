"""`remora answers`: what several models answered to the questions of a benchmark, side by side.

remora answers base-Eff-2M-mlp share-Eff-2M-mlp --benchmark easy-vqa --only differing
remora answers base-Eff-2M-mlp share-Eff-2M-mlp --benchmark easy-vqa --html answers.html
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from PIL import Image

from remora.commands.answers_options import AnswersOptions
from remora.commands.compare import reports_named
from remora.data.outputs import writes
from remora.errors import BrokenRecord, DataError, SpecError, nearest, several
from remora.evaluation.benchmarks import benchmark, located
from remora.evaluation.question import Question, Shown
from remora.evaluation.report import Report
from remora.reporting.answers import AnsweredQuestion, Given, outcome, print_answers, write_gallery
from remora.reporting.columns import console as wide_console
from remora.runs import Store

ON_A_PAGE, IN_A_TERMINAL = 200, 20


def answers(options: AnswersOptions) -> None:
    """Print or write the questions with every model's answer."""
    found, reports = answered(options)
    counts = {kind: sum(outcome(q) == kind for q in found) for kind in ("right", "wrong", "differing")}
    chosen = [q for q in found if options.only in ("all", outcome(q))]
    if options.json:
        of = chosen[: options.samples]
        sys.stdout.write(json.dumps([q.as_json() | {"outcome": outcome(q)} for q in of], indent=1) + "\n")
        return
    most = options.samples or (ON_A_PAGE if options.html else IN_A_TERMINAL)
    shown, console = chosen[:most], wide_console()
    said = ", ".join(f"{n:,} {kind}" for kind, n in counts.items())
    left = f"; the first {most:,} of {len(chosen):,} are shown (-n N shows more)" if len(chosen) > most else ""
    title = f"{reports[0].benchmark}: {several(len(found), 'question')}, {said}{left}"
    if options.html:
        with writes(options.html, "--html"):
            write_gallery(options.html, title, list(options.models), shown, _opened)
        console.print(f"{options.html}: {title}", highlight=False, soft_wrap=True)
        return
    print_answers(console, title, shown)


def answered(options: AnswersOptions) -> tuple[list[AnsweredQuestion], list[Report]]:
    """Every question that was asked of all models, with their answers; the models' reports.

    Raises:
        RemoraError: no such model or benchmark, or a model was not measured on it.
    """
    if len(set(options.models)) < len(options.models):
        raise SpecError(f"a model is named twice: {', '.join(options.models)}")
    if options.samples is not None and options.samples < 1:
        raise SpecError(f"-n {options.samples}: give how many questions, 1 or more")
    chosen, store = benchmark(options.benchmark), Store(options.runs)
    reports = [_report(options, given, chosen.name) for given in options.models]
    questions: dict[str | int, Question] = {}
    for question in chosen.questions(located(options.benchmark, store.data, options.data)):
        questions.setdefault(question.id, question)
    items = [{item.id: item for item in report.items} for report in reports]
    halves = [_half(report) for report in reports]
    both = [id for id in items[0] if id in questions and all(id in one for one in items)]
    if not both:
        raise DataError(f"no question of {chosen.name} was asked of all of {', '.join(options.models)}")
    return [
        AnsweredQuestion(
            id,
            questions[id].text,
            questions[id].pictures,
            items[0][id].gold,
            tuple(
                Given(name, one[id].answer, one[id].parsed, one[id].score, one[id].score >= half)
                for name, one, half in zip(options.models, items, halves, strict=True)
            ),
        )
        for id in both
    ], reports


def _half(report: Report) -> float:
    """From which score on an answer counts as right: half of the best that this report's scale has."""
    return max([1.0, *(item.score for item in report.items)]) / 2


def _report(options: AnswersOptions, given: str, name: str) -> Report:
    kept = reports_named(given, options.runs, options.tracking_uri)
    for one in kept:
        if one.report.benchmark == name:
            return one.report
    known = list(dict.fromkeys(one.report.benchmark for one in kept))
    measured = f"it was measured on {', '.join(known)}" if known else "it was not measured"
    next_command = f"next: remora evaluate {given} --benchmarks {options.benchmark}"
    raise DataError(f"{given} has no answers on {name}{nearest(name, known)}; {measured}; {next_command}")


def _opened(shown: Sequence[Shown]) -> list[Image.Image | str]:
    """Each picture, or why it cannot be read."""
    found: list[Image.Image | str] = []
    for one in shown:
        try:
            found.append(one.open())
        except (BrokenRecord, DataError) as e:
            found.append(str(e))
    return found
