"""MMMU (Yue et al., arXiv 2311.16502): college questions, most of them a choice, the rest open.

Prompts are those of configs/llava1.5.yaml, parsing and figures those of main_eval_only.py and main_parse_and_eval.py
(github.com/MMMU-Benchmark/MMMU at bb0b95a). Both count only answered questions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from remora.errors import DataError
from remora.evaluation.answers import Warnings, match
from remora.evaluation.benchmarks.files import submission
from remora.evaluation.benchmarks.mmmu.answers import CollegeAnswer, read_lines
from remora.evaluation.benchmarks.mmmu.files import (
    DOMAIN,
    DOMAINS,
    CollegeQuestion,
    in_official_order,
    read_questions,
    split_of,
    subject_of,
)
from remora.evaluation.benchmarks.mmmu.parse import Read, choose, open_right, read_open
from remora.evaluation.benchmarks.prompts import LETTER, LETTERS, SHORT
from remora.evaluation.benchmarks.protocol import Benchmark, Truth, breakdowns
from remora.evaluation.figures import Figure
from remora.evaluation.judge import Judge
from remora.evaluation.report import Graded, ScoredAnswer

SEED = 42
"""The seed for random letters of answers that choose none (eval_utils.py seeds when it is imported)."""


class MMMU(Benchmark):
    suffix = ""

    def truths(self, data: Path) -> list[Truth]:
        """The questions as LLaVA was asked: only the first picture is shown, and its `<image 1>` stays in the text."""
        prompts = ((q, _prompt(q)) for q in read_questions(data).values())
        known = [replace(_truth(q), text=text) for q, text in prompts if text is not None]
        if not known:
            raise DataError(
                f"{data} holds MMMU's answers and not its questions; expected its Parquet or anns_for_eval.json"
            )
        return known

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        known, said, read = _answers(data, answers, questions, warnings)
        if not any(q.gold for q in known.values()):
            raise DataError(
                f"{data} holds no right answers: only EvalAI 2179 scores the test split; write the JSON that it "
                "takes and upload it, or give a folder with answer_dict_val.json"
            )
        items = []
        for i, q in known.items():
            if i in read and q.gold is None:
                warnings.add("questions without a right answer", f"{data} has no right answer to {i}; left out")
            elif i in read and q.gold is not None:
                right = read[i][0] in q.gold if q.choice else open_right(q.gold, read[i])
                items.append(_truth(q).outcome(said[i].text, " | ".join(map(str, read[i])), float(right)))
        return Graded(items, protocol, warnings.all())

    def figures(self, items: Sequence[ScoredAnswer]) -> dict[str, Figure]:
        return breakdowns(items, [label for domain, subjects in DOMAINS.items() for label in (domain, *subjects)])

    def submission(self, data: Path, answers: Path, folder: Path) -> list[Path]:
        """EvalAI's `{id: letter or text}`, which is also what main_eval_only.py takes."""
        known, said, read = _answers(data, answers, None, Warnings())
        final = {
            i: "" if i not in read else str(read[i][0]) if q.choice else said[i].text  #
            for i, q in known.items()
        }
        return submission(folder / f"{answers.stem}-submission.json", json.dumps(final, indent=4) + "\n")


def _truth(q: CollegeQuestion) -> Truth:
    labels = (q.subject, DOMAIN[q.subject]) if q.subject in DOMAIN else ()
    return Truth(q.id, q.question or "", " | ".join(map(str, q.gold or ())), q.id, labels, q.picture)


def _prompt(q: CollegeQuestion) -> str | None:
    if q.prompt is not None or q.question is None:
        return q.prompt
    if not q.choice:
        return q.question + SHORT
    options = (q.options or {}).items()
    return q.question + "\n" + "".join(f"({letter}) {text}\n" for letter, text in options) + LETTER


def _answers(
    data: Path, answers: Path, questions: Path | None, warnings: Warnings
) -> tuple[dict[str, CollegeQuestion], dict[str, CollegeAnswer], dict[str, tuple[Read, ...]]]:
    """The questions, the answers to known ones, and the parsed answers, by id.

    Raises:
        DataError: the files are missing, or no answer matches a question.
    """
    lines, ordered = read_lines(answers, warnings)
    known = read_questions(data, questions, split_of(a.id for a in lines))
    match(lines, known, answers, warnings, missing="left out, as MMMU's scripts do")
    for i in known:
        if subject_of(i) not in DOMAIN:
            warnings.add("questions of no subject", f"question {i} belongs to no subject of MMMU; left out")
    said = {a.id: a for a in lines if a.id in known}
    order = in_official_order(said if ordered else (i for i in known if i in said))
    random = Random(SEED)
    return known, said, {i: _read(known[i], said[i], random, warnings) for i in order}


def _read(q: CollegeQuestion, said: CollegeAnswer, random: Random, warnings: Warnings) -> tuple[Read, ...]:
    """The chosen letter, or all possible readings of an open answer."""
    if said.read is not None:
        return said.read or ("",)
    if not q.choice:
        return tuple(read_open(said.text))
    letters = said.letters or q.letters
    if said.final or not letters:
        if said.text not in LETTERS or len(said.text) != 1:
            how = "nothing else is compared" if said.final else "its options are not known; give --questions"
            warnings.add("choices that are no letter", f"answer to {q.id} is not a letter, {said.text[:40]!r}; {how}")
        return (said.text,)
    letter = choose(said.text, letters, said.options if said.options is not None else q.options or {})
    if not letter:
        letter = random.choice(letters)
        warnings.add(
            "choices at random", f"answer to {q.id} names no choice; {letter} is drawn at random, as in MMMU's script"
        )
    return (letter,)
