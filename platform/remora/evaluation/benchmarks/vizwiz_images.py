"""Which picture each of VizWiz's answers is about: the official format names it, LLaVA's lines carry an index.

An index is a question's id in LLaVA's question file where there is one; else its place in the data or the number in its
picture's name, whichever fits the lines' prompts better.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remora.errors import DataError
from remora.evaluation.answers import Records, Warnings, read_records, texts


def llava_file(data: Path, *names: str) -> Path | None:
    """LLaVA's question file: `data` itself, or the first of those names in that folder."""
    if data.suffix == ".jsonl":
        return data
    return next((path for name in names for path in sorted(data.rglob(name))), None)


def by_image(
    records: Records, asked: Mapping[str, Mapping[str, Any]], file: Path | None, warnings: Warnings
) -> dict[str, tuple[str, int]]:
    """(answer, index of its record) by picture; of several the last counts, as in the published scripts.

    Raises:
        DataError: the prompts are not those of the questions that the answers would be joined with.
    """
    lines = texts(records, ("image", "question_id"), ("text", "answer"), warnings)
    named = {name: image for image in asked for name in (image.rpartition(".")[0], image)}
    table: Mapping[str, str] = {}
    if any(identity not in named for identity, _, _ in lines):
        table = _table(lines, records, asked, file, warnings)
    found: dict[str, tuple[str, int]] = {}
    for identity, text, n in lines:
        image = named.get(identity) or table.get(identity)
        if image is None or image not in asked:
            warnings.add(
                "answers to no question", f"{records.where(n)}: answer to {identity}, which is not asked; left out"
            )
            continue
        if image in found:
            warnings.add("repeated answers", f"{records.where(n)}: another answer to {image}; this one counts")
        found[image] = (text, n)
    return found


def _table(
    lines: list[tuple[str, str, int]],
    records: Records,
    asked: Mapping[str, Mapping[str, Any]],
    file: Path | None,
    warnings: Warnings,
) -> dict[str, str]:
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

    def fits(table: Mapping[str, str]) -> tuple[int, int]:
        right = _agreeing(lines, records, asked, table)
        return sum(right.values()), sum(identity in table for identity, _, _ in lines)

    how = max(tables, key=lambda name: fits(tables[name]))
    right = _agreeing(lines, records, asked, tables[how])
    wrong = [n for n, agrees in right.items() if not agrees]
    if len(wrong) * 2 > len(right):
        raise DataError(
            f"{records.path}: joined by {how}, {len(wrong)} of {len(right)} prompts ask other questions"
            f" ({records.where(wrong[0])}); give LLaVA's question file by --questions, or the answers of this split"
        )
    warnings.add("conventions", f"answers are joined with pictures by their index: {how}")
    for n in wrong:
        warnings.add(
            "prompts of other questions", f"{records.where(n)}: its prompt does not ask its picture's question"
        )
    return tables[how]


def _agreeing(
    lines: list[tuple[str, str, int]],
    records: Records,
    asked: Mapping[str, Mapping[str, Any]],
    table: Mapping[str, str],
) -> dict[int, bool]:
    """Whether a line's prompt holds the question of its picture, for those of which both are known."""
    found = {}
    for identity, _, n in lines:
        prompt = records.objects[n].get("prompt")
        question = asked.get(table.get(identity, ""), {}).get("question")
        if isinstance(prompt, str) and isinstance(question, str):
            found[n] = question.strip() in prompt
    return found


def _of_file(file: Path, warnings: Warnings) -> dict[str, str]:
    """Pictures by id of LLaVA's question file."""
    return {
        str(r["question_id"]): r["image"]
        for r in read_records(file, warnings).objects
        if isinstance(r.get("question_id"), (str, int)) and isinstance(r.get("image"), str)
    }
