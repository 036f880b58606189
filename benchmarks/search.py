"""What a search costs beside its items: python benchmarks/search.py [--ray SLOTS] writes results/search.md.

Simulated: 1,000 trials over a graph of four stages on 64 slots. The state machine that searches use hands out every
item and writes its rungs to disk; slots only let time pass. One item in fifty dies on the way, and the search itself is
killed four times and built anew from its files. A step takes a second, a checkpoint is kept every 50.

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
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from pipeline.simulated import grid, optimum, store_of
from remora.pipeline.search.perform import Order, Performed
from remora.pipeline.search.rules import Everyone, Halving, Median, StoppingRule
from remora.pipeline.search.samplers import Listed
from remora.pipeline.search.simulation import Simulation
from remora.pipeline.search.work import Train, Trial, Work, WorkItem
from remora.spec import Cluster, Variant

RESULTS = Path(__file__).parent / "results" / "search.md"
SLOTS, KILL, DRIVERS, CHECKPOINT = 64, 0.02, 4, 50
WIDTHS, STEPS = (2, 5, 4, 25), (400, 300, 200, 900)
RULES: tuple[StoppingRule, ...] = (Everyone(), Halving.of(3, 1 / 9), Median((0.2, 0.6)))


def simulated(rule: StoppingRule, folder: Path) -> str:
    """A row of the table."""
    trials = grid(WIDTHS, STEPS)
    calm = Simulation(trials, rule, store_of(trials), SLOTS, folder / f"{rule.words}.calm", measure=30.0)
    calm.go()
    rough = Simulation(
        *(trials, rule, store_of(trials), SLOTS, folder / f"{rule.words}.jsonl"),
        measure=30.0,
        kill=KILL,
        checkpoint=CHECKPOINT,
        seed=1,
    )
    began = time.perf_counter()
    for part in range(1, DRIVERS + 1):
        rough.go(calm.clock * part / (DRIVERS + 1))
    work = rough.go()
    took = time.perf_counter() - began
    twice = sum(n > 1 for n in rough.store.published.values())
    assert {t.state for t in work.trials.values()} <= {"finished", "paused", "stopped"}
    if not isinstance(rule, Median):  # who is stopped by it depends on who comes first
        assert rough.store.published == calm.store.published
    # What the graph needs: each stage run once, as far as the rule lets it go.
    needed = sum(rough.store.steps.values())
    assert isinstance(rule, Halving | Median) or needed == optimum(trials)
    cells = [
        rule.words,
        f"{len(rough.measured):,}",
        f"{rough.clock:,.0f}",
        f"{took:.1f}",
        f"{took / rough.clock:.3%}",
        f"{rough.store.paid / needed - 1:+.2%}",
        f"{rough.clock / calm.clock - 1:+.1%}",
        str(twice),
    ]
    return f"| {' | '.join(cells)} |"


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
            self.ends.append(time.perf_counter())
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

    def slept(order: Order, runs: Path) -> dict[str, Performed]:
        died = runs / f"died-{order.number}"
        if random.Random(order.number).random() < KILL and not died.exists():
            died.touch()
            os._exit(1)
        time.sleep(sleep if order.kind == "train" else 0.0)
        return {"performed": Performed("trained" if order.kind == "train" else "measured")}

    adapter._performed = slept
    trials = grid((1, 2, 4, count // 8), (1, 1, 1, 1))
    with tempfile.TemporaryDirectory() as folder:
        ray.init(num_cpus=slots, include_dashboard=False, log_to_driver=False, configure_logging=False)
        driver = SleepingDriver(trials, Path(folder), slots)
        began = time.perf_counter()
        adapter.OnTune().work(driver)
        wall = time.perf_counter() - began
        deaths = len(list(Path(folder).glob("died-*")))
        ray.shutdown()
    runs = {run.id for t in trials for run in t.lineage}
    assert driver.published == dict.fromkeys(runs, 1)
    items = int(driver.asked)
    # Processes of their own start once each; what an item costs shows once they are there, while all slots are busy.
    steady = [t for t in driver.ends[len(driver.ends) // 4 : -slots]]
    each = (steady[-1] - steady[0]) / (len(steady) - 1)
    return [
        f"{slots} slots, {items:,} items ({len(runs):,} of {sleep:g} s, {len(trials):,} that take no time), {deaths} "
        f"processes died. {wall:.0f} s in all, most of it the start of {slots} Python processes. Once they are there a "
        f"stage run ends every {each:.3f} s: {each * slots - sleep:.2f} s of a slot for each beside its {sleep:g} s. "
        f"The state machine has {driver.seconds / items * 1e3:.2f} ms of an item. Every stage run was published once."
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ray", type=int, default=0, metavar="SLOTS")
    parser.add_argument("--sleep", type=float, default=4.0)
    parser.add_argument("--items", type=int, default=128)
    given = parser.parse_args()
    today = time.strftime("%Y-%m-%d")
    where = f"{platform.machine()}, {os.cpu_count()} CPU cores"
    head = ["# A search's own cost", "", f"`python benchmarks/search.py`, {where}, {today}.", ""]
    head += [" ".join((__doc__ or "").split("\n\n")[1].split()), ""]
    columns = ["rule", "measured", "simulated s", "s of the simulation", "share", "work over what is needed"]
    columns += ["time over a calm run's", "trained twice"]
    head += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    with tempfile.TemporaryDirectory() as folder:
        lines = [*head, *(simulated(rule, Path(folder)) for rule in RULES)]
    if given.ray:
        lines += ["", "## On Ray Tune", "", " ".join((__doc__ or "").split("\n\n")[2].split()), ""]
        lines += on_tune(given.ray, given.sleep, given.items)
    RESULTS.write_text("\n".join(lines) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
