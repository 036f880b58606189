"""`remora promote`: move an alias to a model that is not significantly worse than the one it names."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from remora.commands.options import PromoteOptions
from remora.commands.saying import say
from remora.errors import SpecError, TrackingError
from remora.pipeline.promotion import Promotion, history, settle
from remora.pipeline.promotion import promote as run
from remora.reporting.results import history_lines, promotion_lines
from remora.tracking import Tracker, check_alias, find_model


def promote(options: PromoteOptions) -> None:
    """Promote a model and print the figures of the gate, or print what was promoted before."""
    if options.history:
        try:
            settle(options.runs, Tracker(options.runs, options.tracking_uri))
        except TrackingError as e:
            note = f"note: the last promotion did not come to its end, and MLflow cannot say what became of it: {e}"
            (sys.stderr.write(note + "\n") if options.json else say(note))
        if options.json:
            say(json.dumps([asdict(made) for made in history(options.runs)], indent=1))
            return
        say(*history_lines(history(options.runs), options.runs))
        return
    say(*promotion_lines(promoted(options)))


def promoted(options: PromoteOptions) -> Promotion:
    """Promote a model.

    Raises:
        GateError: it is significantly worse than the one that has the alias, or was not measured as that one was.
        RemoraError: no such model, an alias that would never be found, MLflow is down.
    """
    if not options.model:
        raise SpecError("name the model to promote, or ask for --history; next: remora promote MODEL")
    check_alias(options.name, options.alias)
    benchmarks = tuple(b for given in options.benchmarks for b in given.split(",") if b)
    model = find_model(options.model, options.runs, options.tracking_uri)
    tracker = Tracker(options.runs, options.tracking_uri)
    return run(
        model, str(options.model), options.runs, tracker, options.name, options.alias, benchmarks, options.alpha,
        options.force,
    )  # fmt: skip
