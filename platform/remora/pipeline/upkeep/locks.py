"""The locks that commands hold while they work at what a run folder holds, by the names that their writers give them.

stages/<run>.lease                                  trains it, or brings it from a URL
stages/<run>.validations.lease                      makes the validation that it lacks
scores/.<name>.lease                                asks the benchmark
scores/.<name>.speed.lease                          measures how fast the model answers
cache/weights/.<name>.lock                          writes 8-bit weights
bundles/.<name>.serving.lock                        serves the bundle; also in cache/weights and cache/champions
data/index/<dataset>/lock                           reads or writes the dataset's indexes
data/index/<dataset>/lengths/<index>-<table>.lock   measures lengths
data/index/<dataset>/contents/<index>.lock          digests what the records say
searches/<name>/.lease                              searches
.promotions.jsonl.lock                              promotes
tracking/.sync.lock                                 brings MLflow up to date
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from remora.files import is_held
from remora.inference.bundle import serving_lock
from remora.pipeline.search.search import lease_of
from remora.pipeline.upkeep.holdings import Holding

STAGE = (".lease", ".validations.lease")
SCORES = (".lease", ".speed.lease")
WORK = {
    "stages/*.validations.lease": "validation of {}",
    "stages/*.lease": "stage run {}",
    "scores/.*.speed.lease": "answer speed of {}",
    "scores/.*.lease": "evaluation {}",
    **{f"{folder}/.*.serving.lock": "endpoint of {}" for folder in ("bundles", "cache/weights", "cache/champions")},
    "cache/weights/.*.lock": "weights {}",
    "data/index/*/lock": "index {}",
    "data/index/*/lengths/*.lock": "lengths {}",
    "data/index/*/contents/*.lock": "contents {}",
    "searches/*/.lease": "search {}",
    ".promotions.jsonl.lock": "promotion",
    "tracking/.sync.lock": "sync",
}
"""Where locks are -> what their holders do. The first pattern that has a file counts."""


@dataclass(frozen=True)
class HeldLock:
    """A lock that a living process has."""

    work: str
    """What it does, with the name of what it works at: `stage run base-0f3a…`."""
    name: str
    holdings: Sequence[Holding]
    """What it is about, as far as that is there already."""
    serves: bool
    """Whether it is an endpoint's, which may run for weeks and changes nothing."""


def locks_of(holding: Holding) -> list[Path]:
    """The locks that a command has while it works at a holding."""
    folder = holding.path
    home, name = folder.parent, folder.name
    match holding.kind:
        case "stage run" | "unfinished stage run":
            return [home / f"{name.removesuffix('.work')}{end}" for end in STAGE]
        case "scores":
            return [home / f".{name}{end}" for end in SCORES]
        case "bundle" | "download":
            return [serving_lock(folder)]
        case "weights":
            return [home / f".{name}.lock", serving_lock(folder)]
        case "index":
            made_of_it = (*home.glob(f"contents/{name}.lock"), *home.glob(f"lengths/{name}-*.lock"))
            return [home / "lock", *sorted(made_of_it)]
        case "search":
            return [lease_of(home.parent, name)]
        case _:
            return []


def held_locks(runs: Path, there: Iterable[Holding]) -> Iterator[HeldLock]:
    """All locks that are held now, also those of what is not there yet: its writer has just begun."""
    of: dict[Path, list[Holding]] = {}
    for holding in there:
        for lock in locks_of(holding):
            of.setdefault(lock, []).append(holding)
    seen: set[Path] = set()
    for pattern, work in WORK.items():
        for lock in sorted(set(runs.glob(pattern)) - seen):
            seen.add(lock)
            if is_held(lock):
                name = _name(lock, pattern)
                yield HeldLock(work.format(name), name, of.get(lock, []), pattern.endswith(".serving.lock"))


def _name(lock: Path, pattern: str) -> str:
    """Of what it is about: what the pattern's last star stands for."""
    form = pattern.rpartition("/")[2]
    return lock.name.removeprefix(".").removesuffix(form.rpartition("*")[2]) if "*" in form else lock.parent.name
