"""Join answers from any source to POPE's questions.

POPE has versions: LLaVA's question file has 2,910 random questions, today's repository 3,000, and the other splits
differ in a few dozen. The official scripts pair answers and labels by position, so mixed versions give a low figure
and no message. Here an answer belongs to a question by its id or position, and its prompt must be that question;
otherwise nothing is scored and the message has both counts. LLaVA's question file (--questions) gives the picture of
each id: with it, the questions in both versions are scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from remora.errors import DataError
from remora.evaluation.answers import AnswerLine, Warnings, match, read_records
from remora.evaluation.benchmarks.files import field, lines
from remora.evaluation.benchmarks.pope.files import FIRST, SPLITS, STEP, stem
from remora.evaluation.benchmarks.protocol import Truth

ADVICE = (
    "pass --questions with the file that was answered (LLaVA's llava_pope_test.jsonl), or as --data POPE's files of "
    "that version (LLaVA's is commit e3e39262 of AoiDragon/POPE)"
)


@dataclass(frozen=True)
class SplitAnswer(AnswerLine):
    """One answer, before its question is known: its prompt, number and split, as far as it has them."""

    asked: str | None = None
    number: int | None = None
    split: str | None = None


def joined(
    data: dict[str, list[Truth]], answers: Path, questions: Path | None, warnings: Warnings
) -> Iterator[tuple[Truth, AnswerLine | None]]:
    """Each scored question with its answer, or None.

    Raises:
        DataError: no answer can be read, or answers and questions are of different versions.
    """
    asked = _asked(questions) if questions else data
    by_split = _by_split(_lines(answers, warnings), answers, asked, warnings)
    scored = [split for split in data if by_split.get(split) and split in asked]
    if not scored:
        raise DataError(f"{answers}: no answer to a question of {', '.join(data)}; {ADVICE}")
    for split in FIRST:
        if split not in scored:
            why = "no answer to it" if split in data else "the data has no such questions"
            warnings.add("splits left out", f"{split} is left out: {why}; f1 is the mean of the others")
    named, apart = {}, []
    for split in scored:
        try:
            named[split] = _named(by_split[split], asked[split], split, warnings, sure=questions is not None)
        except DataError as e:
            apart.append(str(e))
    if apart:
        raise DataError(f"version mismatch: {answers.name} has {'; '.join(apart)}; {ADVICE}")
    said = {s: match(named[s], [str(q.id) for q in asked[s]], answers, warnings) for s in scored}
    for split in scored:
        for truth, place in _places(data[split], asked[split], split, questions, warnings):
            yield truth, said[split].get(str(asked[split][place].id))


def _asked(path: Path) -> dict[str, list[Truth]]:
    """LLaVA's question file; only the first line of its prompts."""
    found: dict[str, list[Truth]] = {}
    for where, row in lines(path):
        text, image = field(row, "text", str, where).split("\n")[0], stem(field(row, "image", str, where))
        split = field(row, "category", str, where)
        if split not in FIRST:
            raise DataError(f"{where}: category {split[:60]!r}; expected {', '.join(SPLITS)}")
        found.setdefault(split, []).append(Truth(field(row, "question_id", int, where), text, group=image))
    return found


def _lines(answers: Path, warnings: Warnings) -> list[SplitAnswer]:
    """Every answer of a file, or of a folder with a file for each split."""
    if not answers.is_dir():
        return list(_of_file(answers, None, warnings))
    found = []
    for split in SPLITS:
        if there := sorted(p for p in answers.iterdir() if split in p.name and p.suffix in (".json", ".jsonl")):
            found += list(_of_file(there[0], split, warnings))
            for other in there[1:]:
                warnings.add("answer files", f"{other.name}: another file of {split} answers; {there[0].name} counts")
    if not found:
        raise DataError(f"{answers}: no file of answers in it; expected one for each of {', '.join(SPLITS)}, by name")
    return found


def _of_file(path: Path, split: str | None, warnings: Warnings) -> Iterator[SplitAnswer]:
    records = read_records(path, warnings)
    read = 0
    for i, record in enumerate(records.objects):
        where = records.where(i)
        # A line of POPE's question file with an added answer has its question in `text`.
        official = "answer" in record
        said: object = record.get("answer", record.get("text", record.get("prediction")))
        if not isinstance(said, str):
            warnings.add("answers that are no text", f"{where}: {str(said)[:60]!r} is not an answer; left out")
            continue
        read += 1
        question = record.get("question", record.get("text") if official else record.get("prompt"))
        asked = question if isinstance(question, str) else None
        named = record.get("category")
        of = split or (named if named in SPLITS else None)
        yield SplitAnswer("", said, where, {} if official else {"text": said}, asked, _number(record), of)
    if not read:
        raise DataError(f"{path}: no answer in it; expected LLaVA's lines or POPE's, {{question, answer}}")


def _number(record: dict[str, object]) -> int | None:
    value = record.get("question_id")
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _by_split(
    read: list[SplitAnswer], path: Path, asked: dict[str, list[Truth]], warnings: Warnings
) -> dict[str, list[SplitAnswer]]:
    """Lines by split: from the lines or the file name, by LLaVA's ids, or, for POPE's lines, by their questions."""
    if not any(line.llava or line.split for line in read):
        return {_the_split(read, path, asked): read}
    of = {q.id: split for split, questions in asked.items() for q in questions}
    ranges = {first // STEP: split for split, first in FIRST.items()}
    found: dict[str, list[SplitAnswer]] = {}
    for line in read:
        split = line.split
        if split is None and line.number is not None:
            split = of.get(line.number) or ranges.get(line.number // STEP)
        if split is None:
            said = "no question_id" if line.number is None else f"{line.number} is the id of no question"
            warnings.add("answers to no question", f"{line.where}: {said}; left out")
        else:
            found.setdefault(split, []).append(line)
    return found


def _the_split(read: list[SplitAnswer], path: Path, asked: dict[str, list[Truth]]) -> str:
    """The split with these questions; if several match, the one in the file's name."""
    counts = ", ".join(f"{len(questions)} {split}" for split, questions in asked.items())
    fitting = [
        split
        for split, questions in asked.items()
        if all(place is not None and _asks(line, questions[place]) for line, place in _paired(read, questions))
    ]
    named = [s for s in fitting if s in path.stem]
    if len(chosen := named or fitting) == 1:
        return chosen[0]
    if chosen:
        raise DataError(f"{path}: its questions are those of {' and of '.join(chosen)}; name the file after its split")
    raise DataError(
        f"version mismatch: {path.name} has {len(read)} answers whose questions are those of no split (the data has "
        f"{counts}); {ADVICE}"
    )


def _paired(read: list[SplitAnswer], asked: list[Truth]) -> Iterator[tuple[SplitAnswer, int | None]]:
    """Each answer with its question's position, by the number in its split, else by its own position."""
    places = {int(q.id) % STEP: place for place, q in enumerate(asked)}
    for i, line in enumerate(read):
        if line.number is not None:
            yield line, places.get(line.number % STEP)
        else:
            yield line, i if i < len(asked) else None


def _asks(line: SplitAnswer, question: Truth) -> bool:
    """Whether an answer's prompt is the question, possibly with additions."""
    return line.asked is not None and question.text.strip().lower() in line.asked.lower()


def _named(
    read: list[SplitAnswer], asked: list[Truth], split: str, warnings: Warnings, *, sure: bool
) -> list[AnswerLine]:
    """The answers of one split with their questions' ids; `sure`: ids are known to be of these questions.

    Raises:
        DataError: a prompt is another question, or without prompts the last question is not the last answered.
    """
    found: list[AnswerLine] = []
    others, beyond, last = [], [], False
    for line, place in _paired(read, asked):
        if place is None:
            beyond.append(line)
        elif line.asked is not None and not _asks(line, asked[place]):
            others.append(line)
        else:
            found.append(replace(line, id=str(asked[place].id)))
            last = last or place == len(asked) - 1
    counts = f"{len(read)} {split} answers to {len(asked)} questions"
    if others:
        raise DataError(f"{counts}, of which {len(others)} have another prompt, first {others[0].where}")
    if not sure and all(line.asked is None for line in read):
        if beyond or not last:
            raise DataError(f"{counts}, and no prompts by which to tell")
        warnings.add(
            "answers without a prompt", f"the {split} answers have no prompt; they are matched only by id or position"
        )
    for line in beyond:
        warnings.add("answers to no question", f"{line.where}: no such {split} question; left out")
    return found


def _places(
    data: list[Truth], asked: list[Truth], split: str, questions: Path | None, warnings: Warnings
) -> Iterator[tuple[Truth, int]]:
    """The data's questions that were asked, and their positions there."""
    there = {key: place for place, key in enumerate(_keys(asked))}
    both = [(q, there[key]) for q, key in zip(data, _keys(data), strict=True) if key in there]
    if not both:
        raise DataError(f"version mismatch: {questions} and the data share no {split} question; {ADVICE}")
    if len(both) < max(len(asked), len(data)):
        line = f"version mismatch: {questions} asks {len(asked)} {split} questions, the data holds {len(data)};"
        warnings.add(
            "versions",
            f"{line} only the {len(both)} in both are scored, so the figure does not compare with published ones",
        )
    yield from both


def _keys(questions: list[Truth]) -> Iterator[tuple[str, str, int]]:
    """A question's key: its picture, its text, and how many equal ones precede it."""
    seen: Counter[tuple[str, str]] = Counter()
    for q in questions:
        key = (q.group, q.text.strip().lower())
        seen[key] += 1
        yield *key, seen[key]
