"""The answers of one model to one benchmark: a folder from which an interrupted run resumes.

about.json       the model, its weights' digest, the benchmark and the digest of its questions
asked.jsonl      every answer as it came, in any order; these questions are not asked again
answers.jsonl    the answers in the questions' order, as LLaVA's lines: the file that is scored
blind.jsonl      the answers about shuffled pictures, if any
broken.jsonl     the questions that could not be asked, and why
report.json      the figures, their intervals and every item
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from remora.evaluation.ask import Ask, Condition
from remora.files import digest, disk_errors, write_atomic, write_json
from remora.files.lines import append, said
from remora.files.lines import read as read_lines

log = logging.getLogger(__name__)
ASKED = "asked.jsonl"
FIRST = "index"
"""The first key of every line."""
ABOUT = "about.json"
SCORE = "score.json"
REPORT = "report.json"


@dataclass(frozen=True)
class About:
    """The model and the questions of a folder of answers."""

    model: str
    """The variant's name; two models may share it."""
    weights: str
    """Digest of everything that decides the model's answers."""
    benchmark: str
    questions: str
    """Digest of all questions."""

    @property
    def folder(self) -> str:
        """The folder's name below `scores/`."""
        return f"{self.model}-{self.benchmark}-{digest([self.weights, self.questions])[:12]}"


def read_about(folder: Path) -> About | None:
    """A folder's `About`; None if it has none."""
    try:
        return About(**json.loads((folder / ABOUT).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def score_files(scores: Path, weights: str) -> list[Path]:
    """The scores of a model by the digest of its weights, the oldest first; none without a digest."""
    mine = [
        file
        for file in scores.glob(f"*/{SCORE}")
        if weights and (about := read_about(file.parent)) and about.weights == weights
    ]
    return sorted(mine, key=lambda file: file.stat().st_mtime)


class Sheet:
    """The answers so far to `asks`, whose digests are `keys` (evaluation/identity.py).

    Answers of the same model to the same ask from other sets of questions are reused.
    """

    def __init__(self, scores: Path, about: About, asks: Sequence[Ask], keys: Sequence[str]) -> None:
        self.folder = scores / about.folder
        self.keys = {(a.condition, a.index): key for a, key in zip(asks, keys, strict=True)}
        self.lines: dict[tuple[str, int], dict[str, object]] = {}
        with disk_errors(scores):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / ABOUT, asdict(about))
        known = {line["key"]: line for line in _lines(self.folder / ASKED)}
        if not known:
            for other in _others(scores, about):
                known |= {line["key"]: line for line in _lines(other / ASKED)}
        for a in asks:
            if line := known.get(self.keys[a.condition, a.index]):
                self._keep(line | {"index": a.index})
        # Rewritten, so that the next line does not continue a torn one.
        with disk_errors(scores):
            write_atomic(self.folder / ASKED, "".join(json.dumps(line) + "\n" for line in self.lines.values()))

    def _keep(self, line: dict[str, Any]) -> None:
        self.lines[line["condition"], line["index"]] = line

    def missing(self, asks: Iterable[Ask]) -> list[Ask]:
        return [a for a in asks if (a.condition, a.index) not in self.lines]

    def add(self, lines: Iterable[dict[str, Any]]) -> None:
        """Store answers: they are on disk when this returns."""
        lines = [line | {"key": self.keys[line["condition"], line["index"]]} for line in lines]
        append(self.folder / ASKED, lines, sync=True)
        for line in lines:
            self._keep(line)

    def broken(self, condition: Condition = "pictures") -> list[dict[str, object]]:
        """The lines of questions that could not be asked, in order."""
        return [line for line in self._ordered(condition) if "broken" in line]

    def write(self) -> None:
        """Write the result files, in the questions' order."""
        for condition, name in (("pictures", "answers.jsonl"), ("blind", "blind.jsonl")):
            answers = [
                {k: v for k, v in line.items() if k not in ("index", "condition", "key")}
                for line in self._ordered(condition)
                if "broken" not in line
            ]
            if answers:
                write_atomic(self.folder / name, "".join(json.dumps(a, ensure_ascii=False) + "\n" for a in answers))
        broken = [{k: v for k, v in b.items() if k != "key"} for c in ("pictures", "blind") for b in self.broken(c)]
        if broken:
            write_atomic(self.folder / "broken.jsonl", "".join(json.dumps(b) + "\n" for b in broken))

    def _ordered(self, condition: str) -> list[dict[str, object]]:
        return [line for (c, _), line in sorted(self.lines.items()) if c == condition]


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file of answers; questions whose lines were cut by a kill are asked again."""
    found = read_lines(path, FIRST, _whole)
    if words := said(found, path):
        log.warning("%s; those questions are asked again", words)
    return found.records


def _whole(line: dict[str, object]) -> bool:
    condition = line.get("condition") in ("pictures", "blind")
    return condition and isinstance(line["index"], int) and isinstance(line.get("key"), str) and "question_id" in line


def _others(scores: Path, about: About) -> Iterator[Path]:
    """Folders with answers of the same weights to other versions of the same benchmark."""
    for path in sorted(scores.glob(f"*/{ABOUT}")):
        other = read_about(path.parent)
        if other and other != about and (other.weights, other.benchmark) == (about.weights, about.benchmark):
            yield path.parent
