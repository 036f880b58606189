"""A list of requests gets the answers that each gets alone, in any order, whatever the tokenizer's padding side."""

from __future__ import annotations

import random

import pytest
from PIL import Image

from remora.errors import DataError, TooLong
from remora.evaluation.ask import Ask, ask
from remora.evaluation.question import Question
from remora.inference import Answer, Answerer, Message, Request, answerer
from remora.inference.decoding import SlotBatch
from remora.inference.recent import Recent
from support.small_answerers import TOKENS, answerer_of, conversations, pictures, requests_of


@pytest.fixture(scope="module")
def model(tiny_tokenizer) -> Answerer:
    return answerer_of("phi-2", tiny_tokenizer)


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return requests_of("phi-2")


@pytest.fixture(scope="module")
def expected(model, requests) -> list[Answer]:
    return [model.answer_alone(request) for request in requests]


@pytest.mark.slow
@pytest.mark.parametrize("together", [1, 7, 32])
def test_answers_are_those_of_batch_size_1_in_the_order_of_their_requests(model, requests, expected, together):
    assert len({a.completion_tokens for a in expected}) > 3
    order = random.Random(together).sample(range(32), 32)
    for start in range(0, 32, together):
        mates = order[start : start + together]
        told: dict[int, object] = {}
        found = model.answer([requests[i] for i in mates], done=told.__setitem__)
        assert found == [expected[i] for i in mates] == [told[k] for k in range(len(mates))]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizers_padding_changes_nothing(model, requests, expected, tiny_tokenizer, monkeypatch, side):
    monkeypatch.setattr(tiny_tokenizer, "padding_side", side)
    monkeypatch.setattr(model, "_ids", Recent(1000, len))
    assert model.answer(requests) == expected


def test_the_questions_about_a_picture_stay_side_by_side():
    asked = [(9, "b"), (4, "a"), (7, "b"), (5, ""), (6, "a")]
    prompts = [Like(length, body) for length, body in asked]
    assert [asked[i] for i in answerer._best_order(prompts)] == [(5, ""), (4, "a"), (6, "a"), (7, "b"), (9, "b")]  # type: ignore[arg-type]


class Like:
    """A prompt of some length about a picture."""

    def __init__(self, length: int, picture: str) -> None:
        self.ids, self.picture, self.head, self.body = (0,) * length, picture, 1, 2 + bool(picture)

    def prefix(self, end: int) -> str:
        return self.picture


def test_a_conversation_that_cannot_be_answered_is_refused_before_any_is(model, requests):
    long = [Message("user", "What is this? " * 2000)]
    with pytest.raises(DataError, match="the model holds 4096; shorten the conversation") as refused:
        model.prompt(long)
    assert "\n" not in str(refused.value)
    later = [Message("user", "What?"), Message("system", "Be brief."), Message("user", "What?")]
    for bad in (long, [Message("assistant", "red")], [], [Message("system", "Be brief.")], later):
        with pytest.raises(DataError):
            model.prompt(bad)
        with pytest.raises(DataError):
            model.answer([requests[0], Request(bad, TOKENS)], done=lambda i, answer: pytest.fail("it was answered"))
        with pytest.raises(DataError):
            model.answer_alone(Request(bad, TOKENS))
    assert model.answer([]) == []
    prompt = model.prompt(requests[0].conversation)
    assert model.room(prompt) == model.max_length - len(prompt.ids)
    with pytest.raises(TooLong, match=f"{model.room(prompt) + 1} may follow"):
        model.answer([Request(prompt, model.room(prompt) + 1)])


def test_an_answer_ends_before_its_first_stop_text(model, monkeypatch):
    monkeypatch.setattr(model, "stop_id", -1)
    prompt = model.prompt(conversations()[1])
    whole = model.answer_alone(Request(prompt, 8)).text.split()
    first = " ".join(whole).index(f" {whole[3]}")
    stopped = model.answer_alone(Request(prompt, 8, stop=(f" {whole[3]}", "never")))
    assert stopped.text == " ".join(whole)[:first] and stopped.finish_reason == "stop"
    assert stopped.completion_tokens <= 4
    assert model.answer_alone(Request(prompt, 8, stop=("never",))).text.split() == whole


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_a_picture_may_be_fitted_before_it_waits(model, temperature):
    """The endpoint keeps what the encoder sees of a picture, not the picture; seeds draw the same."""
    (picture,) = pictures(1)
    small = model.fitted(picture)
    assert small.size == (model.encoder.input_size,) * 2 != picture.size
    found = {
        model.answer_alone(Request([Message("user", "What is this?", (shown,))], TOKENS, temperature, seed=4))
        for shown in (picture, small, model.picture(picture))
    }
    assert len(found) == 1


def test_what_was_used_last_is_kept():
    kept = Recent(10, len)
    for key in (4, 5, 4, 3, 5, 4, 9, 11):
        if kept.get(key) is None:
            kept.put(key, (0,) * key)
        assert kept.held <= 10
    assert kept.get(11) is None and kept.held == 0
    for key in (4, 5, 1):
        kept.put(key, (0,) * key)
    assert kept.get(4) and 5 in kept
    kept.put(3, (0,) * 3)
    assert [key in kept for key in (4, 5, 1, 3)] == [True, False, True, True]


def test_what_is_too_long_is_not_kept(model, monkeypatch):
    monkeypatch.setattr(model, "_ids", Recent(10**6, len))
    for i in range(3):
        with pytest.raises(TooLong):
            model.prompt([Message("user", f"{i} What is this? " * 2000)])
    assert model._ids.held == 0


def test_a_blank_picture_is_no_special_case(tiny_tokenizer):
    answerer = answerer_of("+mistral", tiny_tokenizer)
    blank = Image.new("RGB", (96, 96))
    asked = [Request([Message("user", "What?", (blank,) * count)], TOKENS) for count in (1, 2)]
    assert answerer.answer(asked) == [answerer.answer_alone(request) for request in asked]


class Shown:
    """A picture of a question, as a benchmark names it."""

    def __init__(self, number: int, picture: Image.Image) -> None:
        self.number, self.picture = number, picture

    def __str__(self) -> str:
        return f"{self.number}.png"

    def open(self) -> Image.Image:
        return self.picture.copy()


def test_a_benchmarks_questions_are_one_batch_whatever_their_limits(model, monkeypatch):
    """Answers equal those at batch size 1 with the whole picture, up to the published limit or the room in the
    context."""
    shown = [Shown(i, picture) for i, picture in enumerate(pictures(3))]
    words = ("What is this?", "What is this? Is it blue?", "Is it red or blue or neither of them?")
    questions = [Question(i, words[i % 3], (shown[i // 3],), (2, 5, 9)[i % 3], "") for i in range(9)]
    prompts = [model.prompt([Message("user", q.text, (q.pictures[0].picture,))]) for q in questions]
    monkeypatch.setattr(model, "max_length", max(len(p.ids) for p in prompts) + 4)
    limits = [min(q.max_new_tokens, model.max_length - len(p.ids)) for q, p in zip(questions, prompts, strict=True)]
    assert limits == [2, 5, 4] * 3
    alone = [model.answer_alone(Request(p, n)) for p, n in zip(prompts, limits, strict=True)]
    sizes: list[int] = []
    step = SlotBatch.step
    monkeypatch.setattr(SlotBatch, "step", lambda self, *args: sizes.append(len(self.rows)) or step(self, *args))
    lines = ask(model, [Ask(i, "pictures", q) for i, q in enumerate(questions)])
    assert [(r["text"], r["metadata"]["finish_reason"]) for r in lines] == [(a.text, a.finish_reason) for a in alone]
    assert max(sizes) > 6
