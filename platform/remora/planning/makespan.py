"""How long a search takes and what it costs: simulated by the state machine that searches use, on so many slots.

Starting workers, building models and asking benchmarks are counted where the run folder has been through them. What a
rule stops is drawn by chance, since nothing is known of the variants yet.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from statistics import fmean

from remora.errors import SpecError
from remora.files import digest
from remora.pipeline.search.board import Decided, Reached
from remora.pipeline.search.rules import Everyone, StoppingRule
from remora.pipeline.search.samplers import drawn
from remora.pipeline.search.simulation import SimulatedStore, Simulation
from remora.pipeline.search.verdict import rule_of
from remora.pipeline.search.work import Trial
from remora.planning.begun import Begun
from remora.planning.plan import Plan
from remora.runs import StageRun, variant_at, variant_name
from remora.runs.around import Around
from remora.runs.rates import Rate
from remora.spec import Budget, Cluster, Rule, Sampler, Space, Variant

DRAWS = 8
"""Simulations that a figure with a rule is the mean of."""
FEW = 500
"""Trials up to which there are as many."""


@dataclass(frozen=True)
class Forecast:
    """One way to run the same variants."""

    shared: bool
    """Whether stage runs are shared and those that exist are read; else each variant trains all of its own."""
    rule: str
    """Who is stopped; "none"."""
    stage_runs: float
    """That are trained, some of them in part."""
    steps: float
    operations: float
    seconds: float
    """From the first step to the last, on all slots: the makespan."""
    gpu_hours: float
    """0 on workers without GPUs."""
    cost: float | None
    """None without a price, or without GPUs."""


@dataclass(frozen=True)
class Forecasts:
    """A plan's time and money."""

    slots: int
    """Groups of workers that train at once."""
    cluster: Cluster
    rate: Rate
    ways: tuple[Forecast, ...]
    """As the search does it first."""
    trials: int
    over: tuple[str, ...] = ()
    """Budgets that end it before."""
    begun: Begun | None = None
    """What the search has done already: the first way is what is left."""
    around: Around = field(default_factory=Around)
    """Seconds of starting workers and of benchmarks that are counted."""
    unknown: tuple[str, ...] = ()
    """Benchmarks that are not counted, because they were never asked here."""

    @property
    def saved(self) -> float:
        """The share of the operations that sharing, what exists and stopping save."""
        most = max(w.operations for w in self.ways)
        return 1 - self.ways[0].operations / most if most else 0.0


def taken_up(space: Space, begun: Begun | None = None) -> list[Variant] | None:
    """The variants that a search by chance takes up; None for a grid. Those that Optuna will ask for are not known, so
    as many are drawn by chance, besides those that it has taken up already.

    Raises:
        SpecError: none makes a model.
    """
    if space.sampler.kind == "grid":
        return None

    def made(assignment: Mapping[str, object]) -> Trial:
        variant = variant_at(space, assignment)
        return Trial(variant_name(variant), variant, ())

    number, found = space.sampler.trials or 1, list[Variant]()
    if begun and space.sampler.kind == "optuna":
        found += begun.variants[:number]
    had = {variant_name(v) for v in found}
    more = (t.variant for t in drawn(space, made, number + len(had), space.sampler.seed) if t.name not in had)
    found += islice(more, number - len(found))
    if not found:
        raise SpecError(f"space {space.name}: of all that was drawn nothing makes a model; see: remora plan")
    return found


def forecasts_of(
    space: Space | None,
    plan: Plan,
    variants: Sequence[Variant],
    rate: Rate,
    slots: int,
    *,
    price: float | None = None,
    begun: Begun | None = None,
    around: Around | None = None,
) -> Forecasts:
    """`forecasts` with the rule, sampler and budget of a space; of a job, with none."""
    rule, sampler, budget = (space.rule, space.sampler, space.budget) if space else (None, None, None)
    return forecasts(plan, variants, rate, slots, rule, sampler, price, budget, begun, around)


def forecasts(
    plan: Plan,
    variants: Sequence[Variant],
    rate: Rate,
    slots: int,
    rule: Rule | None = None,
    sampler: Sampler | None = None,
    price: float | None = None,
    budget: Budget | None = None,
    begun: Begun | None = None,
    around: Around | None = None,
) -> Forecasts:
    """With and without sharing, with and without stopping.

    Args:
        plan: Of these variants.
        begun: What the search has done already; whom its rule has stopped stays stopped.
        price: Of a GPU-hour; default: the cluster's.
        around: Seconds of starting workers and of benchmarks; None counts neither.
    """
    around, cluster = around or Around(), variants[0].cluster
    workers, price = cluster.least_workers, cluster.gpu_price if price is None else price
    priced = price is not None and cluster.gpus_per_worker > 0
    rows = {row.id: row for row in plan.rows}
    seconds = {r.id: r.operations / (rate.of(r.kind) * workers) + rate.around(r.kind) for r in plan.rows}
    for name, variant in zip(plan.paths, variants, strict=True):  # it is asked by the workers that trained it
        seconds[plan.paths[name][-1].id] += around.asking(variant.benchmarks)
    trials = [Trial(name, v, plan.paths[name]) for name, v in zip(plan.paths, variants, strict=True)]
    apart, origin = _apart(trials)
    shared = SimulatedStore(
        {key: row.steps for key, row in rows.items()},
        seconds,
        frozenset(key for key, r in rows.items() if r.finished),
        Counter({key: row.taken for key, row in rows.items() if row.taken}),
    )
    alone = SimulatedStore(
        {key: rows[of].steps for key, of in origin.items()}, {key: seconds[of] for key, of in origin.items()}
    )
    most = budget.trials if budget else None
    known = sampler is None or sampler.kind != "optuna"
    rules: list[StoppingRule] = [rule_of(rule)] if rule and rule.kind != "none" else []
    ways = []
    # One variant shares with nobody.
    for store, listed in ((shared, trials), (alone, apart))[: 1 + (len(trials) > 1)]:
        of = {key: rows[origin.get(key, key)] for key in store.lengths}
        for stopping in [*rules, Everyone()]:
            draws = DRAWS if stopping.rungs and len(trials) <= FEW else 1
            past = begun.rungs if begun and store is shared and stopping.rungs else ()
            found = [_run(store, listed, stopping, slots, known, draw, most, past) for draw in range(draws)]
            gained = [_gained(sim, store) for sim in found]
            done = [sum(of[k].operations * n / store.lengths[k] for k, n in each.items()) for each in gained]
            busy = fmean(sim.store.busy for sim in found)
            gpu_hours = busy / 3600 * workers * cluster.gpus_per_worker
            ways.append(
                Forecast(
                    store is shared,
                    stopping.words,
                    fmean(sum(n > 0 for n in each.values()) for each in gained),
                    fmean(sum(each.values()) for each in gained),
                    fmean(done),
                    fmean(sim.clock + (around.start or 0.0) * (sim.clock > 0) for sim in found),
                    gpu_hours,
                    gpu_hours * (price or 0.0) if priced else None,
                )
            )
    over = tuple(_over(budget, ways[0], begun)) if budget else ()
    unknown = around.unknown([name for v in variants for name in v.benchmarks])
    return Forecasts(slots, cluster, rate, tuple(ways), len(trials), over, begun, around, tuple(unknown))


def _over(budget: Budget, way: Forecast, begun: Begun | None) -> Iterator[str]:
    takes = {"steps": way.steps, "hours": way.seconds / 3600, "gpu_hours": way.gpu_hours, "cost": way.cost}
    spent = {"steps": begun.steps, "hours": begun.hours, "gpu_hours": begun.gpu_hours} if begun else {}
    if way.cost is not None and way.gpu_hours:
        spent["cost"] = spent.get("gpu_hours", 0.0) * way.cost / way.gpu_hours
    limits = {"steps": budget.steps, "hours": budget.hours, "gpu_hours": budget.gpu_hours, "cost": budget.cost}
    for name, limit in limits.items():
        amount = takes[name]
        if limit is None or amount is None or amount + (had := spent.get(name, 0.0)) <= limit:
            continue
        more = f" more; {had:,.4g} are spent" if had else ""
        yield f"budget.{name}: {limit:,g} ends the search before, which would take {amount:,.4g}{more}"


def _run(
    store: SimulatedStore,
    trials: Sequence[Trial],
    rule: StoppingRule,
    slots: int,
    known: bool,
    draw: int,
    most: int | None,
    past: Sequence[Reached | Decided],
) -> Simulation:
    there: dict[tuple[str, float], list[float]] = {}
    for line in past:
        if isinstance(line, Reached):
            there.setdefault((line.stage, line.share), []).append(line.merit)

    def merit(run: StageRun, share: float) -> float:
        """By chance: any place among those that came to the rung already."""
        dice = random.Random(f"{draw}/{run.name}")
        known = there.get((run.stage.name, share))
        return dice.choice(known) + 1e-9 * (dice.random() - 0.5) if known else dice.random()

    fresh = SimulatedStore(store.lengths, store.costs, store.there, Counter(store.steps))
    simulation = Simulation(trials, rule, fresh, slots, known=known, merit=merit, most=most, before=past)
    simulation.go()
    return simulation


def _gained(simulation: Simulation, before: SimulatedStore) -> dict[str, int]:
    """Stage run's id -> the steps that it was trained."""
    return {key: n - before.steps[key] for key, n in simulation.store.steps.items()}


def _apart(trials: Sequence[Trial]) -> tuple[list[Trial], Mapping[str, str]]:
    """The trials with stage runs of their own, and from which stage run each of these is."""
    found: list[Trial] = []
    origin: dict[str, str] = {}
    for trial in trials:
        lineage: list[StageRun] = []
        for run in trial.lineage:
            own = replace(run, id=digest([trial.name, run.id]), parent=lineage[-1] if lineage else None)
            origin[own.id] = run.id
            lineage.append(own)
        found.append(Trial(trial.name, trial.variant, tuple(lineage)))
    return found, origin
