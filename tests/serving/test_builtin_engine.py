"""The engine of our own: streams are the answers at batch size 1, whoever leaves, whatever fails."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from remora.errors import DataError
from remora.inference import AnswerEngine, Answerer, Request
from remora.inference.text import GrowingText
from remora.serving.engines.builtin import BuiltinEngine
from remora.serving.engines.protocol import Delta, Draining
from support.small_answerers import answerer_of, conversations, requests_of


@pytest.fixture(scope="module")
def answerer(tiny_tokenizer) -> Answerer:
    return answerer_of("smollm2-135m", tiny_tokenizer)


@pytest.fixture(scope="module")
def requests(answerer) -> list[Request]:
    asked = requests_of("smollm2-135m")[:16]
    return [replace(one, conversation=answerer.prompt(one.conversation)) for one in asked]


@pytest.fixture(scope="module")
def expected(answerer, requests) -> list[Any]:
    return [answerer.answer_alone(request) for request in requests]


async def whole(engine: BuiltinEngine, request: Request) -> list[Delta]:
    return [delta async for delta in engine.submit(request)]


def run(work: Callable[[], Any], seconds: float = 60) -> Any:
    return asyncio.run(asyncio.wait_for(work(), seconds))


def check(deltas: list[Delta], answer: Any, request: Request) -> None:
    assert "".join(delta.text for delta in deltas) == answer.text
    assert sum(len(delta.tokens) for delta in deltas) == answer.completion_tokens - len(request.said)
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + [answer.finish_reason]
    assert {(delta.prompt_tokens, delta.image_tokens) for delta in deltas} == {
        (answer.prompt_tokens, request.conversation.image_tokens)  # type: ignore[union-attr]
    }
    assert pickle.loads(pickle.dumps(deltas)) == deltas


def test_streams_are_the_answers_at_batch_size_1(answerer, requests, expected) -> None:
    engine = BuiltinEngine.of(answerer, 1 << 24)

    async def go() -> list[list[Delta]]:
        found = await asyncio.gather(*(whole(engine, request) for request in requests))
        found.append(await whole(engine, requests[1]))
        await engine.drain()
        return found

    *found, again = run(go)
    for deltas, answer, request in zip(found, expected, requests, strict=True):
        check(deltas, answer, request)
    check(again, expected[1], requests[1])
    assert {delta.cached_tokens for delta in again} == {requests[1].conversation.body}  # type: ignore[union-attr]
    assert max(map(len, found)) > 3, "tokens come one by one"
    stats = engine.stats
    assert stats.load.answer_tokens == sum(answer.completion_tokens for answer in [*expected, expected[1]])
    assert (stats.load.running, stats.load.waiting, stats.failed, stats.rebuilt) == (0, 0, 0, 0)
    assert stats.steps >= max(answer.completion_tokens for answer in expected)


def test_an_answer_goes_on_behind_what_was_said(answerer, requests, expected) -> None:
    """On any engine: the text behind a client's tokens, without a word of theirs."""
    engine = BuiltinEngine.of(answerer, 1 << 24)

    async def go(request: Request) -> list[Delta]:
        return await whole(engine, request)

    for request, answer in zip(requests, expected, strict=True):
        deltas = run(lambda request=request: go(request))
        tokens = [token for delta in deltas for token in delta.tokens]
        for kept in {0, 1, len(tokens) // 2, len(tokens) - 1} - {len(tokens)}:
            behind = replace(request, said=tuple(tokens[:kept]))
            rest = run(lambda behind=behind: go(behind))
            assert [token for delta in rest for token in delta.tokens] == tokens[kept:]
            had = GrowingText(answerer.detokenizer, request.stop)
            for token in behind.said:
                had.add(token)
            assert had.released + "".join(delta.text for delta in rest) == answer.text
    with pytest.raises(DataError, match="cannot go on behind"):
        run(lambda: go(replace(requests[0], said=(3,) * requests[0].max_new_tokens)))


class Hooked:
    """An AnswerEngine whose steps are seen, and may wait or fail, by `before`."""

    def __init__(self, inner: AnswerEngine, before: Callable[[AnswerEngine], None]) -> None:
        self._inner, self._before = inner, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def step(self) -> Any:
        self._before(self._inner)
        return self._inner.step()


def hooked(answerer: Answerer, before: Callable[[AnswerEngine], None], rows: int = 16) -> BuiltinEngine:
    return BuiltinEngine(answerer, lambda rows: Hooked(answerer.engine(rows), before), rows)  # type: ignore[arg-type, return-value]


def endless(answerer: Answerer, i: int = 1, tokens: int = 900) -> Request:
    """A long answer."""
    return Request(answerer.prompt(conversations()[i]), tokens, logit_bias=((answerer.stop_id, -100.0),))


def test_a_client_that_goes_is_cancelled_at_the_next_step(answerer, requests, expected) -> None:
    engine = BuiltinEngine.of(answerer, 1 << 24)

    async def go() -> list[Delta]:
        long = engine.submit(endless(answerer))
        await anext(long)
        other = asyncio.create_task(whole(engine, requests[1]))
        await long.aclose()
        task = asyncio.create_task(whole(engine, endless(answerer, 2)))
        waits = asyncio.create_task(whole(engine, endless(answerer, 3)))
        await asyncio.sleep(0)  # it is submitted
        for each in (task, waits):
            each.cancel()
        found = await other
        await engine.drain()
        return found

    check(run(go), expected[1], requests[1])
    assert engine.stats.load.answer_tokens < 100 and engine.stats.load.running == 0


def test_a_slow_reader_gets_several_tokens_at_once(answerer) -> None:
    engine = BuiltinEngine.of(answerer, 1 << 24)
    request = endless(answerer, tokens=30)

    async def go() -> list[Delta]:
        stream, found = engine.submit(request), []
        async for delta in stream:
            found.append(delta)
            while engine.stats.load.running:
                await asyncio.sleep(0.001)
        return found

    found = run(go)
    check(found, answerer.answer_alone(request), request)
    assert len(found) < 5 and max(len(delta.tokens) for delta in found) > 20


@pytest.mark.parametrize("at", [1, 3])
def test_only_the_request_at_fault_fails(answerer, requests, expected, at) -> None:
    """The others go on behind what their clients have, on a fresh engine."""
    poison = requests[5].conversation
    steps: dict[int, int] = {}

    def before(inner: AnswerEngine) -> None:
        held = [*inner._rows.running, *inner._waiting]
        for one in held:
            if one.prompt is poison and len(one.said) >= at:
                steps[len(held)] = steps.get(len(held), 0) + 1
                raise torch.OutOfMemoryError("too much")

    engine = hooked(answerer, before)
    longer = [replace(one, max_new_tokens=max(8, one.max_new_tokens)) for one in requests]
    longer[5] = replace(endless(answerer, 5, 8), conversation=poison)
    fine = [i for i in range(len(longer)) if i != 5]
    answers = {i: answerer.answer_alone(longer[i]) for i in fine}

    async def go() -> list[Any]:
        found = await asyncio.gather(*(whole(engine, one) for one in longer), return_exceptions=True)
        await engine.drain()
        return found

    found = run(go)
    assert isinstance(found[5], torch.OutOfMemoryError)
    for i in fine:
        check(found[i], answers[i], longer[i])
    assert (engine.stats.failed, engine.stats.rebuilt) == (1, 1) and steps[1] == 1


def test_a_failure_that_no_request_causes_alone_halves_the_rows(answerer, requests, expected) -> None:
    together: list[int] = []

    def before(inner: AnswerEngine) -> None:
        together.append(inner.stats.running + inner.stats.waiting)
        if inner.stats.running > 3:
            raise MemoryError

    engine = hooked(answerer, before)

    async def go() -> list[list[Delta]]:
        found = await asyncio.gather(*(whole(engine, request) for request in requests))
        await engine.drain()
        return found

    for deltas, answer, request in zip(run(go), expected, requests, strict=True):
        check(deltas, answer, request)
    assert engine.stats.failed == 0 and 2 <= engine.stats.rebuilt <= 8
    assert engine._allowed == 16, "as many as before, once it was idle"


def test_a_thread_that_hangs_shows_in_its_stats(answerer, requests) -> None:
    now, hang, go_on = 0.0, threading.Event(), threading.Event()

    def before(inner: AnswerEngine) -> None:
        hang.set()
        assert go_on.wait(30)

    engine = BuiltinEngine(
        answerer,
        lambda rows: Hooked(answerer.engine(rows), before),  # type: ignore[arg-type, return-value]
        4,
        clock=lambda: now,
    )

    async def go() -> None:
        nonlocal now
        assert engine.stats.stalled_s == 0
        asking = asyncio.create_task(whole(engine, requests[0]))
        await asyncio.to_thread(hang.wait, 30)
        now = 90.0
        assert (engine.stats.stalled_s, engine.stats.steps) == (90.0, 0)
        go_on.set()
        await asking
        await engine.drain()
        assert engine.stats.stalled_s == 0 < engine.stats.steps

    run(go)


def test_draining_answers_what_there_is_and_takes_no_more(answerer, requests, expected) -> None:
    engine = BuiltinEngine.of(answerer, 1 << 24)

    async def go() -> tuple[list[Delta], Any]:
        asking = asyncio.create_task(whole(engine, requests[3]))
        await asyncio.sleep(0)
        draining = asyncio.create_task(engine.drain())
        await asyncio.sleep(0)
        (late,) = await asyncio.gather(whole(engine, requests[1]), return_exceptions=True)
        await draining
        return await asking, late

    found, late = run(go)
    check(found, expected[3], requests[3])
    assert isinstance(late, Draining)


def test_logprobs_are_of_the_models_own_distribution(answerer, requests) -> None:
    """Against a pass over prompt and answer in double precision, whatever bias, penalty or temperature."""
    engine = BuiltinEngine.of(answerer, 1 << 24)
    double = answerer.model.llm.__class__(answerer.model.llm.config).double().eval()
    double.load_state_dict({name: p.double() for name, p in answerer.model.llm.state_dict().items()}, strict=False)

    async def go() -> list[list[Delta]]:
        return await asyncio.gather(*(whole(engine, replace(one, top_logprobs=3)) for one in requests))

    texts = 0
    for request, deltas in zip(requests, run(go), strict=True):
        prompt: Any = request.conversation
        tokens = [token for delta in deltas for token in delta.tokens]
        if prompt.pictures:
            continue
        texts += 1
        with torch.no_grad():
            logits = double(input_ids=torch.tensor([[*prompt.ids, *tokens[:-1]]])).logits[0, len(prompt.ids) - 1 :]
        reference = logits.log_softmax(-1)
        chosen = [each for delta in deltas for each in delta.logprobs]
        assert len(chosen) == len(tokens) - (tokens[-1] == answerer.stop_id)
        for one, token, row in zip(chosen, tokens, reference, strict=False):
            assert one.token.token == token and one.token.text == str(token)
            assert one.token.logprob == pytest.approx(float(row[token]), abs=1e-4)
            best = row.topk(3)
            assert [each.logprob for each in one.best] == pytest.approx(best.values.tolist(), abs=1e-4)
            assert [each.token for each in one.best] == best.indices.tolist()
    assert texts >= 3
