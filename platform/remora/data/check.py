"""`remora data check`: everything that is wrong with a dataset, counted by kind, each with its first examples.

It reads every record and opens every picture, and never stops at the first that is broken. The rules of a record are
`conversation.problems`, the same that training refuses by.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from remora.data.conversation import Problem, Turn, image_field, parse_record, problems, read_records
from remora.data.images import UNREADABLE
from remora.data.prompt import OverLength, Prompter
from remora.model.vlm import IGNORE

EXAMPLES = 5
"""How many of a kind are shown."""
LARGEST = 50_000_000
"""Pixels from which on a picture is called oversized: 150 MB to decode, for the few hundred of a side that are read."""

NOTED = {"duplicate-id", "oversized-image", "over-length"}
"""Kinds that a training run lives with: it says so and goes on. All others stop it, or teach nothing."""


@dataclass
class Report:
    """What a dataset holds, and what is wrong with it."""

    file: Path
    records: int = 0
    pictures: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """Kind of problem -> how many records have it."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Kind -> its first examples, each named by file and record number."""

    @property
    def fatal(self) -> int:
        """Problems that a training run does not live with."""
        return sum(n for kind, n in self.counts.items() if kind not in NOTED)

    def add(self, kind: str, where: str, problem: str) -> None:
        self.counts[kind] += 1
        if len(shown := self.examples.setdefault(kind, [])) < EXAMPLES:
            shown.append(f"{where}: {problem}")

    def as_json(self) -> dict[str, Any]:
        kinds = {k: {"count": n, "fatal": k not in NOTED, "examples": self.examples[k]} for k, n in self.counts.items()}
        counts = {"records": self.records, "pictures": self.pictures, "fatal": self.fatal}
        return {"file": str(self.file), **counts, "problems": kinds}


def picture_problem(path: Path) -> Problem | None:
    """What is wrong with a picture file. It is decoded, because a cut JPEG passes every cheaper test."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > LARGEST:
                return "oversized-image", f"{path} has {width} x {height} pixels; {LARGEST:,} are plenty"
            image.load()
    except FileNotFoundError:
        return "missing-image", f"{path} is not there"
    except Image.DecompressionBombError as e:
        return "oversized-image", f"{path}: {e}"
    except UNREADABLE as e:
        return "corrupt-image", f"{path}: {str(e).splitlines()[0]}"
    return None


def check_dataset(
    path: Path,
    images: Path,
    hint: str = "",
    prompter: Prompter | None = None,
    max_length: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Read every record of a LLaVA JSON or JSONL file and every picture that it names.

    With a prompter each conversation is also rendered: too long for `max_length`, or nothing supervised, is found too.

    Raises:
        DataError: the file itself cannot be read.
    """
    report = Report(path)
    records = read_records(path, hint)
    report.records = len(records)
    seen: dict[str, int] = {}
    shown: dict[Path, list[int]] = {}
    for i, record in enumerate(records):
        where = f"{path}: record {i}"
        found = list(problems(record))
        for kind, problem in found:
            report.add(kind, where, problem)
        name = record.get("id") if isinstance(record, dict) else None
        if name is not None and (first := seen.setdefault(str(name), i)) != i:
            report.add("duplicate-id", where, f"id {name!r} is record {first}'s too")
        if not found:
            sample = parse_record(record, images, where)
            for file in sample.images:
                shown.setdefault(file, []).append(i)
            if prompter:
                for kind, problem in _prompt_problems(prompter, sample.turns, max_length):
                    report.add(kind, where, problem)
        elif isinstance(record, dict):
            for file in _paths(record, images):
                shown.setdefault(file, []).append(i)
    report.pictures = len(shown)
    # Decoding releases the interpreter's lock; a picture that several records show is opened once.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for done, (used, problem_) in enumerate(zip(shown.values(), pool.map(picture_problem, shown), strict=True)):
            if problem_:
                for i in used:
                    report.add(problem_[0], f"{path}: record {i}", problem_[1])
            progress(done + 1, len(shown))
    return report


def _paths(record: dict[str, Any], images: Path) -> Iterator[Path]:
    """The pictures that a record with other problems names, as far as it does."""
    paths = image_field(record)
    for p in paths if isinstance(paths, list) else []:
        if isinstance(p, str) and p:
            yield images / p


def _prompt_problems(prompter: Prompter, turns: Sequence[Turn], max_length: int | None) -> Iterator[Problem]:
    tokens = prompter.encode(turns)
    if all(label == IGNORE for label in tokens.labels[1:]):
        yield "no-supervised-token", "no token of its answers is supervised"
    if max_length is None or len(tokens.ids) <= max_length:
        return
    try:
        kept = prompter.encode(turns, max_length)
        yield (
            "over-length",
            f"{len(tokens.ids)} tokens, of {max_length} allowed; cut to {len(kept.ids)} at a turn's end",
        )
    except OverLength as e:
        yield "over-length-first", str(e)
