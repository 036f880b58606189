"""What a run folder holds, as things that are listed, verified, renamed and deleted one by one.

stages/<run>                      stage run, with its later validations
stages/<run>.work                 unfinished stage run: checkpoints from which it goes on
bundles/<name>                    bundle: a variant that was trained to its end, with its card
scores/<name>                     scores: one model's answers to one benchmark, and its figures
data/index/<dataset>/<content>    index of a dataset, with the lengths and contents of its samples
searches/<name>, <name>.json      search, with the status of its variants
cards/<bundle>                    card: model card and bill of materials of a bundle that is gone
cache/champions/<version>         download of a registered version's files
cache/weights/<bundle>-int8-…     weights: a bundle whose language model answers in 8 bits
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from remora.errors import DataError, StoreError, nearest
from remora.files import MANIFEST, is_published
from remora.inference.bundle import FILE
from remora.pipeline.search.search import result_file

HoldingKind = Literal[
    "stage run", "unfinished stage run", "bundle", "scores", "index", "search", "card", "download", "weights"
]
INDEX = "index.json"
CONTENT = re.compile(r"[0-9a-f]{16}")
"""The name of an index; beside it are its samples' `lengths` and the `contents` of what is held out."""
SHOWN = 12
"""Names that an error lists at most."""


@dataclass(frozen=True)
class Holding:
    """One thing that a run folder holds."""

    kind: HoldingKind
    place: str
    """Its folder, relative to the run folder: what a user names it by, or the last part of it."""
    paths: tuple[Path, ...]
    """All that belongs to it; the first is its folder."""

    @property
    def path(self) -> Path:
        return self.paths[0]

    @property
    def name(self) -> str:
        """The last part of its place; of an index with the dataset's."""
        parts = self.place.split("/")
        return "/".join(parts[-2:]) if self.kind == "index" else parts[-1]

    @property
    def shown(self) -> str:
        """For messages: `stage run finetune-0f3a…`."""
        return f"{self.kind} {self.name}"


def holdings(runs: Path) -> list[Holding]:
    """Everything that a run folder holds, except leftovers of killed commands."""
    return [*_stages(runs), *_bundles(runs), *_scores(runs), *_indexes(runs), *_searches(runs), *_made_anew(runs)]


def _stages(runs: Path) -> Iterator[Holding]:
    for folder in _folders(runs / "stages"):
        if is_published(folder):
            later = folder.with_name(f"{folder.name}.validations.jsonl")
            yield _holding(runs, "stage run", folder, *([later] if later.exists() else []))
        elif folder.suffix == ".work" and not is_published(folder.with_suffix("")):
            yield _holding(runs, "unfinished stage run", folder)


def _bundles(runs: Path) -> Iterator[Holding]:
    for folder in _folders(runs / "bundles"):
        if (folder / FILE).is_file():
            card = runs / "cards" / folder.name
            yield _holding(runs, "bundle", folder, *([card] if card.is_dir() else []))


def _scores(runs: Path) -> Iterator[Holding]:
    for folder in _folders(runs / "scores"):
        yield _holding(runs, "scores", folder)


def _indexes(runs: Path) -> Iterator[Holding]:
    for home in _folders(runs / "data" / "index"):
        for folder in _folders(home):
            if (folder / INDEX).is_file():
                lengths = sorted((home / "lengths").glob(f"{folder.name}-*/"))
                contents = home / "contents" / folder.name
                yield _holding(runs, "index", folder, *lengths, *([contents] if contents.is_dir() else []))


def _searches(runs: Path) -> Iterator[Holding]:
    for folder in _folders(runs / "searches"):
        beside = (result_file(runs, folder.name), runs / "status" / folder.name)
        yield _holding(runs, "search", folder, *(p for p in beside if p.exists()))


def _made_anew(runs: Path) -> Iterator[Holding]:
    for folder in _folders(runs / "cards"):
        if not (runs / "bundles" / folder.name).is_dir():
            yield _holding(runs, "card", folder)
    for folder in _folders(runs / "cache" / "champions"):
        yield _holding(runs, "download", folder)
    for folder in _folders(runs / "cache" / "weights"):
        yield _holding(runs, "weights", folder)


def _holding(runs: Path, kind: HoldingKind, folder: Path, *beside: Path) -> Holding:
    return Holding(kind, folder.relative_to(runs).as_posix(), (folder, *beside))


def torn_apart(runs: Path) -> Iterator[tuple[Path, str]]:
    """Folders that were published and lack the file by which they are known, and that file's name."""
    for folder in _folders(runs / "stages"):
        if folder.suffix != ".work" and ".torn-" not in folder.name and not is_published(folder):
            yield folder, MANIFEST
    for folder in _folders(runs / "bundles"):
        if not (folder / FILE).is_file():
            yield folder, FILE
    for home in _folders(runs / "data" / "index"):
        for folder in _folders(home):
            if CONTENT.fullmatch(folder.name) and not (folder / INDEX).is_file():
                yield folder, INDEX


def _folders(parent: Path) -> list[Path]:
    """Without hidden ones, which are half written or being deleted.

    Raises:
        StoreError: they cannot be listed: what is in them may need something.
    """
    try:
        return sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as e:
        raise StoreError(f"{parent} cannot be listed: {e.strerror or e}; next: the right to read it") from None


def find(name: str, runs: Path, among: Iterable[Holding]) -> Holding:
    """The holding of that name: its last part, its place in the run folder, or its path.

    Raises:
        DataError: there is none, or there are several.
    """
    there = list(among)
    asked = name.rstrip("/")
    if Path(asked).is_absolute() and Path(asked).is_relative_to(runs):
        asked = Path(asked).relative_to(runs).as_posix()
    found = [h for h in there if asked == h.place] or [h for h in there if asked in names_of(h)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{len(found)} things are named {name!r}; give one of: {', '.join(h.place for h in found)}")
    known = [each for h in there for each in names_of(h)]
    some = named([h.place for h in there], SHOWN)
    raise DataError(
        f"{runs} holds nothing of the name {name!r}{nearest(name, known)} (it holds: {some or 'nothing'}); "
        "next: remora runs ls"
    )


def named(names: Sequence[str], most: int = 4) -> str:
    """Some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def names_of(holding: Holding) -> set[str]:
    """What a user may call it, besides its place."""
    names = {holding.name, holding.path.name}
    if holding.kind == "index":
        names.add(holding.path.parent.name)
    if holding.kind == "unfinished stage run":
        names.add(holding.path.stem)
    return names
