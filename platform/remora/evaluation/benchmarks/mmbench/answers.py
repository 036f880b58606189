"""Read answers to MMBench's rows: LLaVA's lines, or a table of predictions (LLaVA's upload, VLMEvalKit's files).

Lines are read as they come back from the workbook that LLaVA's script makes of them. That has every row of the table,
so an unanswered one counts as wrong; a row missing from a table of predictions is not scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from remora.errors import DataError
from remora.evaluation.answers import AnswerLine, Records, Warnings, answer_lines, match, read_records
from remora.evaluation.benchmarks.mmbench.cells import (
    SheetRow,
    column_name,
    inferred,
    read_tsv,
    read_xlsx,
    through_workbook,
)
from remora.evaluation.benchmarks.mmbench.table import Rotation, Table, whole
from remora.evaluation.benchmarks.prompts import LETTERS

NOTHING = "nan"
"""The text of an empty cell once pandas has read it and VLMEvalKit has converted it."""


@dataclass(frozen=True)
class Reply:
    """One answer: `given` is the file's text, `text` is what the rules read."""

    given: str
    text: str
    options: Mapping[str, str]
    letters: str = LETTERS
    """The table's letters in the order in which the options were shown."""

    def own(self, letter: str) -> str:
        """The table's letter for a shown letter; Z and an empty string stay."""
        place = LETTERS.find(letter) if letter else len(LETTERS)
        return self.letters[place] if place < len(self.letters) else letter


def read_replies(path: Path, table: Table, warnings: Warnings) -> dict[int, list[Reply]]:
    """The replies to each row by index: one, or one for each round of LLaVA's `--all-rounds`.

    Raises:
        DataError: the file is missing, or answers none of the table's rows.
    """
    kind = _kind(path)
    if kind == "json":
        records = read_records(path, warnings)
        if any("text" in r for r in records.objects):
            return _lines(records, table, warnings)
        return _predictions(path, _cells(records, warnings), table, warnings)
    return _predictions(path, list(read_xlsx(path) if kind == "xlsx" else read_tsv(path)), table, warnings)


def _kind(path: Path) -> str:
    """The file's kind, from its content: names are unreliable."""
    try:
        with path.open("rb") as file:
            start = file.readline(10_000)
    except OSError as e:
        raise DataError(f"unreadable answers: {path} ({e.strerror}); see that the path is right") from None
    if start.startswith(b"PK"):
        return "xlsx"
    return "tsv" if b"\t" in start and not start.lstrip(b"\xef\xbb\xbf \t").startswith((b"{", b"[")) else "json"


def _lines(records: Records, table: Table, warnings: Warnings) -> dict[int, list[Reply]]:
    """LLaVA's lines {question_id, round_id, text, options, option_char}."""
    lines = [replace(a, id=_index(a.id)) for a in answer_lines(records, ("question_id",), ("text",), warnings)]
    said: dict[tuple[str, str], AnswerLine] = {}
    for a in lines:
        turn = str(a.record.get("round_id", 0))
        if (a.id, turn) in said:
            warnings.add("repeated answers", f"{a.where}: another answer to {a.id}; this one counts")
        said[a.id, turn] = a
    one_each = {a.id: a for a in lines}
    known = match(list(one_each.values()), [str(i) for i in table.rows], records.path, warnings)
    unanswered = [AnswerLine(str(i), "", "") for i in table.rows if str(i) not in known]
    counted = [*(a for (i, _), a in said.items() if i in known), *unanswered]
    found: dict[int, list[Reply]] = {}
    for a, text in zip(counted, through_workbook(a.text for a in counted), strict=True):
        options, letters = _shown(a, table.rows[int(a.id)], warnings)
        found.setdefault(int(a.id), []).append(Reply(a.text, text or NOTHING, options, letters))
    return found


def _shown(answer: AnswerLine, row: Rotation, warnings: Warnings) -> tuple[Mapping[str, str], str]:
    """The options by the shown letters, and the table's letters in that order, from `option_char`."""
    record, where = answer.record, answer.where
    letters = record.get("option_char")
    known = isinstance(letters, list) and len(letters) > 0 and all(isinstance(c, str) for c in letters)
    if not isinstance(letters, list) or not known or sorted(letters) != [*LETTERS[: len(letters)]]:
        return row.options, LETTERS
    if any(letter not in row.options for letter in letters):
        shown = ", ".join(letters)
        warnings.add(
            "answers to other options", f"{where}: shown were {shown}; {row.index} has {', '.join(row.options)}"
        )
        return row.options, LETTERS
    if isinstance(record.get("options"), list) and record["options"] != [row.options[c] for c in letters]:
        warnings.add("answers to other options", f"{where}: options that differ from the table's row {row.index}")
    if letters == sorted(letters):
        return row.options, LETTERS
    return {LETTERS[k]: row.options[c] for k, c in enumerate(letters)}, "".join(letters)


def _cells(records: Records, warnings: Warnings) -> list[SheetRow]:
    """JSON predictions as a table's rows: objects with index and prediction, or one object {index: prediction}."""
    if records.mapping is not None:
        pairs = [{"index": key, "prediction": said} for key, said in records.mapping.items()]
        records = Records(records.path, pairs, list(range(1, len(pairs) + 1)))
    lines = []
    for i, record in enumerate(records.objects):
        if isinstance(record.get("prediction", ""), (list, dict)):
            warnings.add("answers without a text", f"{records.where(i)}: no text in prediction: {str(record)[:60]}")
            continue
        lines.append(SheetRow(records.numbers[i], {column_name(k): _text(v) for k, v in record.items()}))
    return lines


def _predictions(path: Path, rows: list[SheetRow], table: Table, warnings: Warnings) -> dict[int, list[Reply]]:
    """A table with index and prediction. Its own options count if it has any, as in VLMEvalKit."""
    columns = {column for row in rows for column in row.cells}
    if not columns >= {"index", "prediction"}:
        known = ", ".join(sorted(columns))[:200]
        raise DataError(
            f"{path}: no answers to MMBench; expected question_id and text, or index and prediction: {known}"
        )
    read = {c: inferred(row.cells.get(c) for row in rows) for c in columns if c in LETTERS or c == "prediction"}
    letters = [c for c in LETTERS if c in read] if "A" in read else []
    lines = [
        AnswerLine(
            _index(row.cells.get("index")), row.cells.get("prediction") or "", f"{path.name}:{row.number}", {"row": i}
        )
        for i, row in enumerate(rows)
    ]
    missing = "left out, as VLMEvalKit does"
    found: dict[int, list[Reply]] = {}
    for a in match(lines, [str(i) for i in table.rows], path, warnings, missing=missing).values():
        i = a.record["row"]
        assert isinstance(i, int)
        own = {c: text for c in letters if (text := read[c][i]) is not None}
        options = own if letters else table.rows[int(a.id)].options
        found[int(a.id)] = [Reply(a.text, read["prediction"][i] or NOTHING, options)]
    return found


def _index(identity: object) -> str:
    """A row's index as the table spells it; anything else stays, and matches no question."""
    index = whole(_text(identity))
    return str(identity) if index is None else str(index)


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, (str, int, float)) else None
