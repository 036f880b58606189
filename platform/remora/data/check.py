"""`remora data check`: everything that is wrong with a dataset, counted by kind, each with its first examples.

It reads every record and opens every picture, and never stops at the first that is broken. The rules of a record are
`conversation.problems`, the same that training refuses by.
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from remora.data.conversation import TAG, Problem, Turn, image_field, name_of, parse_turns, short
from remora.data.index_builder import size_of
from remora.data.locations import join
from remora.data.pictures import Picture, examined
from remora.data.pixels import NOTED as NOTED_PICTURES
from remora.data.sources import Raw, find_source
from remora.errors import DataError

EXAMPLES = 5
"""How many of a kind are shown."""
WAITING = 1_000
"""Pictures that wait for a thread before reading of records goes on."""

DROPPED = frozenset({"over-length-first", "no-supervised-token"})
"""Kinds that a stage drops, by name, as far as `max_skipped` allows."""
UNREAD = 1_000
"""Keys that nothing reads and that are counted one by one; more are counted together."""
EXCERPT = 400
"""Characters of a problem that are kept as an example."""
_MARKS = re.compile(
    r"<\|?(?:video|audio|speech|img|vision_start|bbox|ref-object|image(?:[ _-]?(?:\d+|pad|placeholder|here))?)\s*/?\|?>"
    r"|<im_(?:start|patch|end)>|\[img\]",
    re.IGNORECASE,
)
"""What stands for a picture, a place in one, a video or a sound elsewhere. Here it is letters, as in a text about HTML.
So is an <image> that no user says."""

TurnsCheck = Callable[[Sequence[Turn]], Iterable[Problem]]
"""What is wrong with a conversation beyond its record."""
NOTED = NOTED_PICTURES | {"duplicate-id", "over-length", "media-tag", "system-unread"}
"""Kinds that a training run lives with: it says so and goes on. All others stop it, or teach nothing."""


@dataclass
class DatasetReport:
    """What a dataset holds, and what is wrong with it."""

    location: str
    skip: frozenset[str] = frozenset()
    """Kinds of problems whose records are left out."""
    records: int = 0
    pictures: int = 0
    text_only: int = 0
    """Records without a picture."""
    folders: Counter[str] = field(default_factory=Counter)
    """Folder of its first picture, as a record names it -> records."""
    unread: Counter[str] = field(default_factory=Counter)
    """Key, column or kind of tar member that nothing reads -> how many records have it."""
    counts: Counter[str] = field(default_factory=Counter)
    """Kind of problem -> how many records have it."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Kind -> its first examples, each named by file and record number."""
    dropped: frozenset[str] = frozenset()
    """Kinds whose records a stage drops, where it may drop that many."""
    _seen: set[int] = field(default_factory=set, repr=False)
    """Hashes of (record, kind) that are counted: the problems of pictures come later than those of their records."""
    _refused: set[int] = field(default_factory=set, repr=False)

    @property
    def tolerated(self) -> frozenset[str]:
        """Kinds that a training run lives with."""
        return NOTED | self.skip | self.dropped

    def leave_out(self, share: float) -> None:
        """Let a stage live with samples that teach it nothing, if with what is skipped they are at most that share."""
        kinds = frozenset(DROPPED & self.counts.keys())
        if sum(self.counts[kind] for kind in kinds | self.skip) <= share * self.records:
            self.dropped = kinds

    @property
    def refused(self) -> int:
        """Records with a problem that a training run does not live with."""
        return len(self._refused)

    @property
    def fatal(self) -> int:
        """Problems that a training run does not live with, one a kind and record."""
        return sum(n for kind, n in self.counts.items() if kind not in self.tolerated)

    def add(self, kind: str, where: str, problem: str) -> None:
        """One more problem of the record at `where`; of each kind it counts one."""
        if (key := hash((where, kind))) not in self._seen:
            self._seen.add(key)
            self.counts[kind] += 1
            if len(shown := self.examples.setdefault(kind, [])) < EXAMPLES:
                shown.append(f"{where}: {problem[:EXCERPT]}{'…' * (len(problem) > EXCERPT)}")
            if kind not in self.tolerated:
                self._refused.add(hash(where))

    def count(self, raw: Raw) -> None:
        """One more record, by where its first picture lies, and by what of it nothing reads."""
        self.records += 1
        for name in dict.fromkeys(raw.unread):
            self.unread[name if name in self.unread or len(self.unread) < UNREAD else "(others)"] += 1
        names = image_field(raw.record) if isinstance(raw.record, dict) else []
        if not (names or raw.pictures):
            self.text_only += not raw.problems
        elif isinstance(names, list) and names and isinstance(names[0], str):
            self.folders[names[0].rpartition("/")[0]] += 1

    def as_json(self) -> dict[str, Any]:
        fatal = self.counts.keys() - self.tolerated
        kinds = {k: {"count": n, "fatal": k in fatal, "examples": self.examples[k]} for k, n in self.counts.items()}
        counts = {"records": self.records, "text_only": self.text_only, "pictures": self.pictures}
        counts |= {"fatal": self.fatal, "refused": self.refused}
        return {"location": self.location, **counts, "unread": dict(self.unread), "problems": kinds}


def check_dataset(
    location: str,
    images: str,
    judge: TurnsCheck | None = None,
    skip: Collection[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> DatasetReport:
    """Read every record of a dataset and decode every picture that it shows.

    `judge` says what a stage makes of each sound conversation (reading.fitting.prompt_problems).
    `skip` are kinds of problems whose records its mixture entry leaves out.
    `progress` is told bytes of records, of how many.

    Raises:
        DataError: the dataset cannot be read at all.
    """
    report, source = DatasetReport(location, frozenset(skip)), find_source(location)
    total, done = sum(size_of(file) for file in source.files), 0
    ids: dict[str, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter's lock
        pictures = _Pictures(pool, images, report)
        for shard in source.shards():
            for number, raw in enumerate(source.read(shard), shard.first):
                where = f"{shard.file}: record {number}"
                report.count(raw)
                found = raw.flaws()
                for kind, problem in [*found, *_notes(raw, where, ids)]:
                    report.add(kind, where, problem)
                if found:
                    continue  # an index looks no further either
                for kind, problem in judge(parse_turns(raw.record)) if judge else ():
                    report.add(kind, where, problem)
                pictures.add(raw, where)
            done += shard.bytes
            progress(done, total)
        pictures.drain(0)
    if not report.records:
        raise DataError(f"{location}: no record in it")
    return report


def _notes(raw: Raw, where: str, ids: dict[str, str]) -> Iterator[Problem]:
    """What a training run lives with; `ids` are those of earlier records, by where they are."""
    if raw.problems or not isinstance(raw.record, dict):
        return
    name = name_of(raw.record)
    if name is not None and (first := ids.setdefault(name, where)) != where:
        yield "duplicate-id", f"id {short(name)} is that of {first} too"
    said = raw.record.get("conversations")
    for i, turn in enumerate(said if isinstance(said, list) else []):
        speaker, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if isinstance(value, str) and ("<" in value or "[" in value):
            marks = (mark[0] for mark in _MARKS.finditer(value))
            if mark := next((m for m in marks if m != TAG or speaker != "human"), ""):
                why = "which is read as letters; pictures are <image> in a human turn"
                yield "media-tag", f"turn {i} holds {mark}, {why}"
                return


class _Pictures:
    """Pictures on their way through a pool of threads; a file that several records show is opened once."""

    def __init__(self, pool: ThreadPoolExecutor, images: str, report: DatasetReport) -> None:
        self.pool, self.images, self.report = pool, images, report
        self.waiting: deque[tuple[str, Future[list[Problem]]]] = deque()
        self.opened: dict[str, Future[list[Problem]]] = {}

    def add(self, raw: Raw, where: str) -> None:
        """The pictures of a record, as far as it names any."""
        if raw.pictures is not None:
            for held in raw.pictures:
                self.report.pictures += 1
                self.waiting.append((where, self.pool.submit(_picture_problems, held)))
        else:
            names = image_field(raw.record) if isinstance(raw.record, dict) else []
            for name in names if isinstance(names, list) else []:
                if isinstance(name, str):
                    place = join(self.images, name)
                    if place not in self.opened:
                        self.report.pictures += 1
                        self.opened[place] = self.pool.submit(_picture_problems, Picture(place))
                    self.waiting.append((where, self.opened[place]))
        self.drain(WAITING)

    def drain(self, left: int) -> None:
        """Take results, in the order of records, until `left` pictures wait."""
        while len(self.waiting) > left:
            where, future = self.waiting.popleft()
            for kind, problem in future.result():
                self.report.add(kind, where, problem)


def _picture_problems(held: Picture | bytes) -> list[Problem]:
    """What is to be said of a picture, which is decoded."""
    return examined(held).problems
