"""MMBench, English and Chinese (Liu et al., arXiv 2307.06281): a question counts if it is answered rightly under every
rotation of its options.

Prompts are those of LLaVA's model_vqa_mmbench.py (c121f04); letters and figures those of VLMEvalKit's
mcq_circular_eval with exact matching (e8e78f0), which gives the published 67.7 of LLaVA-1.5-13B.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path

from remora.errors import DataError
from remora.evaluation.answers import Warnings
from remora.evaluation.asking import Embedded, Question, Shown
from remora.evaluation.benchmarks.base import Benchmark
from remora.evaluation.benchmarks.mmbench_answers import Reply, read_replies
from remora.evaluation.benchmarks.mmbench_table import ROTATION, Row, Table, read_table
from remora.evaluation.benchmarks.option_letter import CHINESE, infer, judge_prompt
from remora.evaluation.benchmarks.prompts import LETTER, options
from remora.evaluation.benchmarks.sheets import write_xlsx
from remora.evaluation.figures import Figure, mean
from remora.evaluation.judge import Judge
from remora.evaluation.report import Graded, Item

LETTER_CN = "\n请直接回答选项字母。"
TOKENS = 1024
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
"""LLaVA's convert_mmbench_for_submission.py drops the former and puts the prediction there, after D."""


class MMBench(Benchmark):
    name, title, headline = "mmbench", "MMBench", "accuracy"

    def questions(self, data: Path) -> list[Question]:
        table = read_table(data, Warnings())
        chinese = sum(bool(CHINESE.search(row.cell("question"))) for row in table.rows.values())
        suffix = LETTER_CN if 2 * chinese > len(table.rows) else LETTER
        groups = table.groups()
        pictures: dict[str, Embedded] = {}
        found = []
        for row in table.rows.values():
            shown = _shown(row)
            said = [hint] if (hint := row.cell("hint")) and hint.lower() not in ("nan", "none") else []
            prompt = "\n".join([*said, row.cell("question"), *([options(shown)] if shown else [])])
            extra = {"round_id": 0, "options": shown, "option_char": [*"ABCD"[: len(shown)]]}
            picture = _picture(table, row, pictures)
            found.append(
                Question(row.index, prompt + suffix, picture, TOKENS, groups[row.index], prompt=prompt, extra=extra)
            )
        return found

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        table = read_table(data, warnings)
        if not any(row.cell("answer") for row in table.rows.values()):
            raise DataError(
                f"{table.path} holds no answers: a test split is scored by mmbench.opencompass.org.cn alone; "
                "write the xlsx that it takes and upload it"
            )
        replies = read_replies(answers, table, warnings)
        groups = table.groups()
        items = []
        for index, row in table.rows.items():
            if index not in replies:
                continue
            meant = [reply.own(_meant(reply, row, judge, warnings)) for reply in replies[index]]
            right = all(letter == row.cell("answer") for letter in meant) and row.cell("answer") != ""
            ability = row.cell("l2-category")
            labels = tuple(label for label in (ABILITIES.get(ability, ability), row.cell("category")) if label)
            given = "\n".join(reply.given for reply in replies[index])
            items.append(Item(index, given, " ".join(meant), float(right), groups[index], row.cell("answer"), labels))
        return Graded(items, protocol, warnings.all(), judge.model if judge else None)

    def figures(self, items: Sequence[Item]) -> dict[str, Figure]:
        scores = [item.score for item in items]
        main = [int(item.id) < ROTATION for item in items]
        circular: dict[int, float] = {}
        for item in items:
            question = int(item.id) % ROTATION
            circular[question] = min(circular.get(question, 1.0), item.score)
        every = [circular[int(item.id) % ROTATION] for item in items]
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


class MMBenchCN(MMBench):
    """MMBench's Chinese tables: a benchmark of its own in papers and among folders, by the same rules."""

    name, title = "mmbench-cn", "MMBench-CN"


def _shown(row: Row) -> list[str]:
    """LLaVA's options: those before the first that is missing or is called none."""
    texts = [row.cell(letter) for letter in "ABCD"]
    end = next((i for i, text in enumerate(texts) if not text or text.lower() in ("nan", "none")), len(texts))
    return texts[:end]


def _picture(table: Table, row: Row, known: dict[str, Embedded]) -> tuple[Shown, ...]:
    picture = table.picture(row)
    if not isinstance(picture, str):
        return (picture,) if picture else ()
    if picture not in known:
        try:
            content = base64.b64decode(picture)
        except (binascii.Error, ValueError):
            content = b""  # opening it says that no decoder knows it
        known[picture] = Embedded(content, f"{table.path.name}, index {row.index}")
    return (known[picture],)


def _meant(reply: Reply, row: Row, judge: Judge | None, warnings: Warnings) -> str:
    """The letter that a reply means, by the rules or, where they read nothing, by the judge.

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


def _value(column: str, row: Row, replies: Mapping[int, list[Reply]]) -> str | int | None:
    if column == "index":
        return row.index
    if column == "prediction":
        return replies[row.index][0].given or None if row.index in replies else None
    return row.cells.get(column)
