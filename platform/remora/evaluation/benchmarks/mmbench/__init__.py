"""MMBench, English and Chinese (Liu et al., arXiv 2307.06281): a question counts if it is answered correctly under
every rotation of its options.

Prompts are those of LLaVA's model_vqa_mmbench.py (c121f04); letters and figures those of VLMEvalKit's
mcq_circular_eval with exact matching (e8e78f0), which gives the published 67.7 of LLaVA-1.5-13B.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from remora.errors import DataError
from remora.evaluation.answers import Warnings
from remora.evaluation.benchmarks.mmbench.answers import Reply, read_replies
from remora.evaluation.benchmarks.mmbench.cells import write_xlsx
from remora.evaluation.benchmarks.mmbench.option_letter import CHINESE, infer, judge_prompt
from remora.evaluation.benchmarks.mmbench.table import ROTATIONS, Rotation, Table, read_table
from remora.evaluation.benchmarks.prompts import LETTER, options
from remora.evaluation.benchmarks.protocol import Benchmark, Truth
from remora.evaluation.figures import Figure, mean
from remora.evaluation.judge import Judge
from remora.evaluation.question import InlinePicture, Question, Shown
from remora.evaluation.report import Graded, ScoredAnswer

LETTER_CN = "\n请直接回答选项字母。"
ABILITIES = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "attribute_reasoning": "AR",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
}
DROPPED = ("hint", "category", "source", "image", "comment", "l2-category")
PREDICTION_AT = 6
"""LLaVA's convert_mmbench_for_submission.py drops these columns and puts the prediction there, after D."""


class MMBench(Benchmark):
    """English or Chinese tables: two benchmarks in papers and among folders, with the same rules."""

    max_new_tokens = 1024

    def truths(self, data: Path) -> list[Truth]:
        return _truths(read_table(data, Warnings()))

    def questions(self, data: Path) -> list[Question]:
        table = read_table(data, Warnings())
        chinese = sum(bool(CHINESE.search(row.cell("question"))) for row in table.rows.values())
        suffix = LETTER_CN if 2 * chinese > len(table.rows) else LETTER
        pictures: dict[str, InlinePicture] = {}
        found = []
        for truth, row in zip(_truths(table), table.rows.values(), strict=True):
            shown = _shown(row)
            extra = {"round_id": 0, "options": shown, "option_char": [*"ABCD"[: len(shown)]]}
            text, picture = truth.text + suffix, _picture(table, row, pictures)
            found.append(replace(self.asked(truth), text=text, prompt=truth.text, pictures=picture, extra=extra))
        return found

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        table = read_table(data, warnings)
        if not any(row.cell("answer") for row in table.rows.values()):
            raise DataError(
                f"{table.path} holds no answers: only mmbench.opencompass.org.cn scores a test split; "
                "write the xlsx that it takes and upload it"
            )
        replies = read_replies(answers, table, warnings)
        items = []
        for truth, (index, row) in zip(_truths(table), table.rows.items(), strict=True):
            if index in replies:
                meant = [reply.own(_meant(reply, row, judge, warnings)) for reply in replies[index]]
                right = all(letter == truth.gold for letter in meant) and truth.gold != ""
                given = "\n".join(reply.given for reply in replies[index])
                items.append(truth.outcome(given, " ".join(meant), float(right)))
        return Graded(items, protocol, warnings.all(), judge.model if judge else None)

    def figures(self, items: Sequence[ScoredAnswer]) -> dict[str, Figure]:
        scores = [item.score for item in items]
        main = [int(item.id) < ROTATIONS for item in items]
        circular: dict[int, float] = {}
        for item in items:
            question = int(item.id) % ROTATIONS
            circular[question] = min(circular.get(question, 1.0), item.score)
        every = [circular[int(item.id) % ROTATIONS] for item in items]
        found = {
            "accuracy": mean(every, main),
            "accuracy.vanilla": mean(scores, main),
            "accuracy.vanilla.all": mean(scores),
        }
        named = {label for item, m in zip(items, main, strict=True) if m for label in item.labels}
        abilities = [a for a in ABILITIES.values() if a in named]
        for label in [*abilities, *sorted(named - {*abilities})]:
            where = [m and label in item.labels for item, m in zip(items, main, strict=True)]
            found[f"accuracy.{label}"] = mean(every, where)
        return found

    def submission(self, data: Path, answers: Path, folder: Path) -> list[Path]:
        """The workbook of convert_mmbench_for_submission.py, a row for every row of the table."""
        warnings = Warnings()
        table = read_table(data, warnings)
        replies = read_replies(answers, table, warnings)
        header = [c for c in table.columns if c not in DROPPED]
        header.insert(PREDICTION_AT, "prediction")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{answers.stem}.xlsx"
        write_xlsx(path, header, ([_value(c, row, replies) for c in header] for row in table.rows.values()))
        return [path]


def _truths(table: Table) -> list[Truth]:
    """One truth per row; its picture stays in the table, which scoring does not decode."""
    groups = table.groups()
    found = []
    for index, row in table.rows.items():
        shown = _shown(row)
        hint = [hint] if (hint := row.cell("hint")) and hint.lower() not in ("nan", "none") else []
        prompt = "\n".join([*hint, row.cell("question"), *([options(shown)] if shown else [])])
        ability = row.cell("l2-category")
        labels = tuple(label for label in (ABILITIES.get(ability, ability), row.cell("category")) if label)
        found.append(Truth(index, prompt, row.cell("answer"), groups[index], labels))
    return found


def _shown(row: Rotation) -> list[str]:
    """LLaVA's options: those before the first that is missing or called none."""
    texts = [row.cell(letter) for letter in "ABCD"]
    end = next((i for i, text in enumerate(texts) if not text or text.lower() in ("nan", "none")), len(texts))
    return texts[:end]


def _picture(table: Table, row: Rotation, known: dict[str, InlinePicture]) -> tuple[Shown, ...]:
    picture = table.picture(row)
    if not isinstance(picture, str):
        return (picture,) if picture else ()
    if picture not in known:
        try:
            content = base64.b64decode(picture)
        except (binascii.Error, ValueError):
            content = b""  # opening it reports that no decoder reads it
        known[picture] = InlinePicture(content, f"{table.path.name}, index {row.index}")
    return (known[picture],)


def _meant(reply: Reply, row: Rotation, judge: Judge | None, warnings: Warnings) -> str:
    """The letter that a reply means, by the rules or, if they read nothing, by the judge.

    VLMEvalKit asks three times and then draws a letter; here such an answer counts as wrong.
    """
    letter = infer(reply.text, reply.options)
    if letter or judge is None:
        return letter
    prompt = judge_prompt(row.cell("question"), reply.options, reply.text)
    said = judge.ask([{"role": "user", "content": prompt}], temperature=0, max_tokens=2048)
    letter = infer(said, reply.options)
    if not letter:
        warnings.add("replies of the judge without a letter", f"row {row.index}: the judge said {said[:60]!r}")
    return letter


def _value(column: str, row: Rotation, replies: Mapping[int, list[Reply]]) -> str | int | None:
    if column == "index":
        return row.index
    if column == "prediction":
        return replies[row.index][0].given or None if row.index in replies else None
    return row.cells.get(column)
