"""`remora data check`: all problems of a dataset, counted by kind, with the first examples of each.

It reads every record and decodes every picture. The rules are `conversation.problems`, the same as in training.
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from remora.data.conversation import TAG, Problem, Turn, image_field, name_of, parse_turns, short
from remora.data.index_state import size_of
from remora.data.locations import join
from remora.data.pictures import Picture, examined
from remora.data.pixels import NOTED as NOTED_PICTURES
from remora.data.sources import Raw, find_source
from remora.errors import DataError

EXAMPLES = 5
"""Examples shown of each kind."""
WAITING = 1_000
"""Maximum pictures in the queue; reading of records pauses when it is full."""

DROPPED = frozenset({"over-length-first", "no-supervised-token"})
"""Kinds whose records a stage drops and lists, within `max_skipped`."""
UNREAD = 1_000
"""Maximum unread keys that are counted one by one; more are counted together."""
EXCERPT = 400
"""Maximum characters of an example."""
_MARKS = re.compile(
    r"<\|?(?:video|audio|speech|img|vision_start|bbox|ref-object|image(?:[ _-]?(?:\d+|pad|placeholder|here))?)\s*/?\|?>"
    r"|<im_(?:start|patch|end)>|\[img\]",
    re.IGNORECASE,
)
"""Tags that mean a picture, a region, a video or a sound in other formats. Here they are plain text, and so is an
<image> outside human turns."""

TurnsCheck = Callable[[Sequence[Turn]], Iterable[Problem]]
"""Returns the problems that a stage has with a valid conversation."""
NOTED = NOTED_PICTURES | {"duplicate-id", "over-length", "media-tag", "system-unread"}
"""Kinds that training tolerates with a note. All others stop it, or leave nothing to learn from."""


@dataclass
class DatasetReport:
    """Contents and problems of a dataset."""

    location: str
    skip: frozenset[str] = frozenset()
    """Kinds of problems whose records are skipped."""
    records: int = 0
    pictures: int = 0
    text_only: int = 0
    """Records without a picture."""
    folders: Counter[str] = field(default_factory=Counter)
    """Folder of a record's first picture, as named in the record -> number of records."""
    unread: Counter[str] = field(default_factory=Counter)
    """Key, column or kind of tar member that is not read -> number of records that have it."""
    counts: Counter[str] = field(default_factory=Counter)
    """Kind of problem -> number of records."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Kind -> its first examples, each with file and record number."""
    dropped: frozenset[str] = frozenset()
    """Kinds whose records a stage may drop because there are few enough."""
    _seen: set[int] = field(default_factory=set, repr=False)
    """Hashes of counted (record, kind) pairs; problems of pictures arrive later than those of their records."""
    _refused: set[int] = field(default_factory=set, repr=False)

    @property
    def tolerated(self) -> frozenset[str]:
        """Kinds that training tolerates."""
        return NOTED | self.skip | self.dropped

    def leave_out(self, share: float) -> None:
        """Tolerate samples without supervised tokens if they and the skipped ones are at most that fraction."""
        kinds = frozenset(DROPPED & self.counts.keys())
        if sum(self.counts[kind] for kind in kinds | self.skip) <= share * self.records:
            self.dropped = kinds

    @property
    def refused(self) -> int:
        """Number of records with a problem that training does not tolerate."""
        return len(self._refused)

    @property
    def fatal(self) -> int:
        """Number of problems that training does not tolerate, one per kind and record."""
        return sum(n for kind, n in self.counts.items() if kind not in self.tolerated)

    def add(self, kind: str, where: str, problem: str) -> None:
        """Count a problem of the record at `where`, once per kind."""
        if (key := hash((where, kind))) not in self._seen:
            self._seen.add(key)
            self.counts[kind] += 1
            if len(shown := self.examples.setdefault(kind, [])) < EXAMPLES:
                shown.append(f"{where}: {problem[:EXCERPT]}{'…' * (len(problem) > EXCERPT)}")
            if kind not in self.tolerated:
                self._refused.add(hash(where))

    def count(self, raw: Raw) -> None:
        """Count a record, the folder of its first picture, and its unread keys."""
        self.records += 1
        for name in dict.fromkeys(raw.unread):
            self.unread[name if name in self.unread or len(self.unread) < UNREAD else "(others)"] += 1
        names = image_field(raw.record) if isinstance(raw.record, dict) else []
        if not (names or raw.pictures):
            self.text_only += not raw.problems
        elif isinstance(names, list) and names and isinstance(names[0], str):
            self.folders[names[0].rpartition("/")[0]] += 1

    def as_json(self) -> dict[str, object]:
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
    """Read every record of a dataset and decode every picture in them.

    `judge` returns the problems that a stage has with a valid conversation (reading.fitting.prompt_problems).
    `skip` are the kinds of problems whose records the mixture entry skips.
    `progress` is called with (bytes of records read, total bytes).

    Raises:
        DataError: the dataset cannot be read at all.
    """
    report, source = DatasetReport(location, frozenset(skip)), find_source(location)
    total, done = sum(size_of(file) for file in source.files), 0
    ids: dict[str, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the GIL
        pictures = _Pictures(pool, images, report)
        for shard in source.shards():
            for number, raw in enumerate(source.read(shard), shard.first):
                where = f"{shard.file}: record {number}"
                report.count(raw)
                found = raw.flaws()
                for kind, problem in [*found, *_notes(raw, where, ids)]:
                    report.add(kind, where, problem)
                if found:
                    continue  # an index does not look further either
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
    """Problems that training tolerates; `ids` maps ids of earlier records to their places."""
    if raw.problems or not isinstance(raw.record, dict):
        return
    name = name_of(raw.record)
    if name is not None and (first := ids.setdefault(name, where)) != where:
        yield "duplicate-id", f"id {short(name)} is also that of {first}"
    said = raw.record.get("conversations")
    for i, turn in enumerate(said if isinstance(said, list) else []):
        speaker, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if isinstance(value, str) and ("<" in value or "[" in value):
            marks = (mark[0] for mark in _MARKS.finditer(value))
            if mark := next((m for m in marks if m != TAG or speaker != "human"), ""):
                why = "which is read as text; pictures are <image> in a human turn"
                yield "media-tag", f"turn {i} holds {mark}, {why}"
                return


class _Pictures:
    """Checks pictures in a thread pool. A file shared by several records is opened once."""

    def __init__(self, pool: ThreadPoolExecutor, images: str, report: DatasetReport) -> None:
        self.pool, self.images, self.report = pool, images, report
        self.waiting: deque[tuple[str, Future[list[Problem]]]] = deque()
        self.opened: dict[str, Future[list[Problem]]] = {}

    def add(self, raw: Raw, where: str) -> None:
        """Queue the pictures of a record, if it has any."""
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
        """Take results, in record order, until `left` pictures are in the queue."""
        while len(self.waiting) > left:
            where, future = self.waiting.popleft()
            for kind, problem in future.result():
                self.report.add(kind, where, problem)


def _picture_problems(held: Picture | bytes) -> list[Problem]:
    """Decode a picture and return its problems."""
    return examined(held).problems
