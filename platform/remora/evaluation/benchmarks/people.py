"""Common code of VQAv2, TextVQA and VizWiz: questions answered by ten people, and two conventions of scoring.

LLaVA sends its answers through EvalAIAnswerProcessor before it submits them, and the official scorer normalises them
again, differently; the figure differs by points from that of the original text. The file's format decides which
convention is used, unless `--protocol` does: LLaVA's lines have `text`, the official formats `answer`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.answers import AnswerLine, Records, Warnings, answer_lines, match, read_records
from remora.evaluation.benchmarks.protocol import Benchmark, Truth
from remora.evaluation.hub_tables import InParquet
from remora.evaluation.judge import Judge
from remora.evaluation.question import Shown
from remora.evaluation.report import Graded
from remora.evaluation.short_answers import evalai

AUTO, LLAVA, OFFICIAL = "auto", "llava", "official"
CONVERTED = {
    LLAVA: "answers are LLaVA's lines, sent through its EvalAIAnswerProcessor first as LLaVA does before it submits "
    "(protocol llava); --protocol official scores them as they are",
    OFFICIAL: "answers are in the official format, scored as they are (protocol official); "
    "--protocol llava sends them through LLaVA's EvalAIAnswerProcessor first",
}


class PeoplesBenchmark(Benchmark):
    """One of the three. Questions and people's answers may be in different files."""

    protocols = (AUTO, LLAVA, OFFICIAL)
    empty_is_scored = False
    """Whether LLaVA's convention scores a missing answer as an empty one."""

    @abstractmethod
    def truths(self, data: Path) -> list[Truth]:
        """The questions of a split with answers; people's answers are in their `row`."""

    @abstractmethod
    def read(self, text: str, truth: Truth) -> tuple[str, float]:
        """The words that are compared, and how far people agree with them."""

    def lines(
        self, records: Records, truths: Sequence[Truth], questions: Path | None, warnings: Warnings
    ) -> list[AnswerLine]:
        """Every answer of a file, by its question's key."""
        return answer_lines(records, ("question_id",), ("text", "answer"), warnings)

    def given(
        self, answers: Path, truths: Sequence[Truth], questions: Path | None, protocol: str, warnings: Warnings
    ) -> tuple[list[AnswerLine], str]:
        """The lines of an answer file, and the convention for scoring them."""
        records = read_records(answers, warnings)
        return self.lines(records, truths, questions, warnings), by_format(protocol, records)

    def labelled(self, truths: Sequence[Truth], said: Mapping[str, AnswerLine], warnings: Warnings) -> Sequence[Truth]:
        """The questions with the breakdowns that depend on their answers."""
        return truths

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        truths = self.truths(data)
        lines, chosen = self.given(answers, truths, questions, protocol, warnings)
        if protocol == AUTO:
            warnings.add("conventions", CONVERTED[chosen])
        said = match(lines, [t.key for t in truths], answers, warnings)
        empty = chosen == LLAVA and self.empty_is_scored
        if empty and len(said) < len(truths):
            warnings.add("conventions", "a missing answer is scored as an empty one, as LLaVA submits it")
        items = []
        for t in self.labelled(truths, said, warnings):
            text = said[t.key].text if t.key in said else ""
            read = self.read(evalai(text) if chosen == LLAVA else text, t) if empty or t.key in said else ("", 0.0)
            items.append(t.outcome(text, *read))
        return Graded(items, chosen, warnings.all())


def by_format(protocol: str, records: Records) -> str:
    """The protocol: the requested one, or that of the file's format."""
    if protocol != AUTO:
        return protocol
    return LLAVA if any("text" in r for r in records.objects) else OFFICIAL


def converted(records: Records, said: Mapping[str, AnswerLine]) -> dict[str, str]:
    """The submitted texts, by question: LLaVA's lines go through its conversion."""
    convert = evalai if by_format(AUTO, records) == LLAVA else str
    return {i: convert(a.text) for i, a in said.items()}


def people(row: Mapping[str, object], where: str) -> list[dict[str, object]]:
    """Each person's answer, as a record with `answer`; some files have only the texts.

    Raises:
        DataError: there are none, as in a test split.
    """
    raw = row.get("answers")
    found = []
    for n, one in enumerate(raw if isinstance(raw, list) else (), 1):
        record = one if isinstance(one, dict) else {"answer": one, "answer_id": n}
        if not isinstance(record.get("answer"), str):
            raise DataError(f"{where}: a person's answer is not text: {str(one)[:60]!r}; download the file again")
        found.append(record)
    if not found:
        raise DataError(f"{where}: no people's answers to score by; test splits are scored by the benchmark's server")
    return found


def commonest(answers: Sequence[str]) -> str:
    return Counter(answers).most_common(1)[0][0]


def picture(row: Mapping[str, object], path: Path, folder: str, name: str) -> Shown:
    """The hub's picture, or the file of that name in a folder next to the distributed file, or next to its own folder
    (`Annotations/val.json`)."""
    if isinstance(shown := row.get("image"), InParquet):
        return shown
    places = [path.parent / folder, path.parent.parent / folder]
    return Picture(str(next((place for place in places if place.is_dir()), places[0]) / name))
