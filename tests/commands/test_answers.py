"""`remora answers`: every question beside what each model said, told apart by who is right; a page without scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from remora.cli import main
from remora.evaluation.report import Report, ScoredAnswer
from remora.reporting.answers import AnsweredQuestion, Given, outcome

COLOURS = ["red", "green", "blue"]
SAID = {"one": ["red", "red", "<b>blue</b>"], "two": ["red", "green", "white"]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark of three pictures, one of them missing, and the reports of two models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    questions = []
    for i, colour in enumerate(COLOURS):
        Image.new("RGB", (32, 32), colour).save(f"{i}.png")
        questions.append({"question_id": i, "image": f"{i}.png", "text": f"Which <i>colour</i> {i}?", "answer": colour})
    Path("2.png").unlink()
    Path("q.jsonl").write_text("\n".join(json.dumps(q | {"category": "colour"}) for q in questions))
    Path("colours.yaml").write_text(
        "{title: colours, questions: q.jsonl, images: ., metric: exact-match, max_new_tokens: 8}"
    )
    for model, said in SAID.items():
        items = [
            ScoredAnswer(i, text, text, float(COLOURS[i] in text), f"{i}.png", COLOURS[i])
            for i, text in enumerate(said)
        ]
        report = Report("colours", "exact-match", {"accuracy": 0.5}, {}, items, [])
        Path(f"{model}.json").write_text(json.dumps(report.as_json()))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    main(["answers", "one.json", "two.json", "--benchmark", "colours.yaml", "--runs", "runs", *words])
    return capsys.readouterr().out


def test_answers_stand_side_by_side(folder, capsys):
    told = run(capsys)
    assert told.startswith("colours: 3 questions, 1 right, 0 wrong, 2 differing\n")
    assert "1 1.png Which <i>colour</i> 1?\n  right: green\n  ✗ one.json: red\n  ✓ two.json: green\n" in told
    found = json.loads(run(capsys, "--json"))
    assert [q["outcome"] for q in found] == ["right", "differing", "differing"]
    assert [a["answer"] for a in found[2]["answers"]] == ["<b>blue</b>", "white"]


@pytest.mark.parametrize(("only", "ids"), [("all", [0, 1, 2]), ("right", [0]), ("wrong", []), ("differing", [1, 2])])
def test_only_those_asked_for(folder, capsys, only, ids):
    assert [q["id"] for q in json.loads(run(capsys, "--json", "--only", only))] == ids


def test_what_is_not_shown_is_counted(folder, capsys):
    assert "the first 1 of 2 are shown (-n N shows more)" in run(capsys, "--only", "differing", "-n", "1")
    assert [q["id"] for q in json.loads(run(capsys, "--json", "-n", "2"))] == [0, 1]


def test_the_page_has_pictures_a_filter_and_nothing_that_runs(folder, capsys):
    told = run(capsys, "--html", "answers.html")
    assert told.startswith("answers.html: colours: 3 questions")
    page = Path("answers.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 and "2.png" in page  # the missing one is named
    assert page.count('<article class="differing">') == 2 and page.count('<article class="all-right">') == 1
    assert (
        "&lt;b&gt;blue&lt;/b&gt;" in page
        and "<b>" not in page
        and "<script" not in page
        and "http" not in page.replace("http-equiv", "")
    )
    assert 'id="differing"' in page and "#differing:checked ~ .cards article:not(.differing)" in page


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["one.json", "one.json", "--benchmark", "colours.yaml"], "a model is named twice"),
        (
            ["one.json", "--benchmark", "easy-vqa"],
            "has no answers on easy-vqa; it was measured on colours; next: remora",
        ),
        (["one.json", "--benchmark", "colours.yaml", "-n", "-1"], "-n -1: give how many questions"),
        (["one.json", "--benchmark", "colours.yaml", "-n", "0"], "-n 0: give how many questions"),
        (["nowhere", "--benchmark", "colours.yaml"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(folder, words, why):
    with pytest.raises(SystemExit) as e:
        main(["answers", *words, "--runs", "runs"])
    assert why in str(e.value.code) and "\n" not in str(e.value.code)


def test_an_outcome_is_of_all_models():
    def asked(*right: bool) -> AnsweredQuestion:
        return AnsweredQuestion(1, "?", (), "", tuple(Given("m", "a", "a", float(r), r) for r in right))

    assert [outcome(asked(*r)) for r in ((True,), (False, False), (True, False))] == ["right", "wrong", "differing"]
