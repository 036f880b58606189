"""An own benchmark: which picture each question is asked about, what an answer scores, and the baselines beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from remora import catalog
from remora.data.conversation import Sample, Turn
from remora.errors import DataError
from remora.evaluation.ask import Ask, ask
from remora.evaluation.benchmarks import benchmark, score
from remora.evaluation.benchmarks.own import METRICS, own_benchmark, words
from remora.evaluation.benchmarks.own.prior import QuestionOnly
from remora.evaluation.benchmarks.own.questions import OwnQuestion, shuffled_pictures
from remora.evaluation.identity import PictureDigests, ask_digests, shown
from remora.evaluation.judge import JudgeEndpoint
from remora.evaluation.measured import tally
from remora.evaluation.score import as_json, summarise
from remora.evaluation.sheet import About, Sheet
from remora.inference import Answer, FittedPicture, Prompt
from support.scripted_judge import scripted

NAME = "easy-vqa-val"
SHADES = [10, 60, 110, 160, 210]


def question(text="What?", answer="red", picture="a.png", **more) -> OwnQuestion:
    return OwnQuestion(0, Path(picture), text, answer, "", **more)


@pytest.fixture
def data(catalog_data):
    """Two questions about each of five grey pictures; their shade is the answer to the first, `no` to the second."""
    entry = catalog.benchmark(NAME)
    lines = []
    for i, shade in enumerate(SHADES):
        Image.new("RGB", (4, 4), (shade,) * 3).save(catalog_data / entry.images / f"q{i}.png")
        for j, (text, answer) in enumerate((("Which shade?", str(shade)), (f"Is it number {i}?", "no"))):
            asked = {
                "question_id": 2 * i + j,
                "image": f"q{i}.png",
                "text": text,
                "answer": answer,
                "category": f"c{j}",
            }
            lines.append(json.dumps(asked))
    (catalog_data / entry.questions).write_text("\n".join(lines) + "\n")
    return catalog_data


class Seer:
    """Answers with the shade that it sees."""

    def __init__(self):
        self.shown = []

    name = "seer"

    def picture(self, image):
        return FittedPicture(image)

    def prompt(self, conversation):
        (turn,) = conversation
        return Prompt((), turn.images)

    def room(self, prompt):
        return 100

    def answer(self, requests):
        assert {r.max_new_tokens for r in requests} == {catalog.benchmark(NAME).max_new_tokens}
        shown = [r.conversation.pictures[0].image for r in requests]
        self.shown += shown
        shades = [picture.getpixel((0, 0))[0] for picture in shown]
        return [Answer(f" {shade}. ", 1, 1, "stop") for shade in shades]


@pytest.mark.parametrize(
    ("said", "expected"),
    [("Red.", "red"), (" a red CIRCLE!\n", "a red circle"), ('"no"', "no"), ("it's", "it's"), ("", ""), ("É", "é")],
)
def test_an_answer_is_read_as_its_words(said, expected):
    assert words(said) == expected


@pytest.mark.parametrize(
    ("metric", "asked", "said", "read", "score"),
    [
        ("exact-match", {"answer": "Red"}, "red.", "red", 1.0),
        ("exact-match", {"answer": "red"}, "red circle", "red circle", 0.0),
        ("exact-match", {"answer": "red"}, "", "", 0.0),
        ("exact-match", {"answer": "red", "answers": ("red", "crimson")}, "Crimson", "crimson", 1.0),
        ("yes-no", {"answer": "no"}, "No, there is none.", "no", 1.0),
        ("yes-no", {"answer": "no"}, "There is not.", "no", 1.0),
        ("yes-no", {"answer": "no"}, "NO", "yes", 0.0),  # POPE only knows No, no and not
        ("yes-no", {"answer": "yes"}, "It is. Not that it matters", "yes", 1.0),  # and only the first sentence
        ("multiple-choice", {"answer": "B", "choices": ("cat", "dog")}, "B", "B", 1.0),
        ("vqa-accuracy", {"answers": ("2", "two", "3", "4", "5", "6", "7", "8", "9", "10")}, "Two!", "2", 0.6),
        ("vqa-accuracy", {"answers": ("a red car",) * 10}, "The red car.", "red car", 1.0),
        ("multiple-choice", {"answer": "B", "choices": ("cat", "dog")}, "(B) dog", "B", 1.0),
        ("multiple-choice", {"answer": "B", "choices": ("cat", "dog")}, "B. cat", "B", 1.0),
        ("multiple-choice", {"answer": "dog", "choices": ("cat", "dog")}, "Dog.", "B", 1.0),
        ("multiple-choice", {"answer": "dog", "choices": ("cat", "dog")}, "A dog", "", 0.0),
        ("multiple-choice", {"answer": "dog", "choices": ("cat", "dog")}, "C", "", 0.0),
    ],
)
def test_an_answer_scores_by_the_benchmarks_metric(metric, asked, said, read, score):
    assert METRICS[metric](question(**asked), said) == (read, score)


def test_questions_are_read_in_file_order(data):
    questions = own_benchmark(NAME).listed(data)
    assert [q.id for q in questions] == list(range(10))
    assert questions[3].answer == "no" and questions[3].category == "c1" and questions[3].choices == ()


def test_a_text_may_hold_any_character(data):
    file = data / catalog.benchmark(NAME).questions
    asked = {"question_id": 0, "image": "q0.png", "text": "a\u2028b\x85c", "answer": "é", "choices": ["é", "x"]}
    file.write_text(json.dumps(asked, ensure_ascii=False) + "\n")
    (only,) = own_benchmark(NAME).listed(data)
    assert only.text == "a\u2028b\x85c" and only.choices == ("é", "x")


TWICE = '{"question_id": 3, "image": "q0.png", "text": "What?", "answer": "no"}'


@pytest.mark.parametrize("line", ["{", "5", "{}", '{"question_id": 1}', TWICE, TWICE.replace('"no"', "null")])
def test_a_bad_line_is_named_by_number(line, data):
    file = data / catalog.benchmark(NAME).questions
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DataError) as caught:
        own_benchmark(NAME).listed(data)
    assert str(file) in str(caught.value) and f"{file.name}:11: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_empty_question_file_is_refused(data):
    file = data / catalog.benchmark(NAME).questions
    file.write_text("")
    with pytest.raises(DataError, match="no record"):
        own_benchmark(NAME).listed(data)
    file.unlink()
    with pytest.raises(DataError, match=r"missing question file: .*; next: remora data demo$"):
        own_benchmark(NAME).listed(data)


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_shuffled_no_picture_keeps_its_own_and_each_is_used_once(count):
    questions = [question(picture=f"{i // 2}.png") for i in range(2 * count)]
    shuffled = shuffled_pictures(questions, 0)
    assert set(shuffled) == set(shuffled.values()) == {q.image for q in questions}
    assert all(own != other for own, other in shuffled.items())
    assert shuffled == shuffled_pictures(questions[::-1], 0)
    if count > 10:
        assert shuffled != shuffled_pictures(questions, 1)


def test_one_picture_cannot_be_shuffled():
    with pytest.raises(DataError, match="needs two"):
        shuffled_pictures([question(), question()], 0)


def sheet_of(tmp_path, asks: list[Ask]) -> Sheet:
    keys = ask_digests(asks, PictureDigests(tmp_path / "contents.json").of(shown(asks)))
    return Sheet(tmp_path / "scores", About("m", "w", NAME, "q"), asks, keys)


def measured(data, tmp_path, answerer):
    """Reports of both conditions, the way an evaluation makes them."""
    chosen = own_benchmark(NAME)
    asks = [Ask(i, "pictures", q) for i, q in enumerate(chosen.questions(data))]
    asks += [Ask(i, "blind", q) for i, q in enumerate(chosen.blind(data))]
    sheet = sheet_of(tmp_path, asks)
    sheet.add(ask(answerer, asks))
    sheet.write()
    return [score(chosen, data, sheet.folder / name) for name in ("answers.jsonl", "blind.jsonl")]


def test_a_model_that_sees_is_right_with_pictures_and_wrong_with_others(data, tmp_path):
    seer = Seer()
    seen, blind = measured(data, tmp_path, seer)
    assert len(seer.shown) == 20 and len({id(picture) for picture in seer.shown}) == 5  # each is read once
    assert [i.score for i in seen.items] == [1.0, 0.0] * 5
    assert [i.score for i in blind.items] == [0.0] * 10
    assert [i.parsed for i in seen.items[::2]] == [str(s) for s in SHADES]
    for item, other in zip(blind.items[::2], blind.items[1::2], strict=True):
        assert item.group == other.group and item.answer == other.answer  # both about the same other picture


ONE = "{title: t, questions: q.jsonl, images: ., metric: exact-match, max_new_tokens: 4, prior: demo-finetune}"


def test_baselines_that_cannot_be_had_are_left_out_and_named(tmp_path, data):
    """One picture has no other to be shuffled with, and the dataset of the question-only baseline is not there."""
    home = tmp_path / "own"
    home.mkdir()
    (home / "own.yaml").write_text(ONE)
    Image.new("RGB", (4, 4), (60,) * 3).save(home / "a.png")
    asked = [{"question_id": i, "image": "a.png", "text": f"Which shade, {i}?", "answer": "60"} for i in range(3)]
    (home / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in asked))
    chosen = benchmark(str(home / "own.yaml"))
    assert chosen.blind(home) == []
    asks = [Ask(i, "pictures", q) for i, q in enumerate(chosen.questions(home))]
    sheet = sheet_of(tmp_path, asks)
    lines = [{"index": a.index, "condition": "pictures", "question_id": a.index, "text": "60"} for a in asks]
    sheet.add(lines)
    found = tally(chosen, home, sheet)
    assert (found.score.accuracy, found.score.blind, found.score.question_only) == (1.0, None, None)
    assert any("no blind baseline" in w for w in found.report.warnings)
    assert any("no question-only baseline: " in w and "demo-finetune" in w for w in found.report.warnings)


def test_a_summary_has_every_figure(data, tmp_path):
    seen, blind = measured(data, tmp_path, Seer())
    figures = summarise(seen, "accuracy", blind, 0.1)
    assert (figures.n, figures.accuracy, figures.blind, figures.question_only) == (10, 0.5, 0.0, 0.1)
    assert figures.by_category == {"c0": 1.0, "c1": 0.0}
    assert figures.ci[0] < 0.5 < figures.ci[1] and figures.blind_ci[0] == 0.0
    assert json.loads(json.dumps(as_json(figures)))["ci"] == list(figures.ci)


def test_yes_no_has_popes_figures(tmp_path):
    (tmp_path / "own.yaml").write_text("{title: t, questions: q.jsonl, images: ., metric: yes-no, max_new_tokens: 4}")
    golds, said = ["yes", "yes", "yes", "no", "no"], ["yes", "yes", "no", "yes", "no"]
    asked = [{"question_id": i, "image": "a.png", "text": "?", "answer": g} for i, g in enumerate(golds)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in asked))
    answers = [{"question_id": i, "text": s} for i, s in enumerate(said)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers))
    report = score(benchmark(str(tmp_path / "own.yaml")), tmp_path, tmp_path / "a.jsonl")
    assert report.benchmark == "own" and report.protocol == "yes-no"
    expected = {"accuracy": 3 / 5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_ratio": 3 / 5}
    assert report.metrics == pytest.approx(expected)


def test_a_judge_scores_by_mm_vets_prompt(tmp_path):
    (tmp_path / "own.yaml").write_text("{title: t, questions: q.jsonl, images: ., metric: judge, max_new_tokens: 4}")
    asked = [{"question_id": i, "image": "a.png", "text": f"Q{i}?", "answer": "a<OR>b"} for i in range(3)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in asked))
    answers = [{"question_id": i, "text": f"said {i}"} for i in range(2)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers))
    chosen = benchmark(str(tmp_path / "own.yaml"))
    with scripted(lambda body: "0.5" if "said 0" in body["messages"][0]["content"] else "none") as server:
        judge = JudgeEndpoint("tiny", server.url, "", tmp_path / "kept")
        report = score(chosen, tmp_path, tmp_path / "a.jsonl", judge=judge)
    assert [i.score for i in report.items] == [0.5, 0, 0] and report.judge == "tiny"
    asked_of = {body["messages"][0]["content"].split("\n")[-1] for body in server.bodies}
    assert "Q0? | a <OR> b | said 0 | " in asked_of  # a few are asked at once, in no order
    assert any("1: the judge gave no number" in w for w in report.warnings)
    with pytest.raises(DataError, match="scored by a judge, and there is none"):
        score(chosen, tmp_path, tmp_path / "a.jsonl")


ASKED = [
    ("Is it red?", "yes"), ("Is it red?", "no"), ("Is it red?", "no"),
    ("Cat or dog?", "dog"), ("Cat or dog?", "cat"),
    ("What?", "cat"), ("Which?", "cat"), ("Which one?", "fish"),
]  # fmt: skip


def brute_force(question: OwnQuestion) -> str:
    """The same rule, by counting over all questions."""
    own = [a for q, a in ASKED if q == question.text]
    pool = own or [a for _, a in ASKED]
    candidates = set(own) or set(question.choices) or set(pool)
    return sorted(candidates, key=lambda a: (-pool.count(a), a))[0]


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("Is it red?", (), "no"),
        ("Is it red?", ("yes", "maybe"), "no"),  # asked word for word: the choices do not matter
        ("Cat or dog?", (), "cat"),  # a tie: the alphabet
        ("New?", ("fish", "dog"), "dog"),  # a tie again
        ("New?", ("fish", "bird"), "fish"),
        ("New?", ("zebra", "bird"), "bird"),
        ("New?", (), "cat"),
    ],
)
def test_question_only_is_what_counting_gives(text, choices, expected):
    samples = [Sample(str(i), (Turn("user", q, 1), Turn("assistant", a)), ()) for i, (q, a) in enumerate(ASKED[:6])]
    turns = [m for q, a in ASKED[6:] for m in (Turn("user", q), Turn("assistant", a))]
    baseline = QuestionOnly([*samples, Sample("turns", tuple(turns), ())])
    asked = question(text, choices=choices)
    assert baseline.answer(asked) == brute_force(asked) == expected


def test_question_only_reads_the_benchmarks_prior(data):
    prior = data / catalog.dataset(catalog.benchmark(NAME).prior).path
    records = json.loads(prior.read_text())
    for record, answer in zip(records, ("60", "60", "no"), strict=True):
        record["conversations"][1]["value"] = answer
        record["conversations"][0]["value"] = "<image>\nWhich shade?"
    prior.write_text(json.dumps(records))
    # `60` to all: as the most frequent answer to the shade, and the most frequent of all
    assert own_benchmark(NAME).question_only(data) == 1 / 10
