"""Ray Tune: a search's orders, as many at a time as the cluster has room for.

    remora search tune/demo.yaml
    ray job submit --working-dir . -- python tune/search.py tune/demo.yaml

A trial of Tune's is one order: a stage run up to its next rung, or a measurement. Tune asks for the next one when it
has room; that nothing is ready yet is an answer too. So no room is held by a variant that waits. Tune's own schedulers
and its restore are not used: what a search knows is in the run folder (docs/decisions/search.md).
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from remora.carrier import carried, pack, unpack
from remora.cluster.executor import OnRay
from remora.cluster.session import cpus_and_gpus
from remora.errors import RemoraError, WorkerError
from remora.pipeline.search.crew import Crew
from remora.pipeline.search.driver import Driver
from remora.pipeline.search.perform import Order, Performed, as_plain, perform, read
from remora.runs.leftovers import attempt
from remora.spec import Space


class OnTune:
    """Needs a Ray session."""

    def work(self, driver: Driver) -> None:
        # Tune would take the first Ctrl-C as a wish to end the experiment some time; stage runs are safe, so stop at
        # once.
        os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
        # Its newer output prints a heading on stdout at any verbosity, of "9223372036854775807 trials".
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        name = f"{driver.space.name}-{uuid.uuid4().hex[:8]}"
        with attempt(driver.runs, name):
            _tuned(driver, name)


_CREW: Crew | None = None
"""Of a trial's process, which Tune uses again for the next trial."""


def _performed(order: Order, runs: Path) -> dict[str, object]:
    """What a trial of Tune's does. A failure is a result; only if this process dies, Tune tries again."""
    global _CREW
    _CREW = _CREW or Crew(OnRay(), order.variant.cluster, runs)
    for left in reversed(range(order.variant.cluster.max_failures + 1)):
        try:
            with carried(runs / "logs"):
                return {"performed": perform(order, runs, _CREW)}
        except RemoraError as e:
            if not left or not isinstance(e, WorkerError):
                return {"error": pack(e)}
    raise AssertionError


def _tuned(driver: Driver, name: str) -> None:
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter, Searcher

    space, runs = driver.space, driver.runs
    errors: list[BaseException] = []

    class Ready(Searcher):
        """Asks the driver for what is ready."""

        def __init__(self) -> None:
            super().__init__()
            self.numbers: dict[str, int] = {}

        def suggest(self, trial_id: str) -> Any:
            try:
                order = None if errors else driver.next()
            except RemoraError as e:  # Tune would go on without us
                errors.append(e)
                order = None
            if order is None:
                return Searcher.FINISHED if errors or driver.over else None
            self.numbers[trial_id] = order.number
            what = order.run if order.kind == "train" else f"measure-{order.variant.name or order.run}"
            return {"what": what, "order": as_plain(order)}

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            if (number := self.numbers.pop(trial_id, None)) is None:
                return
            found = result or {}
            try:
                if problem := unpack(found.get("error", "")):
                    driver.failed(number, problem)
                elif isinstance(performed := found.get("performed"), Performed):
                    driver.done(number, performed)
                else:
                    driver.failed(number, lost(trial_id))
            except RemoraError as e:
                errors.append(e)

        def save(self, checkpoint_path: str) -> None:
            """Nothing: see the module's first lines."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing."""

        def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
            return Searcher, ()  # Tune pickles it beside its trials, for a restore that is not used

    class StopAsked(tune.Callback):
        """Tune asks for no trial while there is no room, and somebody may want the search to end."""

        def on_step_begin(self, iteration: int, trials: object, **info: object) -> None:
            driver.look()

    def lost(trial_id: str) -> RemoraError:
        return WorkerError(f"the process of trial {trial_id} died again and again; look at the memory of its node")

    def trial(config: dict[str, Any]) -> None:
        tune.report(_performed(read(config["order"]), runs))

    tune.Tuner(
        # A trial's own process only waits for its workers, so it takes no CPU from them; Tune wants one resource.
        tune.with_resources(trial, {"CPU": 0, "memory": 64 * 2**20}),
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(Ready(), max_concurrent=space.concurrent or _concurrent(space)),
            num_samples=-1,  # until nothing is left
            reuse_actors=True,  # the next trial needs no process and no imports of its own
            trial_name_creator=lambda trial: trial.config["what"],
            trial_dirname_creator=lambda trial: f"{trial.config['what']}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(runs / "ray"),
            verbose=0,
            callbacks=[StopAsked()],
            failure_config=tune.FailureConfig(max_failures=space.cluster.max_failures),
        ),
    ).fit()
    if errors:
        raise errors[0]


def _concurrent(space: Space) -> int:
    """As many groups of workers as the cluster has room for; one more would wait until Ray gives up on it."""
    return max(1, space.cluster.groups(*cpus_and_gpus()))
