"""Search a space with Ray Tune: train shared stage runs once, measure every variant, register the best.

remora search tune/demo.yaml
ray job submit --working-dir . -- python tune/search.py tune/demo.yaml
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remora import tracking
from remora.carrier import carried, ours, pack, unpack
from remora.cluster.executor import OnRay
from remora.cluster.session import cpus_and_gpus
from remora.errors import ClusterError, DataError, RemoraError, SpecError, TrackingError, WorkerError
from remora.evaluation.choice import ChampionChoice
from remora.evaluation.score import Score, as_json
from remora.files import digest, write_json
from remora.pipeline import tracked_runs
from remora.pipeline.choice import choice
from remora.pipeline.variant import Outcome, run_variant
from remora.runs import StageRun, Store, paths, union, variant_name, variants_of
from remora.runs.leftovers import attempt
from remora.spec import Space, Variant

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """The result of a search. `stage_runs` counts those planned, trained and reused."""

    name: str
    outcomes: tuple[Outcome, ...]
    champion: Outcome
    choice: ChampionChoice
    """How far the champion can be told from the others."""
    register_as: str
    """The champion's name in the model registry."""
    version: str | None
    """Its version; None if MLflow could not be reached."""
    stage_runs: dict[str, int]
    seconds: float
    ended: float

    def as_json(self) -> dict[str, Any]:
        return {
            "search": self.name,
            "champion": self.champion.name,
            "choice": self.choice.as_json(),
            "bundle": str(self.champion.bundle),
            "register_as": self.register_as,
            "version": self.version,
            "stage_runs": self.stage_runs,
            "seconds": self.seconds,
            "ended": self.ended,
            "variants": [
                {"name": o.name, "stages": o.stages, "benchmarks": {k: as_json(s) for k, s in o.scores.items()}}
                for o in self.outcomes
            ],
        }


def search_key(space: Space) -> str:
    """The key of a search's MLflow run: it covers what is searched, not where or on how many machines."""
    said = space.model_dump(mode="json", exclude={"cluster": True, "concurrent": True, "champion": {"prefer": True}})
    return f"search/{space.name}/{digest(said)[:24]}"


def _params(space: Space) -> dict[str, Any]:
    said = space.model_dump(mode="json", exclude={"name", "overrides", "cluster"}, exclude_none=True)
    return {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in said.items()}


def _note(space: Space, variants: Mapping[str, tuple[Variant, tuple[StageRun, ...]]], key: str) -> str:
    """The note at the top of the run's page in MLflow, with a link to each variant."""
    which = "the best" if space.champion.prefer == "best" else "the cheapest that cannot be told from the best"
    chosen = f"{which} on {space.champion.benchmark} is registered as {space.champion.register_as}"
    links = [tracking.link(name, tracked_runs.variant_key(lineage, key)) for name, (_, lineage) in variants.items()]
    return "\n".join([f"A search of {len(variants)} variants; {chosen}.", "", *(f"- {link}" for link in links)])


def result_file(runs: Path, search: str) -> Path:
    return runs / "searches" / f"{search}.json"


def check(space: Space, store: Store) -> dict[str, tuple[Variant, tuple[StageRun, ...]]]:
    """Check a space before anything starts; returns every variant by name with its stage runs.

    Raises:
        RemoraError: an unknown name, a broken dataset, a run folder that is not writable.
    """
    if space.champion.benchmark not in space.benchmarks:
        raise SpecError(
            f"champion.benchmark {space.champion.benchmark!r} is not measured; "
            f"benchmarks are: {', '.join(space.benchmarks)}"
        )
    store.check_writable()
    variants = variants_of(space)
    found = paths(variants, store.data)
    return {variant_name(v): (v, found[variant_name(v)]) for v in variants}


def search(space: Space, runs: Path, tracker: tracking.Tracker) -> Result:
    """Train and measure every variant; register the champion. Needs a Ray session.

    While MLflow is down the champion's version is None: the next sync registers it.

    Raises:
        RemoraError: an unusable spec, dataset or cluster, or a variant that failed.
    """
    # Tune would take the first Ctrl-C as a request to end the experiment gracefully; stage runs are safe: stop at once.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    began = time.time()
    store = Store(runs)
    variants = check(space, store)
    lineages = [lineage for _, lineage in variants.values()]
    there = sum(store.finished(run) for run in union(lineages).values())
    key = search_key(space)
    tracked = tracking.Run(
        runs,
        key=key,
        name=space.name,
        tags={tracked_runs.NOTE: _note(space, variants, key), "mlflow.source.name": "remora search"},
        params=_params(space),
        texts={"space.json": space.model_dump_json(indent=1)},
    )

    def trial(name: str) -> dict[str, Any]:
        with carried(runs / "logs"):
            try:
                outcome = run_variant(variants[name][0], runs, OnRay(), space.name, key)
            except WorkerError:
                raise  # Tune retries
            except RemoraError as e:
                return {"error": pack(e)}
        measured = space.champion.benchmark
        if score := outcome.scores.get(measured):
            return {"accuracy": score.accuracy, "outcome": outcome}
        return {
            "error": pack(DataError(f"{measured} has no score here: its server keeps the answers; choose by another"))
        }

    folder = f"{space.name}-{uuid.uuid4().hex[:8]}"
    with tracked:
        with attempt(runs, folder):
            results = _tuned(space, trial, list(variants), runs, folder)
        outcomes = _outcomes(results, list(variants), runs / "logs")
        chosen = choice(outcomes, variants, space.champion.benchmark, space.champion.prefer, store)
        (best,) = (o for o in outcomes if o.name == chosen.chosen)
        version = _registered(best, space, tracker)
        tracked.note(
            tags={"remora.champion": best.name}
            | ({"remora.version": f"{space.champion.register_as} version {version}"} if version else {}),
            # The search's own run has every variant's headline figures, for MLflow's charts.
            metrics={f"{o.name}/{name}": score.accuracy for o in outcomes for name, score in o.scores.items()},
            texts={"choice.json": json.dumps(chosen.as_json(), indent=1)},
        )
    planned = sum(len(lineage) for lineage in lineages)
    trained = sum(state == "trained" for o in outcomes for state in o.stages.values())
    counts = {"planned": planned, "distinct": len(union(lineages)), "trained": trained,
              "reused": planned - trained, "there_before": there}  # fmt: skip
    name, ended = space.champion.register_as, time.time()
    result = Result(space.name, outcomes, best, chosen, name, version, counts, ended - began, ended)
    write_json(result_file(runs, space.name), result.as_json())
    return result


def _registered(best: Outcome, space: Space, tracker: tracking.Tracker) -> str | None:
    """Register the best variant and return its version; None while MLflow is down, of which `tracker` prints a note."""
    tags = _tags(best.scores[space.champion.benchmark])
    try:
        return tracking.register(tracker, space.champion.register_as, best.key, best.bundle, tags=tags)
    except TrackingError as e:
        log.warning("%s is not registered yet: %s", best.name, e)
        return None


def _tuned(space: Space, trial: Callable[[str], dict[str, Any]], variants: list[str], runs: Path, folder: str) -> Any:
    """Run every variant's trial, as many at a time as fit; returns Tune's results."""
    from ray import tune

    def reported(config: dict[str, str]) -> None:
        tune.report(trial(config["variant"]))

    return tune.Tuner(
        # A trial's process only waits for its workers, so it takes no CPU from them; Tune needs one resource.
        tune.with_resources(reported, {"CPU": 0, "memory": 64 * 2**20}),
        param_space={"variant": tune.grid_search(variants)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=space.concurrent or _concurrent(space),
            reuse_actors=True,  # the next trial needs no new process and no imports
        ),
        run_config=tune.RunConfig(
            name=folder,
            storage_path=str(runs / "ray"),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=space.cluster.max_failures),
        ),
    ).fit()


def _tags(score: Score) -> dict[str, str]:
    return {"benchmark": score.benchmark, "accuracy": f"{score.accuracy:.4f}"}


def _concurrent(space: Space) -> int:
    """The number of trials that fit; one more would wait for workers until Ray gives up on it."""
    cpus, gpus = cpus_and_gpus()
    need = space.cluster.least_workers
    rooms = [cpus / (need * space.cluster.cpus_per_worker)]
    if space.cluster.gpus_per_worker:
        rooms.append(gpus / (need * space.cluster.gpus_per_worker))
    return max(1, math.floor(min(rooms)))


def _outcomes(results: Iterable[Any], names: list[str], logs: Path) -> tuple[Outcome, ...]:
    outcomes: dict[str, Outcome] = {}
    problems = []
    for name, r in zip(names, results, strict=True):
        metrics = r.metrics or {}
        if error := ours(r.error, logs) if r.error is not None else unpack(metrics.get("error", "")):
            problems.append(f"{name}: {error}")
        else:
            outcomes[name] = metrics["outcome"]
    if problems:
        raise ClusterError(
            f"{len(problems)} of {len(names)} variants failed: {problems[0]}; "
            "the others are kept; run the same command again"
        )
    return tuple(outcomes[n] for n in names)
