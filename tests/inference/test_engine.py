"""Every answer equals that of batch size 1, token by token, in any class, whichever requests join, leave or cancel."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from functools import cache

import pytest
import torch
from PIL import Image

from remora.errors import DataError, TooLong
from remora.inference import Answer, AnswerEngine, Answerer, Event, Message, Request, decoding, generation, sampling
from remora.inference.decoding import SlotBatch, WholeBatch
from support.small_answerers import TOKENS, answerer_of, pictures, requests_of
from support.small_llms import CONFIGS, JOIN


@pytest.fixture(scope="module")
def made(tiny_tokenizer):
    """Answerers by language model, requests, and the answer of each at batch size 1."""

    @cache
    def make(name: str) -> tuple[Answerer, list[Request], list[Answer]]:
        answerer, requests = answerer_of(name, tiny_tokenizer), requests_of(name)
        return answerer, requests, [answerer.answer_alone(request) for request in requests]

    return make


def all_of(engine: AnswerEngine) -> list[Event]:
    events = []
    while engine.busy:
        events += engine.step()
    return events


def disturbed(engine: AnswerEngine, requests: list[Request], draw: random.Random) -> dict[int, Answer]:
    """The answers to `requests`, which are added a few at a time between steps. Half as many others are added as well
    and cancelled at some step. Checks that events tell the same."""
    order = draw.sample([*range(len(requests)), *[None] * (len(requests) // 2)], len(requests) * 3 // 2)
    places: dict[int, int] = {}
    doomed: set[int] = set()
    said = defaultdict(list)
    answers: dict[int, Answer] = {}
    while order or engine.busy:
        for place in (order.pop() for _ in range(min(len(order), draw.randrange(6)))):
            number = engine.add(requests[draw.randrange(len(requests)) if place is None else place])
            if place is None:
                doomed.add(number)
            else:
                places[number] = place
        for number in [n for n in sorted(doomed) if draw.random() < 0.3]:
            doomed.remove(number)
            engine.cancel(number)
        told = engine.step()
        assert len({event.request for event in told}) == len(told), "a token a step"
        for event in told:
            if event.request in places:
                assert event.request not in answers, "nothing follows an answer"
                said[event.request].append(event.token)
                if event.answer is not None:
                    answers[event.request] = event.answer
            else:
                assert event.request in doomed, "a cancelled request says nothing"
        doomed -= {event.request for event in told if event.answer is not None}
    assert {n: len(tokens) for n, tokens in said.items()} == {n: a.completion_tokens for n, a in answers.items()}
    for number, answer in answers.items():  # small_answerers.Ids: a text is its tokens
        assert not answer.text or " ".join(map(str, said[number])).startswith(answer.text)
    return {places[number]: answer for number, answer in answers.items()}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", CONFIGS)
def test_no_answer_depends_on_who_comes_and_goes(made, name):
    answerer, requests, expected = made(name)
    assert len({a.text for a in expected}) > 9, "this test would see nothing"
    assert {a.finish_reason for a in expected} == {"stop", "length"}
    for rows in (5, 64):
        engine = AnswerEngine(answerer, rows=rows)
        assert disturbed(engine, requests, random.Random(rows)) == dict(enumerate(expected))
        assert (engine.stats.running, engine.stats.waiting) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tinyllama-1.1b-chat", "+mistral"])
def test_logits_may_be_off_by_less_than_half_of_what_is_near(made, monkeypatch, name):
    """Every logit of every batch is off by more than any batch does: answers stay, since near ties are decided at batch
    size 1. Without that they change."""
    answerer, requests, expected = made(name)
    generator = torch.Generator().manual_seed(0)

    def shaken(logits: torch.Tensor) -> torch.Tensor:
        noise = torch.rand(logits.shape, generator=generator) * 2 - 1
        return logits + noise * 0.01 * logits.abs().amax(-1, keepdim=True)

    slots, whole = SlotBatch.step, WholeBatch.step

    def off_in_slots(self, *args):
        heard, logits = slots(self, *args)
        return heard, shaken(logits)

    def off_in_groups(self, tokens):
        logits = whole(self, tokens)
        return logits if len(logits) == 1 else shaken(logits)

    monkeypatch.setattr(SlotBatch, "step", off_in_slots)
    monkeypatch.setattr(WholeBatch, "step", off_in_groups)
    monkeypatch.setattr(answerer, "near", 0.021)
    for seed in range(2):
        engine = AnswerEngine(answerer, rows=9)
        assert disturbed(engine, requests, random.Random(seed)) == dict(enumerate(expected))
        assert engine.stats.near_ties > 3, "this test would see nothing"
    monkeypatch.setattr(answerer, "near", 0.0)
    assert any(answerer.answer(requests) != expected for _ in range(5))


def test_a_model_of_ties_only_is_answered_at_batch_size_1(made, tiny_tokenizer, monkeypatch):
    """Each token has a twin whose logit differs in the last bits, if at all: every choice is a near tie."""
    answerer = answerer_of("qwen3-0.6b", tiny_tokenizer)
    head = answerer.model.llm.get_output_embeddings()
    half = head.weight.shape[0] // 2
    weight = head.weight.detach().clone()
    weight[half : 2 * half] = weight[:half] * (1 + 1e-7)
    head.weight = torch.nn.Parameter(weight, requires_grad=False)
    requests = [r for r in requests_of("qwen3-0.6b") if not r.temperature and not r.adjusts][:9]
    expected = [answerer.answer_alone(request) for request in requests]
    alone, reads = [], generation.WholeBatch
    monkeypatch.setattr(generation, "WholeBatch", lambda *args: alone.append(reads(*args)) or alone[-1])
    engine = AnswerEngine(answerer, rows=4)
    assert disturbed(engine, requests, random.Random(3)) == dict(enumerate(expected))
    assert engine.stats.near_ties == engine.stats.answer_tokens
    assert len(alone) <= 9 + 4, "a prompt is read at batch size 1 once, however many ties its answer has"


def test_a_near_tie_holds_up_the_others_by_one_pass_a_step(made, monkeypatch):
    """Not by its prompt and its answer so far, read again: they get a token in each step while it is undecided."""
    answerer, requests, _ = made("phi-2")
    passes: list[int] = []
    step, read = WholeBatch.step, generation.WholeBatch
    monkeypatch.setattr(WholeBatch, "step", lambda self, tokens: passes.append(1) or step(self, tokens))
    monkeypatch.setattr(generation, "WholeBatch", lambda *args: passes.append(1) or read(*args))
    endless = [
        Request(requests[i].conversation, 40, logit_bias=((answerer.stop_id, -100.0),), top_logprobs=0) for i in (0, 1)
    ]
    expected = [answerer.answer_alone(request) for request in endless]
    engine = AnswerEngine(answerer)
    numbers = [engine.add(request) for request in endless]
    real, found = sampling.choose, {}
    tied: list[int] = []

    def tie(logits, rows, near):
        tokens, ties = real(logits, rows, near)
        for i, row in enumerate(rows):
            if near and row.number == numbers[0] and len(row.said) == 20 and not tied:
                ties[i] = True
                tied.append(len(passes))
        return tokens, ties

    monkeypatch.setattr("remora.inference.engine.choose", tie)
    while engine.busy:
        before = len(passes)
        told = engine.step()
        assert len(passes) - before <= 1
        if engine._undecided:
            assert numbers[1] in {event.request for event in told}
        found |= {event.request: event.answer for event in told if event.answer}
    assert [found[number] for number in numbers] == expected and tied and len(passes) >= 21


def test_most_choices_are_the_batchs_own(made):
    """The tests above test batches, not the correction at batch size 1."""
    answerer, requests, _ = made("phi-2")
    engine = AnswerEngine(answerer)
    for request in requests:
        engine.add(request)
    all_of(engine)
    assert engine.stats.answer_tokens > 100 and engine.stats.near_ties <= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m", "gemma-2b"])
def test_half_precision_is_that_of_batch_size_1_too(tiny_tokenizer, name):
    half = answerer_of(name, tiny_tokenizer, torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.joins
    requests = requests_of(name)
    expected = [half.answer_alone(request) for request in requests]
    assert disturbed(AnswerEngine(half, rows=9), requests, random.Random(0)) == dict(enumerate(expected))


def test_a_row_that_ends_frees_its_place_at_once(made):
    """Long answers do not hold up short ones: as many run as there are places, until none is waiting."""
    answerer, requests, _ = made("phi-2")
    limits = [1, 9, 2, 3, 9, 1, 2, 2]
    engine = AnswerEngine(answerer, rows=3)
    for request, limit in zip(requests, limits, strict=False):
        engine.add(Request(request.conversation, limit, logit_bias=((answerer.stop_id, -100.0),)))
    sizes = []
    while engine.busy:
        sizes.append(len(engine.step()))
        assert engine.stats.running <= 3
    # A row that ends with its first token frees its place for the next step.
    assert sum(sizes) == sum(limits) and len(sizes) <= -(-sum(limits) // 3) + 3


@pytest.mark.slow
def test_memory_bounds_the_rows(made, monkeypatch):
    answerer, requests, expected = made("phi-2")
    sizes: list[tuple[int, int]] = []
    step = SlotBatch.step
    monkeypatch.setattr(
        SlotBatch,
        "step",
        lambda self, *args: sizes.append((len(self.rows), self.cache.slots * self.cache.columns)) or step(self, *args),
    )
    for tokens, fewest, most in ((10**5, 20, 32), (400, 2, 9), (4, 1, 1)):
        sizes.clear()
        engine = AnswerEngine(answerer, cache_bytes=tokens * answerer.token_bytes)
        for request in requests:
            engine.add(request)
        found = {event.request: event.answer for event in all_of(engine) if event.answer}
        assert found == dict(enumerate(expected))
        assert fewest <= max(rows for rows, _ in sizes) <= most
        # A single one that needs more than all of it runs by itself.
        assert all(rows == 1 or reserved <= tokens for rows, reserved in sizes)
        assert engine._rows._batch.kept.held <= tokens * answerer.token_bytes // 4


@pytest.mark.parametrize("chunk", [5, 24])
def test_a_step_reads_a_bounded_piece_of_prompts(made, monkeypatch, chunk):
    """And encodes one picture: rows that decode get a token in each step, however long the prompts are that come."""
    answerer, requests, expected = made("phi-2")
    steps: list[tuple[int, int]] = []
    encoded: list[int] = []
    step, encode = SlotBatch.step, Answerer.embeddings

    def seen(self, saying, reading, shown):
        steps.append((len(saying), sum(count for _, count in reading)))
        encoded.append(0)
        return step(self, saying, reading, shown)

    def encoding(self, pictures, at_once=1):
        encoded[-1] += len(pictures) if at_once > 1 else 0  # one at a time: a near tie
        return encode(self, pictures, at_once)

    monkeypatch.setattr(SlotBatch, "step", seen)
    monkeypatch.setattr(Answerer, "embeddings", encoding)
    encoded.append(0)
    engine = AnswerEngine(answerer, chunk=chunk, pictures=1)
    endless = engine.add(Request(requests[0].conversation, 2000, logit_bias=((answerer.stop_id, -100.0),)))
    while not engine.stats.answer_tokens:
        engine.step()
    numbers = [engine.add(request) for request in requests]
    found: dict[int, Answer] = {}
    while len(found) < len(requests) and engine.busy:
        told = engine.step()
        assert endless in {event.request for event in told}, "it is never left out"
        found |= {event.request: event.answer for event in told if event.answer}
    assert [found[number] for number in numbers] == expected
    assert max(count for _, count in steps) <= chunk and max(encoded) <= 1
    assert max(rows for rows, _ in steps) > 2


def test_room_is_made_once_for_all_that_wait(made, monkeypatch):
    answerer, requests, expected = made("phi-2")
    resized: list[tuple[int, int]] = []
    resize = SlotBatch.resize
    monkeypatch.setattr(SlotBatch, "resize", lambda self, *size: resized.append(size) or resize(self, *size))
    engine = AnswerEngine(answerer)
    for request in requests:
        engine.add(request)
    found = {event.request: event.answer for event in all_of(engine) if event.answer}
    assert found == dict(enumerate(expected))
    assert len(resized) == 1 and resized[0][0] >= len(requests)


@pytest.mark.slow
def test_a_long_request_makes_slots_longer_for_its_time_only(made):
    answerer, requests, expected = made("phi-2")
    engine = AnswerEngine(answerer, cache_bytes=4000 * answerer.token_bytes)
    engine.add(Request(requests[0].conversation, 700, logit_bias=((answerer.stop_id, -100.0),)))
    engine.step()
    assert engine.stats.cache_bytes >= 700 * answerer.token_bytes
    number = engine.add(requests[1])
    found = {event.request: event.answer for event in all_of(engine) if event.answer}
    assert found[number] == expected[1] and found[0].completion_tokens == 700
    assert engine.stats.cache_bytes <= 1000 * answerer.token_bytes, "only prefixes are left"


def test_a_picture_is_known_by_its_content(made, monkeypatch):
    """It is encoded once, although each question opens it again, and its keys and values are copied."""
    answerer, _, _ = made("phi-2")
    encoded: list[bytes] = []
    encode = Answerer.embeddings
    monkeypatch.setattr(
        Answerer,
        "embeddings",
        lambda self, pictures, at_once=1: encoded.extend(p.digest for p in pictures) or encode(self, pictures, at_once),
    )
    asked = [
        Request([Message("user", f"Is it {word}?", (shown.copy(),))], 2)
        for shown in pictures(3)
        for word in ("a", "red", "blue or red")
    ]
    engine = AnswerEngine(answerer, rows=2)
    for request in asked:
        engine.add(request)
    all_of(engine)
    assert len(encoded) == len(set(encoded)) == 3
    prompts = [answerer.prompt(request.conversation) for request in asked]
    assert engine.stats.prompt_tokens == sum(len(prompt.ids) for prompt in prompts)
    assert engine.stats.shared_tokens >= 3 * prompts[0].body


def test_sampling_follows_the_seed_and_the_conversation(made):
    answerer, _, _ = made("phi-2")
    (picture, other) = pictures(2)

    def ask(image: Image.Image, seed: int) -> Request:
        return Request([Message("user", "What is this?", (image,))], TOKENS, temperature=2.0, seed=seed)

    asked = [ask(picture, 1), ask(picture.copy(), 1), ask(other, 1), ask(picture, 2)]
    first, copied, second, reseeded = (a.text for a in answerer.answer(asked))
    assert first == copied and len({first, second, reseeded}) == 3
    assert answerer.answer(asked[:1])[0].text == first


def test_what_cannot_be_answered_is_refused_when_it_is_added(made):
    answerer, requests, _ = made("phi-2")
    engine = AnswerEngine(answerer)
    prompt = answerer.prompt(requests[0].conversation)
    room = answerer.room(prompt)
    with pytest.raises(TooLong, match=f"{room + 1} may follow"):
        engine.add(Request(prompt, room + 1))
    with pytest.raises(DataError, match="max_new_tokens is 0; an answer has at least 1 token"):
        engine.add(Request(prompt, 0))
    with pytest.raises(DataError):
        engine.add(Request([Message("assistant", "red")], 3))
    assert not engine.busy and engine.step() == []
    engine.cancel(7)
    assert (engine.add(Request(prompt, 1)), engine.busy) == (0, True)


def test_prompts_that_cannot_join_start_together_where_they_are_equally_long(made, monkeypatch):
    answerer, requests, expected = made("+mistral")
    assert not JOIN["+mistral"] and not answerer.joins
    sizes: list[int] = []
    read = decoding.WholeBatch

    def seen(llm, prompts, shown):
        sizes.append(len(prompts))
        assert len({len(prompt.ids) for prompt in prompts}) == 1
        return read(llm, prompts, shown)

    monkeypatch.setattr("remora.inference.rows.WholeBatch", seen)
    encoded: list[bytes] = []
    encode = Answerer.embeddings
    monkeypatch.setattr(
        Answerer,
        "embeddings",
        lambda self, pictures, at_once=1: encoded.extend(p.digest for p in pictures) or encode(self, pictures, at_once),
    )
    assert answerer.answer(requests) == expected
    assert len(encoded) - len(set(encoded)) <= 2, "each is kept for prompts of other lengths; near ties encode again"
    lengths = {len(answerer.prompt(request.conversation).ids) for request in requests}
    assert sum(sizes) == 32 and len(sizes) == len(lengths)
    sizes.clear()
    engine = AnswerEngine(answerer, cache_bytes=1)
    engine.add(requests[0])
    engine.add(requests[0])
    all_of(engine)
    assert sizes == [1, 1]


def test_the_end_token_does_not_end_an_answer_that_ignores_it(made):
    answerer, requests, expected = made("smollm2-135m")
    i = next(i for i, answer in enumerate(expected) if answer.finish_reason == "stop" and not requests[i].stop)
    asked = replace(requests[i], ignore_eos=True)
    (found,) = answerer.answer([asked])
    assert found == answerer.answer_alone(asked)
    assert (found.finish_reason, found.completion_tokens) == ("length", asked.max_new_tokens)
    assert found.text.startswith(expected[i].text)
