"""Answers to MMMU in the formats of its two scripts and of their callers.

`{id: answer}` is for main_eval_only.py: a choice is exactly its letter. Lists of records with a `response`, one file or
one folder per subject, are for main_parse_and_eval.py; LLaVA's lines are parsed in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from remora.errors import DataError
from remora.evaluation.answers import AnswerLine, Warnings, read_records
from remora.evaluation.benchmarks.mmmu.files import SUBJECTS, answer_options
from remora.evaluation.benchmarks.mmmu.parse import Read

OUTPUTS = ("output.json", "parsed_output.json")


@dataclass(frozen=True)
class CollegeAnswer(AnswerLine):
    """One answer. `final`: do not parse it as a choice; `read`: it is parsed already."""

    final: bool = False
    read: tuple[Read, ...] | None = None
    letters: tuple[str, ...] = ()
    options: dict[str, str] | None = None


def read_lines(path: Path, warnings: Warnings) -> tuple[list[CollegeAnswer], bool]:
    """Answers in the order of the file, and whether they are parsed in that order.

    Raises:
        DataError: nothing in it can be read.
    """
    files = [path]
    if path.is_dir():
        files = [file for s in SUBJECTS if (file := _output(path / s)) is not None]
        if not files:
            raise DataError(f"missing answers: no <subject>/output.json in {path}; give the folder of MMMU's outputs")
    found: list[CollegeAnswer] = []
    recorded = False
    for file in files:
        records = read_records(file, warnings, unread=("prompt",))
        for identity, value in (records.mapping or {}).items():
            where = f"{file.name}: {identity}"
            if isinstance(value, (str, int, float)):
                found.append(CollegeAnswer(identity, str(value), where, final=True))
            else:
                warnings.add("answers without a text", f"{where}: no text: {str(value)[:60]}")
        for i, record in enumerate(records.objects):
            named, where = record.get("id", record.get("question_id")), records.where(i)
            said = _said(named, record, where) if isinstance(named, str) else None
            if said is None:
                what = "no text or response" if isinstance(named, str) else "no id"
                warnings.add("answers without an id or a text", f"{where}: {what}: {str(record)[:60]}")
                continue
            recorded = recorded or "response" in record
            found.append(said)
    return found, recorded


def _output(folder: Path) -> Path | None:
    return next((folder / name for name in OUTPUTS if (folder / name).is_file()), None)


def _said(identity: str, record: dict[str, object], where: str) -> CollegeAnswer | None:
    """A record of main_parse_and_eval.py, parsed or not, or a line of LLaVA's."""
    text = next(
        (record[k] for k in ("response", "text", "prediction") if isinstance(record.get(k), (str, int, float))), None
    )
    before = record.get("parsed_pred")
    if isinstance(before, str):
        return CollegeAnswer(identity, before, where, final=True)
    if isinstance(before, list):
        values = tuple(v for v in before if isinstance(v, (str, int, float)))
        return CollegeAnswer(identity, ", ".join(map(str, before)) if text is None else str(text), where, read=values)
    letters, options = answer_options(record)
    return None if text is None else CollegeAnswer(identity, str(text), where, letters=letters, options=options)
