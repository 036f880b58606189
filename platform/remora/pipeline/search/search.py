"""Search a space: perform every item where there is room. The best variant is registered, the result written down.

Ray Tune gives the room (`remora.cluster.search.OnTune`); without Ray this process does, one item after the other.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from remora import tracking
from remora.errors import ClusterError, RemoraError, SpecError, StoreError, TrackingError
from remora.evaluation.choice import ChampionChoice
from remora.evaluation.score import as_json, scores_html
from remora.files import digest, exclusive, is_held, is_published, write_json
from remora.notebook import table
from remora.pipeline import tracked_runs
from remora.pipeline.choice import choice
from remora.pipeline.objectives import ParetoSet, check_objectives, objectives_of, pareto_set
from remora.pipeline.promotion import Promotion, add_version, promote
from remora.pipeline.search.crew import Trainer
from remora.pipeline.search.driver import Driver, folder_of
from remora.pipeline.search.ledger import Ledger
from remora.pipeline.search.perform import perform
from remora.pipeline.search.records import ResultRecord, StoppedAt
from remora.pipeline.search.spending import Spending, spending
from remora.pipeline.search.stopping import stoppable
from remora.pipeline.search.work import Trial
from remora.pipeline.variant import Outcome
from remora.runs import Store, union
from remora.spec import Cluster, Space

log = logging.getLogger(__name__)


class Room(Protocol):
    """Performs a search's orders until none is left."""

    def work(self, driver: Driver) -> None:
        """Raises:
        RemoraError: the cluster cannot be used any more. What a variant met the driver hears.
        """


class Here:
    """One order after the other, in this process."""

    def __init__(self, trainer_of: Callable[[Cluster, Path], Trainer]) -> None:
        self._trainer_of = trainer_of

    def work(self, driver: Driver) -> None:
        with (
            contextlib.closing(self._trainer_of(driver.space.cluster, driver.runs)) as trainer,
            stoppable(driver.folder),
        ):
            self._work(driver, trainer)

    def _work(self, driver: Driver, trainer: Trainer) -> None:
        while not driver.over:
            if order := driver.next():
                try:
                    performed = perform(order, driver.runs, trainer)
                except RemoraError as e:
                    driver.failed(order.number, e)
                else:
                    driver.done(order.number, performed)
            elif not driver.over:
                time.sleep(1.0)  # another search trains what is left


@dataclass(frozen=True)
class Result:
    """What a search found. `stage_runs` counts those that its variants name, that were trained, and that were there."""

    name: str
    outcomes: tuple[Outcome, ...]
    """Of the variants that were trained to their end and measured, in the space's order."""
    others: tuple[Trial, ...]
    """Those that were stopped or paused at a rung."""
    champion: Outcome
    choice: ChampionChoice
    """How far the champion can be told from the others."""
    pareto: ParetoSet | None
    """Of the space's objectives, where there are several."""
    register_as: str
    """The champion's name in the model registry."""
    version: str | None
    """Its version there; None if MLflow could not be reached."""
    promotion: Promotion | None
    """How the alias came to it; None if it did not."""
    refused: str
    """Why it did not: what the gate said, or that MLflow could not be reached."""
    stage_runs: dict[str, int]
    spending: Spending
    stopped_at: dict[str, StoppedAt]
    """Where each of `others` stands."""
    stopped: str
    """The budget that ended it, if one did, what it left undone, and how to go on."""
    seconds: float
    ended: float

    def _repr_html_(self) -> str:
        """Every variant's scores, the champion first, in a notebook."""
        ordered = sorted(self.outcomes, key=lambda o: o.name != self.champion.name)
        found = [scores_html(f"champion: {o.name}" if o is ordered[0] else o.name, o.scores.values()) for o in ordered]
        counts = table("Stage runs", tuple(self.stage_runs), [tuple(self.stage_runs.values())])
        return "".join([*found, counts])

    def as_json(self) -> ResultRecord:
        return {
            "search": self.name,
            "champion": self.champion.name,
            "choice": self.choice.as_json(),
            "pareto": self.pareto.as_json() if self.pareto else None,
            "bundle": str(self.champion.bundle),
            "register_as": self.register_as,
            "version": self.version,
            "gate": [figure.shown for figure in self.promotion.gate] if self.promotion else [],
            "refused": self.refused,
            "stage_runs": self.stage_runs,
            "steps": self.spending.as_json(),
            "stopped": self.stopped,
            "seconds": self.seconds,
            "ended": self.ended,
            "variants": [
                {"name": o.name, "stages": o.stages, "benchmarks": {k: as_json(s) for k, s in o.scores.items()}}
                for o in self.outcomes
            ],
            "others": [
                {"name": t.name, "state": t.state, "stages": t.stages, "at": self.stopped_at.get(t.name)}
                for t in self.others
            ],
        }


def search_key(space: Space) -> str:
    """The logical identity of a search's MLflow run: what is searched, not where and on how many machines."""
    beside = dict.fromkeys(("cluster", "concurrent", "published", "expect", "smoke"), True)
    ways: dict[str, Any] = {**beside, "champion": {"prefer"}}
    said = space.model_dump(mode="json", exclude=ways, exclude_defaults=True)
    return f"search/{space.name}/{digest(said)[:24]}"


def lease_of(runs: Path, search: str) -> Path:
    """A lock that the running search holds."""
    return folder_of(runs, search) / ".lease"


def result_file(runs: Path, search: str) -> Path:
    return runs / "searches" / f"{search}.json"


def check(space: Space, store: Store) -> None:
    """Check what a search needs besides its variants, before anything starts.

    Raises:
        RemoraError: an unmeasured champion, a budget that cannot be counted, a run folder that is not writable, or in
            which that search runs.
    """
    _check_free(store.runs, space.name)
    if space.champion.benchmark not in space.benchmarks:
        raise SpecError(
            f"champion.benchmark {space.champion.benchmark!r} is not measured; "
            f"benchmarks are: {', '.join(space.benchmarks)}"
        )
    check_objectives(space)
    if space.budget.cost is not None and not (space.cluster.gpu_price and space.cluster.gpus_per_worker):
        lacks = "cluster.gpus_per_worker is 0" if space.cluster.gpu_price else "cluster.gpu_price is not set"
        raise SpecError(
            f"budget.cost counts GPU-hours at their price, and {lacks}; set it (cluster: {{gpus_per_worker: 1, "
            "gpu_price: 2.5}), or limit hours or steps instead"
        )
    if space.budget.gpu_hours is not None and not space.cluster.gpus_per_worker:
        raise SpecError(
            "budget.gpu_hours counts nothing: cluster.gpus_per_worker is 0; limit hours or steps instead, or give GPUs"
        )
    store.check_writable()


def search(space: Space, runs: Path, tracker: tracking.Tracker, room: Room) -> Result:
    """Train and measure the variants of a space as its sampler and rule have it; register and promote the best.

    The same command, run again, goes on where it was: nothing that was finished is repeated. The alias moves by the
    gate of `remora promote`. While MLflow is away the champion's version is None: the next sync registers it, without
    the alias.

    Raises:
        RemoraError: a spec, dataset or cluster that cannot be used, or a variant that failed.
    """
    _check_free(runs, space.name)
    with exclusive(lease_of(runs, space.name)):
        return _searched(space, runs, tracker, room)


def _check_free(runs: Path, search: str) -> None:
    """Raises:
    StoreError: the search runs already.
    """
    if is_held(lease := lease_of(runs, search)):
        holder = lease.read_text(errors="replace").strip()
        raise StoreError(
            f"search {search} runs already ({holder}); wait for it, give the space another name, or end it: "
            f"remora searches stop {search}"
        )


def _searched(space: Space, runs: Path, tracker: tracking.Tracker, room: Room) -> Result:
    began, key = time.time(), search_key(space)
    driver = Driver(space, runs, key)
    there = {name for t in driver.work.trials.values() for name in t.stages}  # the only ones so far
    tracked = tracking.Run(
        runs,
        key=key,
        name=space.name,
        tags={tracked_runs.NOTE: _note(space, driver), "mlflow.source.name": "remora search"},
        params=_params(space),
        texts={"space.json": space.model_dump_json(indent=1)},
    )
    with tracked:
        try:
            room.work(driver)
        except BaseException as e:
            driver.close(e)
            raise
        driver.close(None)
        _check(driver)
        outcomes = tuple(driver.outcomes[n] for n in driver.work.trials if n in driver.outcomes)
        variants = {t.name: (t.variant, t.lineage) for t in driver.work.trials.values()}
        chosen = choice(outcomes, variants, space.champion.benchmark, space.champion.prefer, driver.store)
        (best,) = (o for o in outcomes if o.name == chosen.chosen)
        version, promotion, refused = registered(best, space, runs, tracker)
        tracked.note(
            tags={"remora.champion": best.name, tracked_runs.NOTE: _note(space, driver, driver.outcomes)}
            | ({"remora.version": f"{space.champion.register_as} version {version}"} if version else {}),
            # For MLflow's table and charts: the champion's figures by the names that variants' have, and the headline
            # figures of every variant.
            metrics={f"{s.benchmark}/{o.name}": s.accuracy for o in outcomes for s in o.scores.values()}
            | {name: value for s in best.scores.values() for name, value in tracked_runs.metrics_of(s).items()},
            texts={"choice.json": json.dumps(chosen.as_json(), indent=1)},
        )
    trials = driver.work.trials.values()
    lineages = [t.lineage for t in trials]
    planned, distinct = sum(map(len, lineages)), union(lineages)
    trained = sum(state == "trained" for t in trials for state in t.stages.values())
    counts = {
        "planned": planned,
        "distinct": len(distinct),
        "trained": trained,
        "reused": sum(len(t.stages) for t in trials) - trained,
        "there_before": len(there),
    }
    result = Result(
        name=space.name,
        outcomes=outcomes,
        others=tuple(t for t in trials if t.name not in driver.outcomes),
        champion=best,
        choice=chosen,
        pareto=pareto_set(objectives_of(space), {o.name: driver.work.trials[o.name].figures for o in outcomes}),
        register_as=space.champion.register_as,
        version=version,
        promotion=promotion,
        refused=refused,
        stage_runs=counts,
        spending=_spending(driver),
        stopped_at=_stopped_at(driver),
        stopped=driver.stopped(),
        seconds=time.time() - began,
        ended=time.time(),
    )
    write_json(result_file(runs, space.name), result.as_json())
    return result


def _spending(driver: Driver) -> Spending:
    trials = driver.work.trials.values()
    steps = {run.name: driver.steps(run) for run in union(t.lineage for t in trials).values()}
    lineages = {t.name: [run.name for run in t.lineage] for t in trials}
    entries = Ledger.entries(driver.ledger.path)
    return spending(entries, lineages, steps, lambda run: is_published(driver.store.root / run))


def _stopped_at(driver: Driver) -> dict[str, StoppedAt]:
    found, board = {}, driver.work.board
    for trial in driver.work.trials.values():
        if trial.name not in driver.outcomes and (at := board.last(trial.last.name)):
            place = board.place(at)
            found[trial.name] = StoppedAt(stage=at.stage, share=at.share, figure=at.figure, value=at.value, place=place)
    return found


def _check(driver: Driver) -> None:
    """Raises:
    ClusterError: a variant failed, or none was measured.
    """
    trials, benchmark = driver.work.trials, driver.space.champion.benchmark
    problems = [f"{t.name}: {t.error}" for t in trials.values() if t.state == "failed"]
    problems += [
        f"{o.name}: {benchmark} has no score here: its server keeps the answers; choose by another"
        for o in driver.outcomes.values()
        if benchmark not in o.scores
    ]
    if problems:
        raise ClusterError(
            f"{len(problems)} of {len(trials)} variants failed: {problems[0]}; what was finished is kept; "
            "next: the same command again"
        )
    if not driver.outcomes:
        raise ClusterError(f"no variant was trained to its end: {driver.stopped() or 'there is none'}")


def _params(space: Space) -> dict[str, Any]:
    said = space.model_dump(mode="json", exclude={"name", "overrides", "cluster"}, exclude_defaults=True)
    return {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in said.items()}


def _note(space: Space, driver: Driver, first: Collection[str] = ()) -> str:
    """What MLflow's page of the run says first: with links to the variants, and to all at once; those `first` that
    are named, since one address compares a few only."""
    trials = sorted(driver.work.trials.values(), key=lambda t: t.name not in first)
    which = "the best" if space.champion.prefer == "best" else "the cheapest that cannot be told from the best"
    chosen = f"{which} on {space.champion.benchmark} is registered as {space.champion.register_as}"
    keys = {t.name: tracked_runs.variant_key(t.lineage, driver.key) for t in trials}
    many = f"A search of {len(keys)} variants" if keys else f"A search by {space.sampler.kind}"
    compared = [tracking.compare("Compare them by the axes", list(keys.values())), ""] if len(keys) > 1 else []
    there = [tracking.link("The report, the choice and the space", driver.key, "artifacts"), ""] if first else []
    listed = (f"- {tracking.link(*pair)}" for pair in keys.items())
    return "\n".join([f"{many}; {chosen}.", "", *compared, *there, *listed])


def registered(
    best: Outcome, space: Space, runs: Path, tracker: tracking.Tracker
) -> tuple[str | None, Promotion | None, str]:
    """(The version that the best variant is, how it got the alias, why it did not). It is promoted as by `remora
    promote`; where that is refused it is a version without the alias. No version while MLflow is away."""
    name, model = space.champion.register_as, tracking.Model(best.bundle, best.name)
    score = best.scores[space.champion.benchmark]
    tags = {"benchmark": score.benchmark, "accuracy": f"{score.accuracy:.4f}"}  # by which it was chosen
    try:
        command = f"remora search {space.name}"
        made = promote(model, str(best.bundle), runs, tracker, name, key=best.key, tags=tags, command=command)
        return made.version, made, ""
    except RemoraError as e:  # the gate's, MLflow's, or what is wrong with today's champion
        refused = str(e)
    try:
        return add_version(model, runs, tracker, name, None, "remora search", best.key, tags), None, refused
    except TrackingError as e:
        log.warning("%s is not registered yet: %s", best.name, e)
        return None, None, refused
