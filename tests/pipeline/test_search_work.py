"""What a search hands out: each stage run once, the longest path first, who goes on, after any kill."""

from __future__ import annotations

import os
import random

import pytest

from pipeline.simulated import grid, merit, optimum, simulated, store_of, trial
from remora.pipeline.search.board import RUNGS, Decided, Reached, Rungs, write
from remora.pipeline.search.rules import Everyone, Halving, Median
from remora.pipeline.search.schedule import Schedule
from remora.pipeline.search.work import Measure, Train


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Simulated time does not wait for a disk."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def test_each_stage_run_is_trained_once_and_each_trial_measured(tmp_path):
    trials = grid()
    done = simulated(trials, Everyone(), tmp_path / RUNGS, slots=5)
    work = done.go()
    assert done.store.paid == optimum(trials)
    assert set(done.store.published.values()) == {1} and done.measured == {t.name: 1 for t in trials}
    assert {t.state for t in work.trials.values()} == {"finished"}
    states = [state for t in work.trials.values() for state in t.stages.values()]
    assert states.count("trained") == len(done.store.published) and len(states) == 4 * len(trials)


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_a_slot_waits_only_if_nothing_can_be_done(tmp_path, slots):
    trials = grid(steps=(40, 30, 20, 100))
    done = simulated(trials, Everyone(), tmp_path / RUNGS, slots, measure=0)
    done.go()
    longest = max(sum(run.steps for run in t.lineage) for t in trials)
    # Graham's bound for list schedules of a forest
    assert longest <= done.clock <= longest + (optimum(trials) - longest) / slots


def test_the_longest_path_goes_first(tmp_path):
    short, long = trial(("a", "short", 10), ("b", "x", 10)), trial(("a", "long", 10), ("b", "y", 1000))
    work = simulated([short, long], Everyone(), tmp_path / RUNGS, 1).driver()
    first = work.next()
    assert isinstance(first, Train) and first.run.id == "long"


def test_of_a_schedule_no_node_is_given_twice_and_parents_come_first():
    dice = random.Random(0)
    for _ in range(300):
        schedule, costs, parents = Schedule[int](), {}, {}
        for key in range(dice.randint(1, 30)):
            parents[key] = dice.choice([None, *range(key)]) if key else None
            costs[key] = dice.randint(1, 9)
            schedule.add(key, parents[key], costs[key])

        def rest(key, costs=costs, parents=parents):
            return costs[key] + max([rest(k) for k, above in parents.items() if above == key], default=0)

        order = []
        while (key := schedule.pop()) is not None:
            ready = [k for k in costs if k not in order and (parents[k] is None or parents[k] in order)]
            assert rest(key) == max(map(rest, ready))
            order.append(key)
            schedule.done(key)
        assert sorted(order) == sorted(costs)


def test_no_more_trials_are_taken_up_than_the_budget_has(tmp_path):
    trials = grid(widths=(1, 2, 1, 5))
    sim = simulated(trials, Halving.of(3, 0.3), tmp_path / RUNGS, slots=2, most=7)
    work = sim.go()
    assert list(work.trials) == [t.name for t in trials[:7]] and work.sampler.left == 3
    assert len(sim.measured) == 1 and work.over  # 7 -> 2 -> 1: the rung is complete without the others


def test_a_search_that_a_budget_ended_waits_for_nobody(tmp_path):
    trials = grid(widths=(1, 2, 1, 1))
    store = store_of(trials, held={trials[0].lineage[0].id})
    work = simulated(trials, Everyone(), tmp_path / RUNGS, 1, store).driver()
    assert work.next() is None and not work.over
    work.stop = "budget.steps: 1 of 1 are spent"
    assert work.next() is None and work.over


def test_halving_trains_a_third_and_keeps_the_best(tmp_path):
    trials = grid(widths=(1, 1, 1, 27), steps=(40, 30, 20, 900))
    done = simulated(trials, Halving.of(3, 1 / 9), tmp_path / RUNGS, slots=4)
    work = done.go()
    best = max(trials, key=lambda t: merit(t.name)).name
    assert work.trials[best].state == "finished" and done.measured == {best: 1, **done.measured}
    assert len(done.measured) == 3  # 27 -> 9 -> 3
    assert done.store.paid == 90 + 27 * 100 + 9 * 200 + 3 * 600
    assert {t.state for t in work.trials.values()} == {"finished", "paused"}


@pytest.mark.parametrize(("trials", "finish"), [(1, 1), (2, 1), (3, 1), (5, 1), (8, 2)])
def test_halving_always_has_somebody_finish(tmp_path, trials, finish):
    done = simulated(grid(widths=(1, 1, 1, trials)), Halving.of(3, 0.4), tmp_path / RUNGS, slots=2)
    done.go()
    assert len(done.measured) == finish


def test_the_median_rule_stops_who_is_worse_than_half(tmp_path):
    trials = grid(widths=(1, 1, 1, 12))
    done = simulated(trials, Median((0.25, 0.5)), tmp_path / RUNGS, slots=1)
    work = done.go()
    stopped = [t.name for t in work.trials.values() if t.state == "stopped"]
    before = []
    for t in trials:  # by brute force, in the order of one slot
        others = sorted(map(merit, before))
        worse = len(others) >= 3 and merit(t.name) < (others[len(others) // 2] + others[(len(others) - 1) // 2]) / 2
        assert (t.name in stopped) == worse or merit(t.name) >= 0  # the second rung may stop more
        before.append(t.name)
    assert stopped and max(trials, key=lambda t: merit(t.name)).name not in stopped


def test_what_another_search_trains_is_waited_for_without_a_slot(tmp_path):
    trials = grid(widths=(1, 2, 1, 1))
    store = store_of(trials, held={trials[0].lineage[1].id})
    sim = simulated(trials, Everyone(), tmp_path / RUNGS, 1, store=store)
    work = sim.driver()
    root = work.next()
    assert work.next() is None and not work.over
    work.done(root)
    store.published[trials[0].lineage[0].id] += 1
    other = work.next()
    assert other.run.id == trials[1].lineage[1].id
    assert work.next() is None  # the first trial's align is another's
    store.held.clear()
    store.published[trials[0].lineage[1].id] += 1
    following = work.next()
    assert following.run.id == trials[0].lineage[2].id and following.trial.stages[trials[0].lineage[1].name] == "reused"


def test_what_is_there_holds_its_place_at_the_rungs(tmp_path):
    """Of two variants that are trained and logged a rung, the better one keeps the others from going on."""
    trials = grid(widths=(1, 1, 1, 4))
    best, *rest = sorted(trials, key=lambda t: -merit(t.name))
    store = store_of(trials, there=frozenset(run.id for t in (best, rest[-1]) for run in t.lineage))

    def logged(t):
        return [Reached(t.name, t.last.name, "finetune", 0.5, 50, 0, "loss", merit(t.name), True)]

    store.logged = logged
    sim = simulated(trials, Halving.of(4, 0.5), tmp_path / RUNGS, 2, store)
    work = sim.go()
    assert {t.name for t in work.trials.values() if t.state == "paused"} == {t.name for t in rest[:-1]}
    board = Rungs.read(tmp_path / RUNGS)
    assert [r.run for r in board.ranking("finetune", 0.5)] == [t.name for t in (best, *rest)]
    assert {d.run for d in board.decided if d.decision == "go on"} == {best.name, rest[-1].name}
    lines = len(board.decided)
    sim.go()  # the next command
    assert len(Rungs.read(tmp_path / RUNGS).decided) == lines


def test_what_another_rule_decided_is_decided_anew(tmp_path):
    """All four paused at a half by another rule, of which this one lets two go on; without a rule all do."""
    trials, file = grid(widths=(1, 1, 1, 4)), tmp_path / RUNGS
    for t in trials:
        at = Reached(t.name, t.last.name, "finetune", 0.5, 50, 0, "loss", merit(t.name), True)
        other = Reached(t.name, t.last.name, "finetune", 0.5, 50, 0, "gqa", -merit(t.name), True)
        words = Halving.of(4, 0.5, "gqa").words
        write(file, [other, at, Decided(t.name, t.last.name, "finetune", 0.5, "pause", words, 1, 4)])
    store = store_of(trials, there=frozenset(run.id for t in trials for run in t.lineage[:-1]))
    store.steps.update({t.last.id: 50 for t in trials})
    work = simulated(trials, Everyone(), file, 1, store).driver()
    assert {t.state for t in work.trials.values()} == {"waiting"}
    sim = simulated(trials, Halving.of(2, 0.5), file, 1, store)
    work = sim.go()
    best = sorted(trials, key=lambda t: -merit(t.name))[:2]
    assert sim.measured.keys() == {t.name for t in best} and store.paid == 2 * 50


def test_who_dies_of_a_stage_run_takes_with_it_those_that_need_it(tmp_path):
    trials = grid(widths=(1, 2, 1, 2))
    work = simulated(trials, Everyone(), tmp_path / RUNGS, 1).driver()
    work.done(work.next())
    align = work.next()
    work.failed(align, "NaN")
    failed = [t for t in work.trials.values() if t.state == "failed"]
    assert len(failed) == 2 and {t.error for t in failed} == {"NaN"}
    assert {t.lineage[1].id for t in failed} == {align.run.id}
    left = []
    while item := work.next():
        left.append(item)
        work.done(item)
    assert len([i for i in left if isinstance(i, Measure)]) == 2 and work.over


def test_nobody_is_promoted_who_failed(tmp_path):
    rule, file = Halving.of(2, 0.5), tmp_path / RUNGS
    trials = grid(widths=(1, 1, 1, 2))
    best = max(trials, key=lambda t: merit(t.name))
    for t in trials:
        found = Reached(t.name, t.last.name, "finetune", 0.5, 50, 0, "loss", merit(t.name), True)
        write(file, [found])
    board = Rungs.read(file)
    assert rule.promote(board, "finetune", 0.5, True).variant == best.name
    board.gone.add(best.last.name)
    assert rule.promote(board, "finetune", 0.5, True).variant != best.name


@pytest.mark.parametrize("until", [140, 170, 200, 280])
def test_of_a_space_that_was_changed_the_rest_goes_on(tmp_path, until):
    """The best at a rung is taken out while the search is interrupted: it holds no place, and nobody waits for it."""
    trials = grid(widths=(1, 1, 2, 4))
    store, rule = store_of(trials), Halving.of(2, 0.25)
    simulated(trials, rule, tmp_path / RUNGS, 2, store).go(until)
    best = Rungs.read(tmp_path / RUNGS).ranking("finetune", 0.25)[0].run
    left = [t for t in trials if t.name != best]
    work = simulated(left, rule, tmp_path / RUNGS, 2, store).go()
    assert [t.name for t in work.trials.values() if t.state == "finished"] == [
        max(left, key=lambda t: merit(t.name)).name
    ]
    last = work.board.decided[-1]
    assert last.among <= len(left) and not store.published[best]


@pytest.mark.slow
@pytest.mark.parametrize("rule", [Everyone(), Halving.of(3, 1 / 9), Median((0.2, 0.6))], ids=lambda r: r.words)
def test_a_search_that_is_killed_anywhere_repeats_nothing(tmp_path, rule):
    """A thousand trials on 64 slots; slots die, and the driver dies twelve times."""
    trials = grid(widths=(2, 5, 4, 25), steps=(400, 300, 200, 900))
    calm = simulated(trials, rule, tmp_path / "calm.jsonl", slots=64)
    calm.go()
    rough = simulated(trials, rule, tmp_path / "rough.jsonl", slots=64, kill=0.02, seed=3)
    for part in range(1, 13):
        rough.go(calm.clock * part / 12)
    work = rough.go()
    assert set(rough.store.published.values()) == {1}
    assert {t.state for t in work.trials.values()} <= {"finished", "paused", "stopped"}
    best = max(trials, key=lambda t: merit(t.name)).name
    assert best in rough.measured
    if not isinstance(rule, Median):  # whose decisions follow the order in which variants arrive
        assert rough.store.published == calm.store.published
        assert calm.store.paid < rough.store.paid <= 1.05 * calm.store.paid


@pytest.mark.parametrize("rule", [Everyone(), Halving.of(3, 1 / 9), Median((0.2, 0.6))], ids=lambda r: r.words)
def test_in_memory_it_decides_as_from_a_file(tmp_path, rule):
    trials = grid(widths=(1, 2, 2, 8))
    filed, kept = (simulated(trials, rule, board, slots=3) for board in (tmp_path / RUNGS, None))
    states = [{t.name: t.state for t in sim.go().trials.values()} for sim in (filed, kept)]
    assert states[0] == states[1] and filed.store == kept.store and filed.clock == kept.clock
