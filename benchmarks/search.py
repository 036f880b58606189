"""What a search costs beside its items: python benchmarks/search.py [--ray SLOTS] writes results/search.md.

Simulated: 1,000 trials over a graph of four stages on 64 slots. The state machine that searches use hands out every
item and writes its rungs to disk; slots only let time pass. One item in fifty dies on its way, and the search itself is
killed as often as the table says and built anew from its files. A step takes a second.

With --ray the same state machine feeds Ray Tune on this machine, with so many CPUs declared, through the adapter that
searches use; an item sleeps in place of training, and one in fifty ends its process.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from pipeline.simulated import grid, optimum, store_of
from remora.pipeline.search.perform import Order, Performed
from remora.pipeline.search.rules import Everyone, Halving, Median, StoppingRule
from remora.pipeline.search.samplers import Listed
from remora.pipeline.search.simulation import Simulation
from remora.pipeline.search.work import Train, Trial, Work, WorkItem
from remora.runs import StageRun
from remora.spec import Cluster, Variant

RESULTS = Path(__file__).parent / "results" / "search.md"
SLOTS, KILL = 64, 0.02
OFTEN = 25
CASES = ((4, 50), (12, 50), (12, OFTEN))
"""(kills of the whole search, steps between two checkpoints)"""
WIDTHS, STEPS = (2, 5, 4, 25), (400, 300, 200, 900)
HALVING = Halving.of(3, 1 / 9)
RULES: tuple[StoppingRule, ...] = (Everyone(), HALVING, Median((0.2, 0.6)))
MOST, OVER = 0.03, 0.05
"""Goals: of the time the state machine's, and work over the optimum. Where a checkpoint is kept OFTEN, the steps that
deaths lose are among it."""
COLUMNS = (
    *("rule", "kills", "steps between checkpoints", "measured", "simulated s", "s of the state machine", "share"),
    *("deaths", "steps lost at each", "work lost by them", "other work over the optimum", "trained twice"),
)


def needed(rule: StoppingRule, calm: Simulation) -> int:
    """Steps of the graph's optimum: each stage run once, the last ones as far as the rule lets them go."""
    trials = list(calm.trials)
    if isinstance(rule, Halving):
        left, at, steps = len(trials), 0.0, sum({r.id: r.steps for t in trials for r in t.lineage[:-1]}.values())
        for share in (*rule.rungs, 1.0):
            steps += left * (round(share * STEPS[-1]) - round(at * STEPS[-1]))
            left, at = max(1, left // rule.eta), share
        return steps
    # Whom the median rule stops depends on who comes first: what a run without deaths does is taken for it.
    return calm.store.paid if isinstance(rule, Median) else optimum(trials)


def simulated(rule: StoppingRule, kills: int, checkpoint: int, folder: Path) -> tuple[str, bool]:
    """A row of the table, and whether it reaches the goals."""
    trials, name = grid(WIDTHS, STEPS), f"{rule.words} {kills} {checkpoint}"
    calm = Simulation(trials, rule, store_of(trials), SLOTS, folder / f"{name}.calm", measure=30.0)
    calm.go()
    rough = Simulation(
        *(trials, rule, store_of(trials), SLOTS, folder / f"{name}.jsonl"),
        measure=30.0,
        kill=KILL,
        checkpoint=checkpoint,
        seed=1,
    )
    began = time.perf_counter()
    for part in range(1, kills + 1):
        rough.go(calm.clock * part / (kills + 1))
    work = rough.go()
    took = time.perf_counter() - began
    twice = sum(n > 1 for n in rough.store.published.values())
    assert {t.state for t in work.trials.values()} <= {"finished", "paused", "stopped"}
    least, store = needed(rule, calm), rough.store
    assert calm.store.paid == least and not calm.store.lost
    assert isinstance(rule, Median) or store.published == calm.store.published
    share, lost, other = took / rough.clock, store.lost / least, (store.paid - store.lost) / least - 1
    over = other + (lost if checkpoint <= OFTEN else 0)
    cells = [
        rule.words,
        str(kills),
        str(checkpoint),
        f"{len(rough.measured):,}",
        f"{rough.clock:,.0f}",
        f"{took:.1f}",
        f"{share:.3%}",
        f"{store.deaths:,}",
        f"{store.lost / store.deaths:.0f}",
        f"{lost:.2%}",
        f"{other:+.2%}",
        str(twice),
    ]
    return f"| {' | '.join(cells)} |", share < MOST and over <= OVER and not twice


class SleepingDriver:
    """What the adapter needs of a search's driver, over synthetic trials."""

    def __init__(self, trials: list[Trial], runs: Path, slots: int) -> None:
        self.runs, self.published = runs, Counter[str]()
        self.space = SimpleNamespace(name="sleep", concurrent=slots, cluster=Cluster(max_failures=3))
        self.work = Work(Listed(trials), Everyone(), self, None)
        self.variant = Variant(vision="clip-l-336", connector="linear", llm="phi-2", recipe="base")
        self.going: dict[int, WorkItem] = {}
        self.asked = self.seconds = 0.0
        self.ends: list[float] = []
        """When each stage run was published."""

    @property
    def over(self) -> bool:
        return self.work.over

    def look(self) -> None:
        """Nobody asks it to stop."""

    def next(self) -> Order | None:
        began = time.perf_counter()
        item = self.work.next()
        self.seconds += time.perf_counter() - began
        if item is None:
            return None
        self.asked += 1
        self.going[int(self.asked)] = item
        run = item.run if isinstance(item, Train) else item.trial.last
        kind = "train" if isinstance(item, Train) else "measure"
        return Order(int(self.asked), kind, "sleep", "key", self.variant, run.name.replace("/", "-"))

    def done(self, number: int, performed: Performed) -> None:
        item = self.going.pop(number)
        if isinstance(item, Train):
            self.published[item.run.id] += 1
            self.ends.append(time.time())
        began = time.perf_counter()
        self.work.done(item)
        self.seconds += time.perf_counter() - began

    def failed(self, number: int, error: Exception) -> None:
        raise error

    def finished(self, run) -> bool:
        return bool(self.published[run.id])

    def elsewhere(self, run) -> bool:
        return False

    def cost(self, run) -> float:
        return float(run.steps)


def on_tune(slots: int, sleep: float, count: int) -> list[str]:
    """Lines about real Ray Tune with items of so many seconds."""
    import ray

    from remora.cluster import search as adapter
    from remora.files import lines as files

    def slept(order: Order, runs: Path) -> dict[str, object]:
        died = runs / f"died-{order.number}"
        if random.Random(order.number).random() < KILL and not died.exists():
            died.touch()
            os._exit(1)
        began = time.time()
        time.sleep(sleep if order.kind == "train" else 0.0)
        said = {"item": order.kind, "began": began, "ended": time.time()}
        files.append(runs / "slots" / f"{os.getpid()}.jsonl", [said])
        return {"performed": Performed("trained" if order.kind == "train" else "measured")}

    adapter._performed = slept
    trials = grid((1, 2, 4, count // 8), (1, 1, 1, 1))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "slots").mkdir()
        ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False, configure_logging=False)
        driver = SleepingDriver(trials, Path(folder), slots)
        before, began = time.time(), time.perf_counter()
        adapter.OnTune().work(driver)
        wall = time.perf_counter() - began
        deaths = len(list(Path(folder).glob("died-*")))
        ray.shutdown()
        done = [files.read(file, "item").records for file in (Path(folder) / "slots").iterdir()]
    runs = {run.id for t in trials for run in t.lineage}
    assert driver.published == dict.fromkeys(runs, 1)
    items = int(driver.asked)
    # Between the end of an item and the begin of the next in the same process, while there was work for all slots.
    first = {run.id for run in runs_of(trials) if run.stage.name != "finetune"}
    wide = sorted(driver.ends)[len(first)]
    trained = [[i for i in each if i["item"] == "train" and i["began"] > wide] for each in done]
    gaps = [b["began"] - a["ended"] for each in trained for a, b in pairwise(each)]
    waited = min(i["began"] for each in done for i in each) - before
    ends, slept_for = max(i["ended"] for each in trained for i in each), sum(map(len, trained)) * sleep
    busy = slept_for / (slots * (ends - wide))
    gap = fmean(gaps)
    return [
        f"{slots} slots, {items:,} items ({len(runs):,} of {sleep:g} s, {len(trials):,} that take no time), {deaths} "
        f"processes died and {len(done)} had an item. {wall:.0f} s in all, of which {waited:.0f} passed before the "
        f"first began: Tune and a Python process start. Between two items of {sleep:g} s a slot waits "
        f"{gap * 1e3:.0f} ms (at most {max(gaps) * 1e3:.0f}): {gap / (gap + sleep):.1%} of its time, and "
        f"{gap / 60:.2%} where an item takes a minute. From the first of the {len(trials)} last stage runs on, slots "
        f"slept {busy:.0%} of the time; the rest are starts of processes and these waits. The state machine has "
        f"{driver.seconds / items * 1e3:.2f} ms of an item. Every stage run was published once."
    ]


def runs_of(trials: list[Trial]) -> list[StageRun]:
    return list({run.id: run for t in trials for run in t.lineage}.values())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ray", type=int, default=0, metavar="SLOTS")
    parser.add_argument("--sleep", type=float, default=1.0)
    parser.add_argument("--items", type=int, default=160)
    given = parser.parse_args()
    today = time.strftime("%Y-%m-%d")
    where = f"{platform.machine()}, {os.cpu_count()} CPU cores"
    head = ["# A search's own cost", "", f"`python benchmarks/search.py`, {where}, {today}.", ""]
    head += [" ".join((__doc__ or "").split("\n\n")[1].split()), ""]
    head += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    with tempfile.TemporaryDirectory() as folder:
        rows = [simulated(rule, *case, Path(folder)) for case in CASES for rule in RULES]
    reached = all(good for _, good in rows)
    goals = f"the state machine below {MOST:.0%} of the time, other work at most {OVER:.0%} over the optimum (with a "
    goals += f"checkpoint every {OFTEN} steps what deaths lose, too), nothing twice"
    lines = [*head, *(row for row, _ in rows), "", f"Goals ({goals}): {'reached' if reached else 'MISSED'}."]
    lines += ["", "A kill loses the steps since the last checkpoint, with any scheduler. A pause at a rung keeps one."]
    if given.ray:
        lines += ["", "## On Ray Tune", "", " ".join((__doc__ or "").split("\n\n")[2].split()), ""]
        lines += on_tune(given.ray, given.sleep, given.items)
    RESULTS.write_text("\n".join(lines) + "\n")
    print(RESULTS.read_text())
    sys.exit(not reached)


if __name__ == "__main__":
    main()
