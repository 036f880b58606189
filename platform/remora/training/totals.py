"""What the events of a stage run's journal add up to: steps that count, seconds, records left out, what it ran on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from remora.data.skipped import EntryCounts
from remora.training.environment import EnvironmentRecord, each_once, read_environment
from remora.training.events import JournalEvent, StepEvent


def counted(events: Iterable[JournalEvent]) -> list[StepEvent]:
    """Events of steps, each step once: what a rollback undid is not among them."""
    found: dict[int, StepEvent] = {}
    for e in events:
        if e["event"] == "step":
            found[e["step"]] = e
        elif e["event"] == "rolled_back":
            found = {step: kept for step, kept in found.items() if step < e["to"]}
    return [found[step] for step in sorted(found)]


def seconds(events: Iterable[JournalEvent]) -> float:
    """By the clock, from where an attempt started to its last step, over all attempts."""
    spans: dict[int, list[float]] = {}
    for e in events:
        if e["event"] in ("started", "step"):
            spans.setdefault(e.get("attempt", 0), []).append(e["time"])
    return sum(max(times) - min(times) for times in spans.values())


def energy(events: Sequence[JournalEvent]) -> dict[str, float] | None:
    """Joules by counter, over all attempts; empty if there was no counter, None if an attempt said nothing of one."""
    starts = [e for e in events if e["event"] == "started"]
    if not starts or any("counters" not in e for e in starts):
        return None
    most: dict[tuple[int, str], float] = {}
    for e in events:
        if e["event"] == "step":
            for counter, joules in e.get("energy", {}).items():
                key = e.get("attempt", 0), counter
                most[key] = max(most.get(key, 0.0), joules)
    counters = dict.fromkeys(counter for _, counter in most)
    return {counter: sum(joules for (_, of), joules in most.items() if of == counter) for counter in counters}


def left_out(events: Sequence[JournalEvent]) -> list[EntryCounts]:
    """Each entry of the mixture with its records and those that were left out by kind: when it was indexed, or while
    the stage read it. Empty if the journal lost its first lines."""
    told = [e["data"] for e in events if e["event"] == "started" and "data" in e]
    met = {(e["entry"], e["sample"]): e["kind"] for e in events if e["event"] == "dropped" and "kind" in e}
    found: list[EntryCounts] = []
    for number, data in enumerate(told[-1] if told else []):
        kinds = Counter(data["skipped"]) + Counter(kind for (entry, _), kind in met.items() if entry == number)
        found.append({"dataset": data["dataset"], "records": data["records"], "skipped": dict(kinds)})
    return found


def environments(events: Iterable[JournalEvent]) -> list[EnvironmentRecord]:
    """What its attempts ran on, each once; empty of a journal from before that was recorded."""
    told = (e.get("environment") for e in events if e["event"] == "started")
    return each_once(ran_on for each in told if (ran_on := read_environment(each)))
