"""Ray Tune: slots for a search's orders, as many as the cluster has room for.

    remora search tune/demo.yaml
    ray job submit --working-dir . -- python tune/search.py tune/demo.yaml

A trial of Tune's is a slot: a process that performs one order after the other, a stage run up to its next rung or a
measurement. Tune opens one more while it has room and there is an order that no open slot is free for. So no room is
held by a variant that waits. Tune's own schedulers and its restore are not used: what a search knows is in the run
folder (docs/decisions/search.md).
"""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path
from typing import Any

from remora.carrier import ours, pack, unpack
from remora.cluster.executor import OnRay
from remora.cluster.session import cpus_and_gpus
from remora.errors import WorkerError
from remora.pipeline.search.crew import Crew
from remora.pipeline.search.perform import Order, perform
from remora.pipeline.search.slots import OrderSource, Slots, orders
from remora.runs.leftovers import attempt
from remora.spec import Space

QUIET = ("execution.tune_controller", "tune", "analysis.experiment_analysis")
"""Tune's modules that log a page for each slot that dies, and at the end that it has no tables. `Slots` has a line."""


class OnTune:
    """Needs a Ray session."""

    def work(self, driver: OrderSource) -> None:
        # Tune would take the first Ctrl-C as a wish to end the experiment some time; stage runs are safe, so stop at
        # once.
        os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
        # Its newer output prints a heading on stdout at any verbosity, of "9223372036854775807 trials".
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        # Nobody reads its tables of results: its folder is deleted.
        os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        for module in QUIET:
            logging.getLogger(f"ray.tune.{module}").setLevel(logging.CRITICAL)
        name = f"{driver.space.name}-{uuid.uuid4().hex[:8]}"
        with attempt(driver.runs, name):
            _tuned(driver, name)


_CREW: Crew | None = None
"""Of a slot's process."""


def _performed(order: Order, runs: Path) -> dict[str, object]:
    """What a slot does with an order. A failure is a result; only if this process dies, another slot tries again."""
    global _CREW
    _CREW = _CREW or Crew(OnRay(), order.variant.cluster, runs)
    for left in reversed(range(order.variant.cluster.max_failures + 1)):
        try:
            return {"performed": perform(order, runs, _CREW)}
        except Exception as e:  # noqa: BLE001 (whatever it is, the search waits for it)
            error = ours(e, runs / "logs")
            if not left or not isinstance(error, WorkerError):
                return {"error": pack(error)}
    raise AssertionError


def _tuned(driver: OrderSource, name: str) -> None:
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter, Searcher

    space, runs = driver.space, driver.runs
    slots = Slots(driver, runs / "ray" / name / "slots")

    class SlotOpener(Searcher):
        """Opens slots as long as there is work for one more, and hears what they did."""

        def __init__(self) -> None:
            super().__init__()
            self.names: dict[str, str] = {}

        def suggest(self, trial_id: str) -> Any:
            slot = f"slot-{len(self.names) + 1}"
            if (file := slots.open(slot)) is None:
                return Searcher.FINISHED if slots.over else None
            self.names[trial_id] = slot
            return {"slot": slot, "orders": str(file)}

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            number, problem, performed = (result[key] for key in ("order", "error", "performed"))
            slots.performed(self.names[trial_id], number, unpack(problem) or performed)

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            slots.died(self.names[trial_id])  # or it was let go: then it has no order

        def save(self, checkpoint_path: str) -> None:
            """Nothing: see the module's first lines."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing."""

        def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
            return Searcher, ()  # Tune pickles it beside its trials, for a restore that is not used

    class EachStep(tune.Callback):
        """Tune asks for no trial while there is no room; somebody may want the search to end, and a slot may wait for
        what another search trains."""

        def on_step_begin(self, iteration: int, trials: object, **info: object) -> None:
            driver.look()
            slots.feed()

    def slot(config: dict[str, Any]) -> None:
        for order in orders(Path(config["orders"])):
            tune.report({"order": order.number, "error": "", "performed": None} | _performed(order, runs))

    tune.Tuner(
        # A slot's own process only waits for its workers, so it takes no CPU from them; Tune wants one resource.
        tune.with_resources(slot, {"CPU": 0, "memory": 64 * 2**20}),
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(SlotOpener(), max_concurrent=space.concurrent or _concurrent(space)),
            num_samples=-1,  # until nothing is left
            trial_name_creator=lambda trial: trial.config["slot"],
            trial_dirname_creator=lambda trial: trial.config["slot"],
        ),
        run_config=tune.RunConfig(name=name, storage_path=str(runs / "ray"), verbose=0, callbacks=[EachStep()]),
    ).fit()
    if slots.error:
        raise slots.error


def _concurrent(space: Space) -> int:
    """As many groups of workers as the cluster has room for; one more would wait until Ray gives up on it."""
    return max(1, space.cluster.groups(*cpus_and_gpus()))
