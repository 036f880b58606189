"""The answers of one model to one benchmark, as they come in: a folder that an interrupted run goes on with.

asked.jsonl      every answer as it came, in any order; what is in it is not asked again
answers.jsonl    the answers to the benchmark's questions in their order, LLaVA's lines: what is scored
blind.jsonl      those to shuffled pictures, where they were asked
broken.jsonl     the questions that could not be asked, and why
report.json      the figures, their intervals and every item
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from remora.evaluation.ask import Ask, Condition
from remora.files import disk_errors, write_atomic

ASKED = "asked.jsonl"


class Sheet:
    """What was answered so far. `folder` belongs to one model, one benchmark and one wording of its questions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: dict[tuple[str, int], dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ASKED
        if not path.exists():
            return
        for line in path.read_bytes().split(b"\n"):
            try:
                self._keep(json.loads(line))
            except ValueError:  # a line that a kill cut short; its question is asked again
                continue
        # Written anew, so that the next line does not continue a torn one.
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in self.lines.values()))

    def _keep(self, line: dict[str, Any]) -> None:
        self.lines[line["condition"], line["index"]] = line

    def missing(self, asks: Iterable[Ask]) -> list[Ask]:
        return [a for a in asks if (a.condition, a.index) not in self.lines]

    def add(self, lines: Iterable[dict[str, Any]]) -> None:
        """Keep answers: they are on disk when this returns."""
        lines = list(lines)
        with disk_errors(self.folder), (self.folder / ASKED).open("a") as f:
            f.writelines(json.dumps(line) + "\n" for line in lines)
            f.flush()
            os.fsync(f.fileno())
        for line in lines:
            self._keep(line)

    def broken(self, condition: Condition = "pictures") -> list[dict[str, Any]]:
        """The lines of questions that could not be asked, in order."""
        return [line for line in self._ordered(condition) if "broken" in line]

    def write(self) -> None:
        """Write the files that are read by others, in the questions' order."""
        for condition, name in (("pictures", "answers.jsonl"), ("blind", "blind.jsonl")):
            answers = [
                {k: v for k, v in line.items() if k not in ("index", "condition")}
                for line in self._ordered(condition)
                if "broken" not in line
            ]
            if answers:
                write_atomic(self.folder / name, "".join(json.dumps(a, ensure_ascii=False) + "\n" for a in answers))
        if broken := [b for c in ("pictures", "blind") for b in self.broken(c)]:
            write_atomic(self.folder / "broken.jsonl", "".join(json.dumps(b) + "\n" for b in broken))

    def _ordered(self, condition: str) -> list[dict[str, Any]]:
        return [line for (c, _), line in sorted(self.lines.items()) if c == condition]
