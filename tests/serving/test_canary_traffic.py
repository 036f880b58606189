"""Two versions side by side in one process: what runs in the shadow is compared, and the client never notices it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from remora.errors import StoreError, TooLong
from remora.inference import Answerer
from remora.serving.args import Limits
from remora.serving.canary.args import CanaryArgs
from remora.serving.canary.course import CanaryState, Course
from remora.serving.canary.observed import Comparison
from remora.serving.canary.traffic import CanaryTraffic, Side, Which
from remora.serving.champion import ModelFacts, ServedModel
from remora.serving.completion import engine_requests
from remora.serving.engines.builtin import BuiltinEngine
from remora.serving.engines.protocol import Delta, ModelFailure, ServingEngine
from remora.serving.openai_api import ChatRequest, read_request
from support.serving_fake import data_url
from support.small_answerers import answerer_of, pictures

LIMITS = Limits()
PLAN = CanaryArgs(model="better", shadow=1, patience_s=30)


@pytest.fixture(scope="module")
def answerers(tiny_tokenizer: Any) -> tuple[Answerer, Answerer]:
    return answerer_of("smollm2-135m", tiny_tokenizer), answerer_of("qwen2-0.5b", tiny_tokenizer)


class Listening:
    """A judge that keeps what it is given; it fails while `broken`."""

    def __init__(self) -> None:
        self.got: list[Comparison] = []
        self.broken = False

    async def record(self, comparisons: Sequence[Comparison]) -> CanaryState:
        if self.broken:
            raise StoreError("the disk is full")
        self.got += comparisons
        return Course(PLAN).state()


def facts_of(answerer: Answerer, version: str) -> Callable[[], ModelFacts]:
    facts = ServedModel(answerer, version).facts
    return lambda: facts


def traffic(
    answerers: tuple[Answerer, Answerer], stable: Any, candidate: Any, plan: CanaryArgs = PLAN, **options: Any
) -> tuple[CanaryTraffic, Listening]:
    judge = Listening()
    sides = Side(stable, facts_of(answerers[0], "3")), Side(candidate, facts_of(answerers[1], "4"))
    return CanaryTraffic(plan, *sides, judge, Course(plan).state(), LIMITS, **options), judge


def asked(i: int = 0, **settings: Any) -> ChatRequest:
    content: list[dict[str, Any]] = [{"type": "text", "text": f"What is this? Is it {i}?"}]
    if i % 2:
        content.append({"type": "image_url", "image_url": {"url": data_url(pictures(3)[i % 3])}})
    said = {"messages": [{"role": "user", "content": content}], "max_tokens": 8, **settings}
    return read_request(json.dumps(said).encode(), ("remora",))


async def answer(canary: CanaryTraffic, request: ChatRequest, which: Which = "stable") -> str:
    """A client's answer, as the route streams it."""
    side = canary.sides[which]
    one = engine_requests(request, LIMITS, side.facts())[0]
    async with aclosing(canary.watched(which, request, one, side.engine.submit(one))) as deltas:
        return "".join([delta.text async for delta in deltas])


async def alone(engine: ServingEngine, request: ChatRequest, facts: ModelFacts) -> str:
    one = engine_requests(request, LIMITS, facts)[0]
    return "".join([delta.text async for delta in engine.submit(one)])


def run(work: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), 60))


class Scripted:
    """An engine that does what it is told for each request; it counts those in work and those that were cancelled."""

    def __init__(self, act: Callable[[], AsyncGenerator[Delta, None]]) -> None:
        self.act = act
        self.open = self.cancelled = 0

    async def submit(self, request: Any) -> AsyncGenerator[Delta, None]:
        self.open += 1
        try:
            async with aclosing(self.act()) as deltas:
                async for delta in deltas:
                    yield delta
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.open -= 1


async def says() -> AsyncGenerator[Delta, None]:
    yield Delta("Ye", (1,))
    yield Delta("s", (2,))
    yield Delta("", (0,), (), "stop")


async def begins() -> AsyncGenerator[Delta, None]:
    yield Delta("Ye", (1,))
    await asyncio.Event().wait()


async def hangs() -> AsyncGenerator[Delta, None]:
    await asyncio.Event().wait()
    yield Delta("", (0,), (), "stop")


async def fails() -> AsyncGenerator[Delta, None]:
    yield Delta("Ye", (1,))
    raise ModelFailure("KeyError")


async def is_short() -> AsyncGenerator[Delta, None]:
    raise TooLong(600, 1, 512)
    yield Delta("", ())


@pytest.mark.parametrize("which", ["stable", "candidate"])
def test_both_versions_answer_and_the_client_gets_its_own(answerers: Any, which: Which) -> None:
    engines = [BuiltinEngine.of(answerer, 1 << 24) for answerer in answerers]
    canary, judge = traffic(answerers, *engines)

    async def go() -> None:
        requests = [asked(i, **({"temperature": 0.5} if i % 3 else {})) for i in range(4)]
        own = canary.sides[which]
        expected = [
            await alone(own.engine, request, own.facts()) for request in requests if request.temperature is None
        ]
        found = [await answer(canary, request, which) for request in requests]
        assert [text for text, request in zip(found, requests, strict=True) if request.temperature is None] == expected
        await canary.idle()
        for engine in engines:
            await engine.drain()

    run(go)
    assert [one.answered for one in judge.got] == [which] * 4 and canary.counts.compared == 4
    for one in judge.got:
        for side in (one.stable, one.candidate):
            assert side.error is None and side.finish_reason in ("stop", "length") and 0 < side.tokens <= 8
            assert side.first_token_s is not None and side.first_token_s > 0
    assert len({one.id for one in judge.got}) == 4


def test_one_model_agrees_with_itself_also_where_it_draws(answerers: Any) -> None:
    """The seed that one version got by chance is the other one's, too."""
    engine = BuiltinEngine.of(answerers[0], 1 << 24)
    canary, judge = traffic((answerers[0], answerers[0]), engine, engine)

    async def go() -> None:
        await asyncio.gather(*(answer(canary, asked(i, temperature=0.5)) for i in range(4)))
        await canary.idle()
        await engine.drain()

    run(go)
    assert [(one.same, one.overlap) for one in judge.got] == [(True, 1.0)] * 4
    assert [one.stable.tokens for one in judge.got] == [one.candidate.tokens for one in judge.got]


def test_what_hangs_in_the_shadow_holds_nobody_up(answerers: Any) -> None:
    """Ten clients at a candidate that never answers: two of them are compared, and it has failed those."""
    stable, candidate = Scripted(says), Scripted(hangs)
    canary, judge = traffic(answerers, stable, candidate, PLAN.model_copy(update={"in_flight": 2, "patience_s": 0.2}))

    async def go() -> None:
        found = await asyncio.gather(*(answer(canary, asked(i)) for i in range(0, 20, 2)))
        assert found == ["Yes"] * 10 and candidate.open <= 2 and not judge.got
        await canary.idle()

    run(go)
    assert canary.counts.dropped == 8 == sum(one.dropped for one in judge.got)
    assert [(one.stable.error, one.candidate.error) for one in judge.got] == [(None, "TimeoutError")] * 2
    assert candidate.open == 0 and candidate.cancelled == 2


@pytest.mark.parametrize(("act", "error"), [(fails, "KeyError"), (is_short, "TooLong")])
def test_what_fails_in_the_shadow_is_a_figure(answerers: Any, act: Any, error: str) -> None:
    canary, judge = traffic(answerers, Scripted(says), Scripted(act))

    async def go() -> None:
        assert await answer(canary, asked()) == "Yes"
        await canary.idle()

    run(go)
    (one,) = judge.got
    assert (one.stable.error, one.candidate.error, one.same) == (None, error, False)
    assert one.stable.tokens == 3 and one.candidate.tokens == 0


def test_what_the_client_itself_broke_is_not_compared(answerers: Any) -> None:
    canary, judge = traffic(answerers, Scripted(is_short), Scripted(says))

    async def go() -> None:
        with pytest.raises(TooLong):
            await answer(canary, asked())
        await canary.idle()
        canary.sides["stable"] = Side(Scripted(fails), canary.sides["stable"].facts)  # type: ignore[arg-type]
        with pytest.raises(ModelFailure):
            await answer(canary, asked())
        await canary.idle()

    run(go)
    assert [(one.stable.error, one.candidate.error) for one in judge.got] == [("KeyError", None)]


def test_a_client_that_goes_takes_its_shadow_along(answerers: Any) -> None:
    candidate = Scripted(hangs)
    canary, judge = traffic(answerers, Scripted(begins), candidate)

    async def go() -> None:
        side, request = canary.sides["stable"], asked()
        one = engine_requests(request, LIMITS, side.facts())[0]
        deltas = canary.watched("stable", request, one, side.engine.submit(one))
        await anext(deltas)
        while not candidate.open:
            await asyncio.sleep(0.01)
        await deltas.aclose()
        await canary.idle()

    run(go)
    assert candidate.open == 0 and canary.counts.dropped == 1 and not judge.got


def test_a_slow_reader_does_not_make_its_version_look_slow(answerers: Any) -> None:
    now = [0.0]

    async def ticks() -> AsyncGenerator[Delta, None]:
        for i in range(5):
            now[0] += 1
            yield Delta("a", (i,), (), "stop" if i == 4 else None)

    canary, judge = traffic(answerers, Scripted(ticks), Scripted(says), clock=lambda: now[0])

    async def go() -> None:
        side, request = canary.sides["stable"], asked()
        one = engine_requests(request, LIMITS, side.facts())[0]
        async for _ in canary.watched("stable", request, one, side.engine.submit(one)):
            await asyncio.sleep(0.05)
            now[0] += 100
        await canary.idle()

    run(go)
    assert judge.got[0].stable.token_s == 1.0 and judge.got[0].stable.tokens == 5


def test_comparisons_wait_for_a_judge_that_does_not_answer(answerers: Any) -> None:
    canary, judge = traffic(answerers, Scripted(says), Scripted(says))

    async def go() -> None:
        judge.broken = True
        for i in range(0, 8, 2):
            assert await answer(canary, asked(i)) == "Yes"
        await canary.idle()
        assert not judge.got
        judge.broken = False
        await canary.refresh()

    run(go)
    assert len(judge.got) == 4 and canary.counts.compared == 4


def test_a_share_of_the_clients_and_of_the_requests(answerers: Any) -> None:
    draws = iter([0.1, 0.9, 0.5, 0.2])
    plan = PLAN.model_copy(update={"shadow": 0.3})
    canary, judge = traffic(answerers, Scripted(says), Scripted(says), plan, draw=lambda: next(draws))

    async def go() -> None:
        for i in range(0, 8, 2):
            await answer(canary, asked(i))
        await canary.idle()
        canary.state = CanaryState("share", 0.25)
        at = {str(i): canary.answers(str(i)) for i in range(400)}
        assert 60 < sum(which == "candidate" for which in at.values()) < 140
        canary.state = CanaryState("share", 0.5)
        assert all(canary.answers(i) == "candidate" for i, which in at.items() if which == "candidate")
        canary.state = CanaryState("rolled back", 0.0)
        assert {canary.answers(str(i)) for i in range(400)} == {"stable"}
        assert await answer(canary, asked()) == "Yes" and not canary.counts.dropped
        await canary.idle()

    run(go)
    assert len(judge.got) == 2
