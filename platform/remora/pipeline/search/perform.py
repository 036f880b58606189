"""An item of a search done: a stage run trained up to its next rung or its end, or a variant measured.

A slot of Ray Tune performs an order, or this process with `--local`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from remora import tracking
from remora.pipeline import answer_speed, tracked_runs
from remora.pipeline.executor import Task
from remora.pipeline.measure import prepare
from remora.pipeline.search.crew import Trainer
from remora.pipeline.search.verdict import RungWatch
from remora.pipeline.variant import Outcome, bundled, hold, lacking, measured, outcome, status_file
from remora.runs import StageRun, Store, path, variant_name
from remora.spec import Variant
from remora.training import journal


@dataclass(frozen=True)
class Order:
    """An item, as plain values that any process can read."""

    number: int
    """Of the search's ledger."""
    kind: Literal["train", "measure"]
    search: str
    key: str
    """Of the search's run in MLflow."""
    variant: Variant
    run: str
    """The stage run's name; the last one's, if the variant is to be measured."""
    watch: RungWatch | None = None
    speed: str = ""
    """The benchmark by whose questions its speed is measured; none if empty."""


@dataclass(frozen=True)
class Performed:
    """What came of an order."""

    ended: Literal["trained", "reused", "paused", "measured"]
    steps: int = 0
    """Optimiser steps that were taken."""
    again: int = 0
    """Those among them that an interruption had taken away."""
    outcome: Outcome | None = None
    """Of a measured variant; its stages are not told."""
    at: int | None = None
    """Steps that had ever been taken of a stage run before."""


def perform(order: Order, runs: Path, trainer: Trainer) -> Performed:
    """Do it.

    Raises:
        RemoraError: what stopped it.
    """
    store, variant = Store(runs), order.variant
    lineage = path(variant, store.data)
    status = status_file(runs, order.search, variant_name(variant))
    try:
        if order.kind == "train":
            (run,) = (r for r in lineage if r.name == order.run)
            return _train(run, tracked_runs.variant_key(lineage, order.key), order, store, trainer, status)
        with lacking(lineage, variant, store, status) as tasks:
            for task in tasks:
                trainer.train(task)
        trainer.close()  # questions need its room
        benchmarks = [prepare(b, store) for b in variant.benchmarks]
        bundle = bundled(variant, lineage, store)
        journal.append(status, "evaluating")
        key = tracked_runs.variant_key(lineage, order.key)
        tracked = tracking.Run.again(runs, key)
        found = measured(variant, benchmarks, bundle, store, trainer.executor, tracked, status)
        if order.speed:
            (by,) = (p for b, p in zip(variant.benchmarks, benchmarks, strict=True) if b == order.speed)
            speed = answer_speed.of(by, found[order.speed].folder, bundle, store, trainer.executor, variant.cluster)
            tracked.note(metrics=answer_speed.figures(speed))
    except BaseException as e:
        journal.append(status, "failed", error=str(e))
        raise
    journal.append(status, "finished", bundle=str(bundle))
    return Performed("measured", outcome=outcome(variant_name(variant), bundle, key, found, {}))


def _train(run: StageRun, parent: str, order: Order, store: Store, trainer: Trainer, status: Path) -> Performed:
    variant = order.variant
    with hold(run, store, status) as mine:
        if not mine:
            return Performed("reused")
        before = journal.taken(store.journal(run))
        job = store.prepare(run, variant.cluster)
        if order.watch:
            job = replace(job, rungs=order.watch.stopping.rungs)
        with tracked_runs.stage_run(run, variant, store.runs, parent):
            task = Task(run.name, job, tracked_runs.published_record(run, variant), status, watch=order.watch)
            ended = trainer.train(task)
        steps, again = (now - then for now, then in zip(journal.taken(store.journal(run)), before, strict=True))
        return Performed(ended, steps, again, at=before[0])


def as_plain(order: Order) -> dict[str, Any]:
    """As JSON takes it; `read` there."""
    plain = {k: getattr(order, k) for k in ("number", "kind", "search", "key", "run", "speed")}
    watch = order.watch.plain() if order.watch else None
    return plain | {"variant": order.variant.model_dump(mode="json"), "watch": watch}


def read(plain: dict[str, Any]) -> Order:
    watch = RungWatch(**plain["watch"]) if plain["watch"] else None
    return Order(**plain | {"variant": Variant.model_validate(plain["variant"]), "watch": watch})
