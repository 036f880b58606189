"""`remora evaluate`: measure a model on the papers' benchmarks and on your own."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from remora import catalog
from remora.commands.cards import keep_cards
from remora.commands.options import EvaluateOptions
from remora.commands.run import executor_of, say
from remora.data.outputs import writes
from remora.errors import DataError, SpecError
from remora.evaluation.measured import Measured
from remora.evaluation.score import scores_html
from remora.files import write_json
from remora.inference.bundle import check_bundle, weights_digest, with_weights
from remora.pipeline.measure import notes, prepare
from remora.pipeline.suite import evaluate as run
from remora.reporting.bars import counted
from remora.reporting.columns import literal
from remora.reporting.reports import print_measured
from remora.reporting.tables import published_table
from remora.runs import Store
from remora.spec import Cluster, validate
from remora.tracking import Model, find_model


@dataclass(frozen=True)
class Evaluation:
    """The result of `remora evaluate`."""

    model: Model
    measured: tuple[Measured, ...]
    """By benchmark, in the requested order."""

    def _repr_html_(self) -> str:
        """The scores, in a notebook."""
        return scores_html(self.model.name, (one.score for one in self.measured if one.score))


def evaluate(options: EvaluateOptions) -> None:
    """Ask a model every question of some benchmarks, score its answers, and record both in MLflow."""
    console = literal(stderr=options.json)
    # Ray prints messages about its workers on stdout, which must hold only JSON.
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        found = evaluated(options, console, say)
    if options.json:
        reports = {o.benchmark: o.report.as_json() for o in found.measured if o.report}
        sys.stdout.write(json.dumps(reports, indent=1) + "\n")
    for each in found.measured:
        print_measured(each, console, briefly=options.json)
    beside = {o.benchmark: o.score.accuracy for o in found.measured if o.score and o.benchmark in catalog.PAPERS}
    if beside and not options.json:
        console.print(published_table(found.model.name, beside))


def evaluated(options: EvaluateOptions, console: Console, tell: Callable[..., None]) -> Evaluation:
    """The result of each benchmark; `console` shows progress, `tell` gets messages about Ray.

    Raises:
        RemoraError: what stopped it; finished benchmarks are kept.
    """
    store = Store(options.runs)
    names = [n for given in options.benchmarks for n in given.split(",") if n]
    if names == ["all"]:
        names = list(catalog.PAPERS)
    if not names:
        known = ", ".join(catalog.PAPERS)
        raise DataError(f"--benchmarks names none; there are: {known}; see: remora catalog benchmarks")
    model = find_model(options.model, options.runs, options.tracking_uri)
    if options.local and options.workers != 1:
        alone = f"--local answers in this process; --workers {options.workers} is for Ray"
        raise SpecError(f"{alone}; leave out one of them")
    store.check_writable()
    # Missing and damaged files are found before a cluster is started.
    check_bundle(model.folder)
    bundle = with_weights(model.folder, options.weights, store.cache)
    prepared = [prepare(name, store, options.data) for name in dict.fromkeys(names)]
    console.print(f"model: {model.shown}, weights {weights_digest(bundle)[:12]}", highlight=False, soft_wrap=True)

    def wait(holder: str) -> None:
        console.print(f"waiting for {holder}: it asks this model the same questions", highlight=False)

    def note(text: str) -> None:
        console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)

    for text in (text for each in prepared for text in notes(each)):
        note(text)
    asked = {"workers": options.workers, "gpus_per_worker": options.gpus_per_worker}
    cluster = validate(Cluster, asked, "remora evaluate")
    with executor_of(options.place, tell) as executor, counted(console) as hear:
        measured = run(bundle, prepared, store, executor, cluster, options.tracking_uri, options.protocol,
                    options.limit, options.judge_model, hear, wait, note)  # fmt: skip
    if options.out:
        for each in measured:
            if each.report:
                with writes(options.out, "--out"):
                    write_json(options.out / f"{each.benchmark}.json", each.report.as_json())
    if problem := keep_cards(options.runs, [(bundle, None)]):
        note(problem)
    return Evaluation(model, tuple(measured))
