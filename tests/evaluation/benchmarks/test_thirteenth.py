"""A new benchmark is one class and one record: it is listed, asked, scored, compared and submitted like the others."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from remora.catalog import PAPERS
from remora.catalog.papers import Paper
from remora.cli import main
from remora.data.pictures import Picture
from remora.errors import DataError, UnknownName
from remora.evaluation.answers import Warnings
from remora.evaluation.ask import Ask, ask
from remora.evaluation.benchmarks import benchmark, located, score
from remora.evaluation.benchmarks.files import find, read_json, submission
from remora.evaluation.benchmarks.protocol import RowBenchmark, Truth
from remora.evaluation.identity import PictureDigests, ask_digests, shown
from remora.evaluation.measured import tally
from remora.evaluation.sheet import About, Sheet
from remora.inference import Answer, FittedPicture, Prompt

SIGNS = [
    {"id": i, "asks": f"What does sign {i} say?", "says": says, "colour": colour}
    for i, (says, colour) in enumerate([("stop", "red"), ("yield", "red"), ("exit", "green"), ("taxi", "yellow")])
]


class Signs(RowBenchmark):
    """Street signs: the answer is the sign's word."""

    def truths(self, data):
        path = find(data, "signs.json", what="the signs")
        found = []
        for q in read_json(path, list):
            picture = Picture(f"{path.parent}/{q['id']}.png")
            found.append(Truth(q["id"], q["asks"], q["says"], picture.location, (q["colour"],), picture))
        return found

    def read(self, answer, truth):
        read = answer.text.lower().rstrip(".")
        return read, float(read == truth.gold)

    def submission(self, data, answers, folder):
        truths = self.truths(data)
        said = self.said(answers, truths, Warnings())
        return submission(folder / "signs.json", {t.key: said[t.key].text for t in truths if t.key in said})


class Reader:
    """A model that reads a sign by the number in the question."""

    name = "reader"

    def __init__(self, *said: str):
        self.said = said

    def picture(self, image):
        return FittedPicture(image)

    def prompt(self, conversation):
        (turn,) = conversation
        assert turn.text.endswith("using a single word or phrase.") and len(turn.images) == 1
        return Prompt((int(turn.text.split()[3]),), turn.images)

    def room(self, prompt):
        return 100

    def answer(self, requests):
        assert {r.max_new_tokens for r in requests} == {100}  # the published 128 do not fit
        return [Answer(self.said[r.conversation.ids[0]], 1, 1, "stop") for r in requests]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The benchmark registered, and its files in LLaVA's layout."""
    monkeypatch.setitem(PAPERS, "signs", Paper("Signs", f"{__name__}:Signs", ("signs", "street-signs")))
    folder = tmp_path / "eval" / "street-signs"
    folder.mkdir(parents=True)
    (folder / "signs.json").write_text(json.dumps(SIGNS))
    for i in range(len(SIGNS)):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / f"{i}.png")
    return located("signs", tmp_path, tmp_path / "eval")


def measured(data, scores, model, *said):
    """What `remora evaluate` writes for a model, without the workers."""
    chosen = benchmark("signs")
    asks = [Ask(i, "pictures", q) for i, q in enumerate(chosen.questions(data))]
    keys = ask_digests(asks, PictureDigests(scores / "contents.json").of(shown(asks)))
    sheet = Sheet(scores, About(model, model, chosen.name, "q"), asks, keys)
    sheet.add(ask(Reader(*said), asks))
    return tally(chosen, data, sheet)


def test_a_benchmark_more_is_asked_scored_compared_and_submitted(data, tmp_path, capsys):
    first = measured(data, tmp_path / "scores", "a", "Stop.", "yield", "exit", "taxi")
    second = measured(data, tmp_path / "scores", "b", "stop", "go", "go", "go")
    assert (first.score.accuracy, second.score.accuracy) == (100, 25)
    assert second.score.by_category == {"green": 0, "red": 50, "yellow": 0}
    (upload,) = second.uploads
    assert json.loads(upload.read_text()) == {"0": "stop", "1": "go", "2": "go", "3": "go"}

    runs = ["--runs", str(tmp_path / "runs")]
    main(["score", "signs", "--data", str(data), "--answers", str(first.folder / "answers.jsonl"), "--json", *runs])
    assert json.loads(capsys.readouterr().out)["metrics"] == first.report.metrics
    main(["compare", *(str(m.folder / "report.json") for m in (first, second)), "--json", *runs])
    figure = json.loads(capsys.readouterr().out)["signs"]["figures"]["accuracy"]
    assert (figure["a"], figure["b"], figure["difference"]) == (100, 25, 75)


def test_a_benchmark_more_is_listed_and_named_where_names_are(data, capsys):
    main(["catalog", "benchmarks"])
    said = capsys.readouterr().out
    assert all(name in said for name in PAPERS)
    main(["catalog", "benchmarks", "signs"])
    said = capsys.readouterr().out
    assert "signs or street-signs" in said and "headline figure: accuracy" in said
    with pytest.raises(UnknownName, match=r"unknown benchmark 'sings'; did you mean 'signs'"):
        benchmark("sings")


def test_what_is_odd_in_its_answers_is_named_without_code_of_its_own(data, tmp_path):
    lines = [(0, "stop"), (0, "go"), (9, "taxi"), (1, 7)]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({"question_id": i, "text": text}) + "\n" for i, text in lines))
    assert score(benchmark("signs"), data, answers).warnings == [
        "answers.jsonl:4: 7 is not text; read as '7'",
        "answers.jsonl:2: another answer to 0; this one counts",
        "question 2 has no answer; it counts as wrong",
        "question 3 has no answer; it counts as wrong",
        "answers.jsonl:3: answer to 9, which is not among the questions; left out",
    ]


def test_answers_to_other_questions_are_refused(data, tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"question_id": 77, "text": "stop"}')
    with pytest.raises(DataError, match=r"answers\.jsonl: no answer is to one of the 4 questions: .*'77'.*'0'"):
        score(benchmark("signs"), data, answers)


@pytest.mark.parametrize("name", PAPERS)
def test_every_record_names_a_class_that_is_there(name):
    chosen = benchmark(name)
    assert (chosen.name, chosen.title) == (name, PAPERS[name].title) and chosen.headline and chosen.protocols
