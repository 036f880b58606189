"""What killed processes left at the URL of a run folder, and whether what is published there is whole.

    <url>/<key>/<attempt>/…     an upload that no manifest names: it was killed, or its version was deleted halfway
    <url>/<run>.work/…          checkpoints of a stage run that is published
    <url>/.probe-<…>            a test of the store

An upload that goes on looks like one that was killed, but is younger: of a leftover all objects, and the last sign of
life of the lease under which it was made, are older than AGE.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from remora.errors import StoreError
from remora.sharing.folders import NAME, SharedRuns, again

AGE = 24 * 3600.0
"""Seconds, by the clocks of this machine and of the store, which differ by far less; no file takes as long to send."""
ATTEMPT = re.compile(r"(?P<key>.+?)/(?P<attempt>[0-9a-f]{32})/.+")
WORK, LEASE, PROBE = ".work", ".lease", ".probe-"


@dataclass(frozen=True)
class SharedLeftover:
    """Something at the URL that is no longer used."""

    key: str
    why: str
    bytes: int


@dataclass(frozen=True)
class SharedVerdict:
    """What was found of one publication at the URL."""

    key: str
    problems: tuple[str, ...]
    """Each a line with what to do; empty if it is whole."""


class SharedListing:
    """What there is at the URL of a run folder, as it was when it was listed."""

    def __init__(self, shared: SharedRuns) -> None:
        self.shared, self.sizes = shared, shared.objects.sizes()
        self.attempts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        """Key -> attempt -> its objects."""
        self.numbers: dict[str, list[int]] = defaultdict(list)
        """Key -> the numbers of its versions."""
        self.leases: dict[str, list[str]] = defaultdict(list)
        """Key -> the objects of its lease."""
        for name in self.sizes:
            place, _, last = name.rpartition("/")
            if found := ATTEMPT.fullmatch(name):
                self.attempts[found["key"]][found["attempt"]].append(name)
            elif manifest := NAME.fullmatch(last):
                self.numbers[place].append(int(manifest[1]))
            elif place.endswith(LEASE):
                self.leases[place.removesuffix(LEASE)].append(name)

    def leftovers(self) -> Iterator[SharedLeftover]:
        """What is no longer used, and old. Nothing of a key whose manifest cannot be read."""
        for name in self.sizes:
            if name.startswith(PROBE):
                yield from self._leftover(name, "a test of the store", [name])
        for key, attempts in self.attempts.items():
            run = key.removesuffix(WORK)
            if run != key and self.numbers.get(run):
                everything = [name for name in self.sizes if name.startswith(f"{key}/")]
                yield from self._leftover(key, "its run is published", everything, self.leases[run])
                continue
            try:
                named = {found.attempt for n in self.numbers[key] if (found := self.shared.version(key, n))}
            except StoreError:
                continue
            for attempt in sorted(set(attempts) - named):
                why = "an upload that was killed: no manifest names it"
                yield from self._leftover(f"{key}/{attempt}", why, attempts[attempt], self.leases[run])

    def _leftover(self, key: str, why: str, objects: list[str], lease: Sequence[str] = ()) -> Iterator[SharedLeftover]:
        """If it is old. What does not say how old it is, is not."""
        ages = [self.shared.objects.age(name) for name in (*objects, *lease)]
        if all(age is not None and age > AGE for age in ages):
            yield SharedLeftover(key, why, sum(self.sizes[name] for name in objects))

    def verified(self) -> Iterator[SharedVerdict]:
        """Whether every manifest can be read, and what it names is there and as long as it says. No file is read."""
        for key, numbers in sorted(self.numbers.items()):
            problems = [problem for number in sorted(numbers) if (problem := self._problem(key, number))]
            yield SharedVerdict(key, tuple(problems))

    def _problem(self, key: str, number: int) -> str:
        try:
            found = self.shared.version(key, number)
        except StoreError as e:
            return str(e)
        for name, file in found.files.items() if found else ():
            assert found
            there = self.sizes.get(f"{key}/{found.attempt}/{name}")
            if there != file.bytes:
                said = "is missing" if there is None else f"has {there:,} bytes, its manifest says {file.bytes:,}"
                return f"{self.shared.url}/{key}: {name} {said}; {again(self.shared.url, key)}"
        return ""
