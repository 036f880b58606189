"""MMMU (Yue et al., arXiv 2311.16502): college questions, most of them a choice, the rest open.

Prompts are those of configs/llava1.5.yaml, parsing and figures those of main_eval_only.py and main_parse_and_eval.py
(github.com/MMMU-Benchmark/MMMU at bb0b95a). Both count answered questions alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

from remora.errors import DataError
from remora.evaluation.answers import Warnings
from remora.evaluation.asking import Question
from remora.evaluation.benchmarks.base import Benchmark
from remora.evaluation.benchmarks.mmmu_answers import Said, read_said
from remora.evaluation.benchmarks.mmmu_data import (
    DOMAIN,
    DOMAINS,
    Entry,
    in_official_order,
    read_entries,
    split_of,
    subject_of,
)
from remora.evaluation.benchmarks.mmmu_parse import Read, choose, open_right, read_open
from remora.evaluation.benchmarks.prompts import LETTER, LETTERS, SHORT
from remora.evaluation.figures import Figure, mean
from remora.evaluation.judge import Judge
from remora.evaluation.report import Graded, Item

TOKENS = 128
SEED = 42
"""Of the letters that are drawn for answers that choose none (eval_utils.py seeds when it is imported)."""


class MMMU(Benchmark):
    name, title, headline = "mmmu", "MMMU", "accuracy"

    def questions(self, data: Path) -> list[Question]:
        """As LLaVA was asked: only the first picture is shown, and its marker `<image 1>` stays in the text."""
        entries = read_entries(data)
        found = [
            Question(e.id, text, (e.picture,) if e.picture else (), TOKENS, e.id)
            for e in entries.values()
            if (text := _prompt(e)) is not None
        ]
        if not found:
            raise DataError(
                f"{data} holds MMMU's answers and not its questions; expected its Parquet or anns_for_eval.json"
            )
        return found

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        entries, said, read = _answers(data, answers, questions, warnings)
        if not any(e.gold for e in entries.values()):
            raise DataError(
                f"{data} holds no right answers: the test split is scored by EvalAI 2179 alone; write the JSON that it "
                "takes and upload it, or give a folder with answer_dict_val.json"
            )
        items = []
        for i, e in entries.items():
            if i not in read:
                warnings.add(
                    "questions without an answer", f"question {i} has no answer; left out, as MMMU's scripts do"
                )
            elif e.gold is None:
                warnings.add("questions without a right answer", f"the right answer to {i} is not in {data}; left out")
            else:
                right = read[i][0] in e.gold if e.choice else open_right(e.gold, read[i])
                parsed, gold = (" | ".join(map(str, values)) for values in (read[i], e.gold))
                labels = (e.subject, DOMAIN[e.subject])
                items.append(Item(i, said[i].text, parsed, float(right), i, gold, labels))
        return Graded(items, protocol, warnings.all())

    def figures(self, items: Sequence[Item]) -> dict[str, Figure]:
        scores = [item.score for item in items]
        labels = {label for item in items for label in item.labels}
        ordered = [label for domain, subjects in DOMAINS.items() for label in (domain, *subjects) if label in labels]
        return {"accuracy": mean(scores)} | {
            f"accuracy.{label}": mean(scores, [label in item.labels for item in items]) for label in ordered
        }

    def submission(self, data: Path, answers: Path, folder: Path) -> list[Path]:
        """EvalAI's `{id: letter or text}`, which is also what main_eval_only.py takes."""
        entries, said, read = _answers(data, answers, None, Warnings())
        final = {
            i: "" if i not in read else str(read[i][0]) if e.choice else said[i].text  #
            for i, e in entries.items()
        }
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{answers.stem}-submission.json"
        path.write_text(json.dumps(final, indent=4) + "\n", encoding="utf-8")
        return [path]


def _prompt(entry: Entry) -> str | None:
    if entry.prompt is not None or entry.question is None:
        return entry.prompt
    if not entry.choice:
        return entry.question + SHORT
    options = (entry.options or {}).items()
    return entry.question + "\n" + "".join(f"({letter}) {text}\n" for letter, text in options) + LETTER


def _answers(
    data: Path, answers: Path, questions: Path | None, warnings: Warnings
) -> tuple[dict[str, Entry], dict[str, Said], dict[str, tuple[Read, ...]]]:
    """The questions, what was said to those that are known, and how that is read, by id.

    Raises:
        DataError: the files are not there, or no answer is to one of the questions.
    """
    said, ordered = read_said(answers, warnings)
    entries = read_entries(data, questions, split_of(said))
    for i in said:
        if i not in entries:
            warnings.add("answers to no question", f"answer to {i}, which {data} does not hold; left out")
    for i in entries:
        if subject_of(i) not in DOMAIN:
            warnings.add("questions of no subject", f"question {i} is of no subject of MMMU; left out")
    order = in_official_order(i for i in (said if ordered else entries) if i in said and i in entries)
    if not order:
        raise DataError(f"{answers}: answers no question of {data}; see that they are of one split")
    random = Random(SEED)
    return entries, said, {i: _read(entries[i], said[i], random, warnings) for i in order}


def _read(entry: Entry, said: Said, random: Random, warnings: Warnings) -> tuple[Read, ...]:
    """The one letter that was chosen, or all that an answer in words may mean."""
    if said.read is not None:
        return said.read or ("",)
    if not entry.choice:
        return tuple(read_open(said.text))
    letters = said.letters or entry.letters
    if said.final or not letters:
        if said.text not in LETTERS or len(said.text) != 1:
            how = "nothing else is compared" if said.final else "its options are not known; give --questions"
            warnings.add("choices that are no letter", f"answer to {entry.id} is no letter, {said.text[:40]!r}; {how}")
        return (said.text,)
    letter = choose(said.text, letters, said.options if said.options is not None else entry.options or {})
    if not letter:
        letter = random.choice(letters)
        warnings.add(
            "choices at random", f"answer to {entry.id} chooses nothing; {letter} is drawn, as MMMU's script does"
        )
    return (letter,)
