"""Every answer is the one that its conversation gets alone: any class, batch size, mates, padding side, temperature."""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch
from PIL import Image
from small_answerers import answerer_of, conversations, pictures, temperature_of
from small_llms import CONFIGS, SHARE

from remora.errors import DataError, TooLong
from remora.evaluation.ask import Ask, ask
from remora.evaluation.question import Question
from remora.inference import Answerer, Sampling, Turn, decoding, recent
from remora.inference import answerer as module
from remora.inference.reading import Reading
from remora.inference.recent import Recent

TOKENS = 6
ASKED = conversations()


@pytest.fixture(scope="module")
def made(tiny_tokenizer):
    """Answerers by language model, and what each says at a temperature to conversations that are asked alone."""

    @cache
    def make(name: str, temperature: float = 0.0) -> tuple[Answerer, list[object]]:
        answerer = make(name)[0] if temperature else answerer_of(name, tiny_tokenizer)
        how = {"max_new_tokens": TOKENS, "temperature": temperature, "seed": 3}
        return answerer, [answerer.answer_alone(c, **how) for c in ASKED]

    return make


@pytest.mark.parametrize(
    ("name", "sampled"),
    [*((name, True) for name in CONFIGS), *((name, False) for name in ("tinyllama-1.1b-chat", "qwen3-0.6b", "+phi3"))],
)
def test_answers_do_not_depend_on_the_batch(made, name, sampled):
    temperature = temperature_of(name) if sampled else 0.0
    answerer, expected = made(name, temperature)
    assert len({a.text for a in expected}) > (20 if sampled else 7), "this test would see nothing"
    assert {a.finish_reason for a in expected} == {"stop", "length"} or not sampled
    for together in (1, 2, 7, 32) if sampled else (7, 32):
        order = random.Random(together).sample(range(32), 32)
        for start in range(0, 32, together):
            mates = order[start : start + together]
            asked = [ASKED[i] for i in mates]
            found = answerer.answer(asked, max_new_tokens=TOKENS, temperature=temperature, seed=3)
            assert found == [expected[i] for i in mates]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizers_padding_changes_nothing(made, tiny_tokenizer, monkeypatch, side):
    answerer, expected = made("qwen2-0.5b", temperature_of("qwen2-0.5b"))
    monkeypatch.setattr(tiny_tokenizer, "padding_side", side)
    answerer._recent.clear()
    how = {"max_new_tokens": TOKENS, "temperature": temperature_of("qwen2-0.5b"), "seed": 3}
    assert answerer.answer(ASKED, **how) == expected
    assert [answerer.answer_alone(c, **how) for c in ASKED] == expected


@pytest.mark.parametrize(
    ("name", "sampled"), [("tinyllama-1.1b-chat", False), ("tinyllama-1.1b-chat", True), ("+mistral", True)]
)
def test_logits_may_be_off_by_less_than_half_of_what_is_near(made, monkeypatch, name, sampled):
    """Every logit of every batch is off by more than any batch does: answers stay, since near ties are asked alone.
    Without that they change."""
    temperature = temperature_of(name) if sampled else 0.0
    answerer, expected = made(name, temperature)
    generator = torch.Generator().manual_seed(0)

    def shaken(reading: Reading) -> Reading:
        if len(reading.logits) > 1:
            noise = torch.rand(reading.logits.shape, generator=generator) * 2 - 1
            reading.logits = reading.logits + noise * 0.01 * reading.logits.abs().amax(-1, keepdim=True)
        return reading

    step = Reading.step
    monkeypatch.setattr(Reading, "step", lambda self, *args: shaken(step(self, *args) or self))
    for read in ("read_shared", "read_whole"):
        reader = getattr(module, read)
        monkeypatch.setattr(module, read, lambda *args, reader=reader: shaken(reader(*args)))
    alone = []
    answer = answerer._alone
    monkeypatch.setattr(answerer, "_alone", lambda row, *args: alone.append(row) or answer(row, *args))
    how = {"max_new_tokens": TOKENS, "temperature": temperature, "seed": 3}
    monkeypatch.setattr(decoding, "NEAR", 0.021)
    assert answerer.answer(ASKED, **how) == expected
    assert 0 < len(alone) < 32
    monkeypatch.setattr(decoding, "NEAR", 0.0)
    assert any(answerer.answer(ASKED, **how) != expected for _ in range(5))


def test_no_answer_of_these_hangs_on_a_near_tie(made, monkeypatch):
    """So the tests above see what batches do, not what asking again mends."""
    answerer, _ = made("phi-2")
    alone = []
    answer = answerer._alone
    monkeypatch.setattr(answerer, "_alone", lambda row, *args: alone.append(row) or answer(row, *args))
    answerer.answer(ASKED, max_new_tokens=TOKENS)
    assert len(alone) <= 2


def test_a_picture_is_encoded_once_a_batch_and_kept_for_the_next(made, monkeypatch):
    answerer, _ = made("phi-2")
    encoded = []
    encode = answerer._encode
    monkeypatch.setattr(answerer, "_encode", lambda images, n: encoded.extend(images) or encode(images, n))
    shown = pictures(3)
    asked = [[Turn("user", f"Is it {word}?", (shown[i],))] for i in range(3) for word in ("a", "red", "blue or red")]
    answerer.answer(asked, max_new_tokens=2)
    assert sorted(encoded) == sorted(map(id, shown))
    encoded.clear()
    monkeypatch.setattr(answerer, "batch", 2)  # a picture's three questions do not fit: it is kept for the next batch
    answerer.answer(asked[:4], max_new_tokens=2)
    assert sorted(encoded) == sorted(map(id, shown[:2]))


def test_memory_bounds_the_batch(made, monkeypatch):
    answerer, expected = made("phi-2")
    sizes = []
    read = module.read_shared
    monkeypatch.setattr(module, "read_shared", lambda m, rows, *args: sizes.append(len(rows)) or read(m, rows, *args))
    for tokens, largest in ((10**6, 16), (120, 4)):
        sizes.clear()
        monkeypatch.setattr(answerer, "cache_bytes", tokens * answerer._token_bytes)
        assert answerer.answer(ASKED, max_new_tokens=TOKENS) == expected
        assert max(sizes) == largest


def test_sampling_follows_the_seed_and_the_conversation(made):
    answerer, _ = made("phi-2")
    (picture, other) = pictures(2)
    ask = [[Turn("user", "What is this?", (i,))] for i in (picture, picture.copy(), other)]
    how = {"max_new_tokens": TOKENS, "temperature": 2.0}
    first, copied, second = (a.text for a in answerer.answer(ask, seed=1, **how))
    assert first == copied != second
    assert answerer.answer(ask[:1], seed=1, **how)[0].text == first != answerer.answer(ask[:1], seed=2, **how)[0].text


def test_a_conversation_that_cannot_be_answered_is_refused_by_itself(made):
    answerer, expected = made("phi-2")
    long = [Turn("user", "What is this? " * 2000)]
    with pytest.raises(DataError, match="the model holds 4096; shorten the conversation") as refused:
        answerer.prompt(long)
    assert "\n" not in str(refused.value)
    later = [Turn("user", "What?"), Turn("system", "Be brief."), Turn("user", "What?")]
    for bad in (long, [Turn("assistant", "red")], [], [Turn("system", "Be brief.")], later):
        with pytest.raises(DataError):
            answerer.prompt(bad)
        with pytest.raises(DataError):
            answerer.answer([ASKED[0], bad], max_new_tokens=TOKENS)
        with pytest.raises(DataError):
            answerer.answer_alone(bad, max_new_tokens=TOKENS)
    assert answerer.answer([], max_new_tokens=TOKENS) == []
    just = answerer.room(answerer.prompt(ASKED[0]))
    assert just == answerer.max_length - expected[0].prompt_tokens
    with pytest.raises(DataError, match=f"{just + 1} may follow"):
        answerer.answer([ASKED[0]], max_new_tokens=just + 1)


SETTINGS = [
    Sampling(TOKENS),
    Sampling(2),
    Sampling(TOKENS, 0.3, seed=1),
    Sampling(9, 0.3, top_p=0.7, seed=2),
    Sampling(3, 0.5, top_k=4, seed=3),
    Sampling(TOKENS, frequency_penalty=0.5, presence_penalty=0.1),
    Sampling(TOKENS, logit_bias=((7, 2.0), (9, -3.0))),
    Sampling(12, 0.3, seed=4, stop=("1", " 3")),
]


@pytest.mark.parametrize("name", ["phi-2", "qwen3-0.6b", "+mistral"])
def test_each_row_has_settings_of_its_own(made, name):
    """Greedy and sampled requests, of any limits, share a batch: each answer is still that of its request alone."""
    answerer, _ = made(name)
    requests = [(answerer.prompt(c), SETTINGS[(3 * i) % 8]) for i, c in enumerate(ASKED)]
    expected = [answerer.ask_alone(*request) for request in requests]
    assert len({a.completion_tokens for a in expected}) > 3 and {a.finish_reason for a in expected} == {
        "stop",
        "length",
    }
    for together in (32, 5):
        order = random.Random(together).sample(range(32), 32)
        for start in range(0, 32, together):
            mates = order[start : start + together]
            told: dict[int, object] = {}
            found = answerer.ask([requests[i] for i in mates], done=told.__setitem__)
            assert found == [expected[i] for i in mates] == [told[k] for k in range(len(mates))]


def test_requests_of_any_settings_are_one_batch(made, monkeypatch):
    answerer, _ = made("phi-2")
    sizes = []
    read = module.read_shared
    monkeypatch.setattr(module, "read_shared", lambda m, rows, *args: sizes.append(len(rows)) or read(m, rows, *args))
    prompt = answerer.prompt(ASKED[1])
    answerer.ask([(prompt, how) for how in SETTINGS])
    assert sizes == [8]


def test_an_answer_ends_before_its_first_stop_text(made, monkeypatch):
    answerer, _ = made("phi-2")
    monkeypatch.setattr(answerer, "stop_id", -1)
    prompt = answerer.prompt(ASKED[1])
    whole = answerer.ask_alone(prompt, Sampling(8)).text.split()
    first = " ".join(whole).index(f" {whole[3]}")
    stopped = answerer.ask_alone(prompt, Sampling(8, stop=(f" {whole[3]}", "never")))
    assert stopped.text == " ".join(whole)[:first] and stopped.finish_reason == "stop"
    assert stopped.completion_tokens <= 4
    assert answerer.ask_alone(prompt, Sampling(8, stop=("never",))).text.split() == whole


@pytest.mark.parametrize("how", [Sampling(TOKENS), Sampling(TOKENS, 0.5, seed=4)])
def test_a_picture_may_be_fitted_before_it_waits(made, how):
    """The endpoint keeps what the encoder sees of a picture, not the picture; seeds draw the same."""
    answerer, _ = made("phi-2")
    (picture,) = pictures(1)
    small = answerer.fitted(picture)
    assert small.size == (answerer.encoder.input_size,) * 2 != picture.size
    whole, fitted = (answerer.prompt([Turn("user", "What is this?", (i,))]) for i in (picture, small))
    assert answerer.ask_alone(whole, how) == answerer.ask_alone(fitted, how)


def test_prompts_are_kept_by_the_tokens_that_they_have(monkeypatch):
    monkeypatch.setattr(recent, "HELD", 10)
    made = []
    known = Recent(lambda n: made.append(n) or (0,) * n, longest=6)
    for key in (4, 5, 4, 3, 5, 4, 9, 9):
        assert len(known.get(key)) == key
    assert made == [4, 5, 3, 5, 4, 9, 9], "9 is too long for the model and never kept"
    assert known.held <= 10


def test_what_is_too_long_is_not_kept(made):
    answerer, _ = made("phi-2")
    answerer._recent.clear()
    for i in range(3):
        with pytest.raises(TooLong):
            answerer.prompt([Turn("user", f"{i} What is this? " * 2000)])
    assert answerer._recent.held == 0


def test_a_length_limit_is_told(made):
    answerer, expected = made("phi-2")
    assert {a.completion_tokens for a in expected if a.finish_reason == "length"} == {TOKENS}
    (answer,) = answerer.answer([ASKED[0]], max_new_tokens=1)
    assert answer.completion_tokens == 1


def test_a_blank_picture_is_no_special_case(made):
    answerer, _ = made("+mistral")
    blank = Image.new("RGB", (96, 96))
    asked = [[Turn("user", "What?", (blank,))], [Turn("user", "What?", (blank, blank))]]
    alone = [answerer.answer_alone(c, max_new_tokens=TOKENS) for c in asked]
    assert answerer.answer(asked, max_new_tokens=TOKENS) == alone
    assert not SHARE["+mistral"] and not answerer.shares


class Shown:
    """A picture of a question, as a benchmark names it."""

    def __init__(self, number: int, picture: Image.Image) -> None:
        self.number, self.picture = number, picture

    def __str__(self) -> str:
        return f"{self.number}.png"

    def open(self) -> Image.Image:
        return self.picture.copy()


def test_a_benchmarks_questions_are_one_batch_whatever_their_limits(made, monkeypatch):
    """And are answered as alone about the whole picture, by the published limit or what there is room for."""
    answerer, _ = made("phi-2")
    shown = [Shown(i, picture) for i, picture in enumerate(pictures(3))]
    words = ("What is this?", "What is this? Is it blue?", "Is it red or blue or neither of them?")
    questions = [Question(i, words[i % 3], (shown[i // 3],), (2, 5, 9)[i % 3], "") for i in range(9)]
    asked = [[Turn("user", q.text, (q.pictures[0].picture,))] for q in questions]
    prompts = [answerer.prompt(c) for c in asked]
    monkeypatch.setattr(answerer, "max_length", max(len(p.ids) for p in prompts) + 4)
    limits = [min(q.max_new_tokens, answerer.max_length - len(p.ids)) for q, p in zip(questions, prompts, strict=True)]
    assert limits == [2, 5, 4] * 3
    alone = [answerer.answer_alone(c, max_new_tokens=n) for c, n in zip(asked, limits, strict=True)]
    sizes, encoded = [], []
    read, encode = module.read_shared, answerer._encode
    monkeypatch.setattr(module, "read_shared", lambda m, rows, *args: sizes.append(len(rows)) or read(m, rows, *args))
    monkeypatch.setattr(answerer, "_encode", lambda images, n: encoded.extend(images) or encode(images, n))
    lines = ask(answerer, [Ask(i, "pictures", q) for i, q in enumerate(questions)])
    assert [(r["text"], r["metadata"]["finish_reason"]) for r in lines] == [(a.text, a.finish_reason) for a in alone]
    assert (sizes, len(encoded)) == ([9], 3)
