"""Find the picture of each answer to VizWiz: the official format names it, LLaVA's lines have an index.

An index is a question's id in LLaVA's question file if there is one; else its position in the data or the number in its
picture's name, whichever matches the lines' prompts better.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from remora.errors import DataError
from remora.evaluation.answers import AnswerLine, Warnings, read_records
from remora.evaluation.benchmarks.protocol import Truth


def by_image(
    lines: Sequence[AnswerLine], truths: Sequence[Truth], file: Path | None, answers: Path, warnings: Warnings
) -> list[AnswerLine]:
    """The lines with their pictures' names as ids.

    Raises:
        DataError: the prompts do not match the questions that the answers would be joined with.
    """
    asked = {t.key: t.text.strip() for t in truths}
    named = {name: image for image in asked for name in (image.rpartition(".")[0], image)}
    table: Mapping[str, str] = {}
    if any(a.id not in named for a in lines):
        table = _table(lines, asked, file, answers, warnings)
    return [replace(a, id=named.get(a.id) or table.get(a.id, a.id)) for a in lines]


def _table(
    lines: Sequence[AnswerLine], asked: Mapping[str, str], file: Path | None, answers: Path, warnings: Warnings
) -> Mapping[str, str]:
    """Pictures by index."""
    if file:
        tables = {f"ids of {file.name}": _of_file(file, warnings)}
    else:
        tables = {
            "places in the data": {str(n): image for n, image in enumerate(asked)},
            "numbers of the pictures": {
                number[-1].lstrip("0") or "0": image for image in asked if (number := re.findall(r"[0-9]+", image))
            },
        }

    def agreeing(table: Mapping[str, str]) -> list[tuple[AnswerLine, bool]]:
        """Whether a line's prompt contains its picture's question, for lines where both are known."""
        known = ((a, asked.get(table.get(a.id, ""), "")) for a in lines)
        return [(a, question in a.prompt) for a, question in known if question and a.prompt is not None]

    def fits(table: Mapping[str, str]) -> tuple[int, int]:
        return sum(agrees for _, agrees in agreeing(table)), sum(a.id in table for a in lines)

    how = max(tables, key=lambda name: fits(tables[name]))
    told = agreeing(tables[how])
    wrong = [a.where for a, agrees in told if not agrees]
    if len(wrong) * 2 > len(told):
        raise DataError(
            f"{answers}: joined by {how}, {len(wrong)} of {len(told)} prompts ask other questions"
            f" ({wrong[0]}); give LLaVA's question file by --questions, or the answers of this split"
        )
    warnings.add("conventions", f"answers are matched with pictures by index: {how}")
    for where in wrong:
        warnings.add("prompts of other questions", f"{where}: its prompt does not ask its picture's question")
    return tables[how]


def _of_file(file: Path, warnings: Warnings) -> dict[str, str]:
    """Pictures by id of LLaVA's question file."""
    return {
        str(r["question_id"]): str(r["image"])
        for r in read_records(file, warnings).objects
        if isinstance(r.get("question_id"), (str, int)) and isinstance(r.get("image"), str)
    }
