"""What was answered to MMBench's rows: LLaVA's lines, or a table of predictions (LLaVA's upload, VLMEvalKit's files).

Lines are read as they come back from the workbook that LLaVA's script makes of them. Every row of the table stands in
it, so an unanswered one counts as wrong; a row that a table of predictions does not hold is not scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remora.errors import DataError
from remora.evaluation.answers import Records, Warnings, read_records
from remora.evaluation.benchmarks.mmbench_table import Row, Table, whole
from remora.evaluation.benchmarks.prompts import LETTERS
from remora.evaluation.benchmarks.sheets import Line, column_name, inferred, read_tsv, read_xlsx, through_workbook

NOTHING = "nan"
"""What an empty cell says once pandas has read it and VLMEvalKit has made a text of it."""


@dataclass(frozen=True)
class Reply:
    """One answer: `given` stands in the file, `text` is what the rules read."""

    given: str
    text: str
    options: Mapping[str, str]
    letters: str = LETTERS
    """The table's letters in the order in which the options were shown."""

    def own(self, letter: str) -> str:
        """The table's letter for the one that was shown; Z and nothing stay."""
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
            found = _lines(records, table, warnings)
        else:
            found = _predictions(path, _cells(records, warnings), table, warnings)
    else:
        found = _predictions(path, list(read_xlsx(path) if kind == "xlsx" else read_tsv(path)), table, warnings)
    if not found:
        raise DataError(f"{path}: answers no row of {table.path}; see that they are of one version of MMBench")
    return found


def _kind(path: Path) -> str:
    """By content: files are renamed, and a name says nothing of what is in them."""
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
    rounds: dict[int, dict[str, tuple[str, Mapping[str, str], str]]] = {}
    for i, record in enumerate(records.objects):
        where = records.where(i)
        row = _row(record.get("question_id"), where, table, warnings)
        text = _text(record.get("text"))
        if row and text is None:
            warnings.add("answers without a text", f"{where}: no text in text: {str(record.get('text'))[:60]}")
        elif row and text is not None:
            said = rounds.setdefault(row.index, {})
            turn = str(record.get("round_id", 0))
            if turn in said:
                warnings.add("repeated answers", f"{where}: another answer to {row.index}; this one counts")
            options, letters = _shown(record, row, where, warnings)
            said[turn] = (text, options, letters)
    if not rounds:
        return {}
    for row in table.rows.values():
        if row.index not in rounds:
            warnings.add("rows without an answer", f"row {row.index} has no answer; it counts as wrong")
            rounds[row.index] = {"0": ("", row.options, LETTERS)}
    keys = [(index, turn) for index, said in rounds.items() for turn in said]
    texts = through_workbook(rounds[index][turn][0] for index, turn in keys)
    found: dict[int, list[Reply]] = {}
    for (index, turn), text in zip(keys, texts, strict=True):
        given, options, letters = rounds[index][turn]
        found.setdefault(index, []).append(Reply(given, text or NOTHING, options, letters))
    return found


def _shown(record: dict[str, Any], row: Row, where: str, warnings: Warnings) -> tuple[Mapping[str, str], str]:
    """The options by the letters that were shown, and the table's letters in that order: `option_char` says it."""
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


def _cells(records: Records, warnings: Warnings) -> list[Line]:
    """JSON predictions as a table's rows: objects with index and prediction, or one object {index: prediction}."""
    if records.mapping is not None:
        pairs = [{"index": key, "prediction": said} for key, said in records.mapping.items()]
        records = Records(records.path, pairs, list(range(1, len(pairs) + 1)))
    lines = []
    for i, record in enumerate(records.objects):
        if isinstance(record.get("prediction", ""), (list, dict)):
            warnings.add("answers without a text", f"{records.where(i)}: no text in prediction: {str(record)[:60]}")
            continue
        lines.append(Line(records.numbers[i], {column_name(k): _text(v) for k, v in record.items()}))
    return lines


def _predictions(path: Path, lines: list[Line], table: Table, warnings: Warnings) -> dict[int, list[Reply]]:
    """A table with index and prediction. Its own options count where it has them, as for VLMEvalKit."""
    columns = {column for line in lines for column in line.cells}
    if not columns >= {"index", "prediction"}:
        known = ", ".join(sorted(columns))[:200]
        raise DataError(
            f"{path}: no answers to MMBench; expected question_id and text, or index and prediction: {known}"
        )
    read = {c: inferred(line.cells.get(c) for line in lines) for c in columns if c in LETTERS or c == "prediction"}
    letters = [c for c in LETTERS if c in read] if "A" in read else []
    found: dict[int, list[Reply]] = {}
    for i, line in enumerate(lines):
        where = f"{path.name}:{line.number}"
        row = _row(line.cells.get("index"), where, table, warnings)
        if not row:
            continue
        if row.index in found:
            warnings.add("repeated answers", f"{where}: another answer to {row.index}; this one counts")
        own = {c: text for c in letters if (text := read[c][i]) is not None}
        given = line.cells.get("prediction") or ""
        found[row.index] = [Reply(given, read["prediction"][i] or NOTHING, own if letters else row.options)]
    for index in table.rows:
        if index not in found:
            warnings.add("rows without an answer", f"row {index} is not in {path.name}; left out, as VLMEvalKit does")
    return found


def _row(identity: object, where: str, table: Table, warnings: Warnings) -> Row | None:
    """The table's row of that index, or None and a warning."""
    index = whole(_text(identity))
    row = None if index is None else table.rows.get(index)
    if index is None:
        warnings.add("answers without an index", f"{where}: no index: {str(identity)[:60]!r}")
    elif row is None:
        warnings.add(
            "answers to no row", f"{where}: answer to {index}, which {table.path.name} does not hold; left out"
        )
    return row


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, (str, int, float)) else None
