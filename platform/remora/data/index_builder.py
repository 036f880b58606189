"""Build indexes: workers read shards of a source in parallel, and the results are written in order.

Records are checked by `conversation.problems`. Every picture is read once: its bytes are digested and decoded as in
training (`pixels.examine`). A picture whose size and mtime match an earlier index is not read again.
"""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from remora.data.conversation import Problem, image_field, name_of, parse_turns, with_system
from remora.data.index import Dataset, Flaw, IndexWriter, encode_record, runs_of, sound
from remora.data.index_state import (
    PICTURES,
    STATE,
    Seen,
    known_pictures,
    pictures_changed,
    stamps,
    state_of,
    write_seen,
)
from remora.data.locations import is_url, join, relative
from remora.data.pictures import Picture, examined
from remora.data.pixels import NOTED
from remora.data.shared_index import bring_index, send_index
from remora.data.sources import Raw, Shard, Source
from remora.errors import DataError
from remora.files import digest, disk_errors, is_published, publishing, write_json
from remora.versions import INDEX

log = logging.getLogger(__name__)
AT_ONCE = 16
"""Concurrent downloads of pictures per worker."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Spread = Callable[[Callable[[Shard], "Indexed"], Iterable[Shard]], Iterable["Indexed"]]
"""Applies a function to shards, in any workers; yields results in the order of the shards."""
OnProgress = Callable[[int, int], None]
"""Called with (bytes of records indexed, total bytes)."""


@dataclass
class Indexed:
    """The result of indexing one shard."""

    shard: Shard
    records: list[bytes] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    flaws: list[Flaw] = field(default_factory=list)
    seen: dict[str, Seen] = field(default_factory=dict)
    """Local picture files."""


def open_dataset(
    source: Source,
    location: str,
    images: str,
    root: Path,
    spread: Spread | None = None,
    progress: OnProgress | None = None,
) -> Dataset:
    """Open the dataset at `location`. Its index is below `root`, and is built if it is missing or out of date.

    Raises:
        DataError: a file is missing, is not of its format, or has no record.
        StoreError: the index cannot be written.
    """
    runs = str(root.absolute().parents[1])
    home = root / f"{_stem(location)}-{digest([relative(runs, location), relative(runs, images)])[:8]}"
    if not home.is_dir():
        stamps(source.files, home)  # fail for a missing file before a folder is made
    with disk_errors(root):
        home.mkdir(parents=True, exist_ok=True)
        with _locked(home, fcntl.LOCK_SH):  # the workers of a machine check in parallel
            if found := _current(source, home):
                return Dataset(found)
        with _locked(home, fcntl.LOCK_EX):  # one builder at a time: those that waited find the index built
            if found := _current(source, home):
                return Dataset(found)
            if found := _spoilt(home):
                log.warning("%s is damaged; rebuilding it", found)
            files = stamps(source.files, home)
            if is_url(location):
                bring_index(home, files, (STATE, PICTURES))
                if found := _current(source, home):
                    return Dataset(found)
            total = sum(int(size) for _, size, _ in files)
            folder = _build(source, images, home, spread or over_processes, progress or (lambda done, of: None), total)
            write_json(home / STATE, {"format": INDEX, "files": files, "index": folder.name})
            if is_url(location):
                send_index(folder, files, (STATE, PICTURES))
    return Dataset(folder)


def over_processes(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in order, from a process pool; for a single item, in this process (starting one takes 0.3 s)."""
    items = iter(items)
    head = list(islice(items, 2))
    if len(head) < 2:
        yield from map(work, head)
        return
    workers = os.cpu_count() or 1
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in chain(head, items):
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * workers:  # results are megabytes: bound how many wait
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _build(source: Source, images: str, home: Path, spread: Spread, progress: OnProgress, total: int) -> Path:
    seen: dict[str, Seen] = {}
    pictures = home / "pictures.new"  # filled by the workers, moved into the index at the end
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir()
    done = 0
    workshop = home / "building"
    try:
        with publishing(workshop) as tmp:
            with IndexWriter(tmp) as writer:
                for part in spread(partial(index_shard, source, images, str(home)), source.shards()):
                    shard = part.shard
                    writer.add(shard.file, shard.first, part.records, b"".join(part.digests), part.flaws)
                    seen |= part.seen
                    done += shard.bytes
                    progress(done, total)
            if not writer.records:
                raise DataError(f"{', '.join(source.files)}: no record in it")
            key = digest([writer.finish(), relative(runs_of(home), images)])[:16]
            if any(pictures.iterdir()):
                pictures.rename(tmp / "pictures")
        final = home / key
        if is_published(final) and sound(final):
            shutil.rmtree(workshop)
        else:
            shutil.rmtree(final, ignore_errors=True)  # damaged; processes that have it open keep their mappings
            workshop.rename(final)
    finally:
        shutil.rmtree(pictures, ignore_errors=True)
        shutil.rmtree(workshop, ignore_errors=True)
    write_seen(home, seen)
    return final


def index_shard(source: Source, images: str, home: str, shard: Shard) -> Indexed:
    """Read one shard: its records, their problems, and the digests of their pictures. Runs in a worker."""
    out, table = Indexed(shard), Path(home) / PICTURES
    known = known_pictures(table, table.stat().st_mtime_ns) if table.exists() else {}
    kept = Path(home) / "pictures.new" / f"{digest([shard.file, shard.start])[:16]}.bin"
    for number, raw in enumerate(source.read(shard)):
        flaws = raw.flaws()
        shown: list[Picture] = []
        if not flaws:
            for picture, broken in _pictures(raw, images, kept, known, out.seen):
                shown.append(picture)
                flaws += broken
        out.flaws += [Flaw(number, kind, why) for kind, why in flaws]
        if all(kind in NOTED for kind, _ in flaws):
            name, (system, turns) = name_of(raw.record), with_system(parse_turns(raw.record))
            out.records.append(encode_record(name, system, turns, shown))
            content: list[object] = [str(name), [[t.text, t.images] for t in turns], [p.sha256 for p in shown]]
            content += [system] if system else []
        else:
            out.records.append(b"")
            content = [kind for kind, _ in flaws]
        out.digests.append(bytes.fromhex(digest(content)))
    return out


def _pictures(
    raw: Raw, images: str, kept: Path, known: dict[str, Seen], seen: dict[str, Seen]
) -> Iterator[tuple[Picture, tuple[Problem, ...]]]:
    """Each picture of a record with its digest, and its problems."""
    if raw.pictures is None:
        places = [join(images, name) for name in image_field(raw.record)]
        for place in places:
            if place not in seen and not is_url(place):
                seen[place] = _look(place, known.get(place))
        remote = [place for place in places if is_url(place)]
        with ThreadPoolExecutor(min(AT_ONCE, len(remote) or 1)) as pool:
            fetched = dict(zip(remote, pool.map(_read, map(Picture, remote)), strict=True)) if remote else {}
        for place in places:
            found = seen.get(place) or fetched[place]
            yield Picture(place, sha256=found.sha256, size=found.size), found.problems
        return
    for held in raw.pictures:
        if isinstance(held, bytes):
            inside = examined(held)
            with kept.open("ab") as f:
                picture = Picture(f"pictures/{kept.name}", f.tell(), len(held), inside.sha256, inside.size)
                f.write(held)
            yield picture, tuple(inside.problems)
        else:
            found = _read(held)
            yield replace(held, sha256=found.sha256, size=found.size), found.problems


def _look(place: str, known: Seen | None) -> Seen:
    """The state of a picture file, which is read only if it has changed."""
    try:
        now = os.stat(place)  # noqa: PTH116
    except (OSError, ValueError):
        return _read(Picture(place))  # reports the problem
    if known and (known.bytes, known.changed) == (now.st_size, now.st_mtime_ns):
        return known
    found = _read(Picture(place))
    return Seen(now.st_size, now.st_mtime_ns, found.sha256, found.size, found.problems)


def _read(picture: Picture) -> Seen:
    found = examined(picture)
    return Seen(-1, -1, found.sha256, found.size, tuple(found.problems))


def _stem(location: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in location.rstrip("/").rpartition("/")[2])[:60]


@contextmanager
def _locked(home: Path, how: int) -> Iterator[None]:
    with (home / "lock").open("w") as f:
        fcntl.flock(f, how)
        yield


def _current(source: Source, home: Path) -> Path | None:
    """The folder of the last index, if nothing has changed since it was built."""
    files, state = stamps(source.files, home), state_of(home)
    if not state or state["files"] != files or pictures_changed(home) or not sound(home / state["index"]):
        return None
    return home / state["index"]


def _spoilt(home: Path) -> Path | None:
    """The folder of the last index, if it exists and is damaged."""
    state = state_of(home)
    folder = home / state["index"] if state else home
    return folder if state and folder.is_dir() and not sound(folder) else None
