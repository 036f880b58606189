"""Two versions side by side in one process: what runs in the shadow is compared, and the client never notices it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import pytest

from remora.errors import StoreError, TooLong
from remora.inference import Answerer
from remora.serving.args import Limits
from remora.serving.canary.args import CanaryArgs
from remora.serving.canary.course import CanaryState, Course
from remora.serving.canary.observed import Comparison
from remora.serving.canary.traffic import CanaryTraffic
from remora.serving.champion import ServedModel
from remora.serving.completion import engine_requests
from remora.serving.engines.builtin import BuiltinEngine
from remora.serving.engines.protocol import Delta, ModelFailure
from remora.serving.openai_api import ChatRequest, read_request
from remora.serving.versions import ModelVersions, RunningVersion, TrialVersion, VersionChoice
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


class ByVersion:
    """Version 3 is the first engine's, version 4 the second one's."""

    def __init__(self, stable: Any, candidate: Any) -> None:
        self.of = {"3": stable, "4": candidate}

    def submit(self, request: Any) -> AsyncGenerator[Delta, None]:
        return self.of[request.version].submit(request)


@dataclass
class Beside:
    """Two versions of a model, and an ingress replica's part of their canary."""

    canary: CanaryTraffic
    judge: Listening
    model: ModelVersions
    engines: dict[str, Any]

    def choice(self, which: str) -> VersionChoice:
        trial = self.model.trial
        assert trial is not None
        both = self.model.stable, trial.running
        return VersionChoice(self.model, *(both if which == "stable" else both[::-1]))

    async def answer(self, request: ChatRequest, which: str = "stable") -> str:
        """A client's answer, as the route streams it."""
        async with aclosing(self.stream(request, which)) as deltas:
            return "".join([delta.text async for delta in deltas])

    def stream(self, request: ChatRequest, which: str = "stable") -> AsyncGenerator[Delta, None]:
        choice = self.choice(which)
        one = engine_requests(request, LIMITS, choice.version.facts)[0]
        return self.canary.watched(choice, request, one, self.canary.engine.submit(one))


def beside(answerers: Any, stable: Any, candidate: Any, plan: CanaryArgs = PLAN, **options: Any) -> Beside:
    judge, engine = Listening(), ByVersion(stable, candidate)
    first, second = (ServedModel(answerer, version).facts for answerer, version in zip(answerers, "34", strict=True))
    trial = TrialVersion(RunningVersion(second, "b"), 0.5)
    model = ModelVersions("remora", "champion", RunningVersion(first, "a"), trial)
    return Beside(CanaryTraffic(plan, engine, judge, LIMITS, **options), judge, model, engine.of)  # type: ignore[arg-type]


def asked(i: int = 0, **settings: Any) -> ChatRequest:
    content: list[dict[str, Any]] = [{"type": "text", "text": f"What is this? Is it {i}?"}]
    if i % 2:
        content.append({"type": "image_url", "image_url": {"url": data_url(pictures(3)[i % 3])}})
    said = {"messages": [{"role": "user", "content": content}], "max_tokens": 8, **settings}
    return read_request(json.dumps(said).encode(), ("remora",))


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
def test_both_versions_answer_and_the_client_gets_its_own(answerers: Any, which: str) -> None:
    engines = [BuiltinEngine.of(answerer, 1 << 24) for answerer in answerers]
    both = beside(answerers, *engines)

    async def go() -> None:
        requests = [asked(i, **({"temperature": 0.5} if i % 3 else {})) for i in range(4)]
        greedy = [i for i, request in enumerate(requests) if request.temperature is None]
        own = both.choice(which).version
        expected = [
            "".join([d.text async for d in both.engines[own.version].submit(one)])
            for one in (engine_requests(requests[i], LIMITS, own.facts)[0] for i in greedy)
        ]
        found = [await both.answer(request, which) for request in requests]
        assert [found[i] for i in greedy] == expected
        await both.canary.idle()
        for engine in engines:
            await engine.drain()

    run(go)
    assert [one.answered for one in both.judge.got] == [which] * 4 and both.canary.counts.compared == 4
    for one in both.judge.got:
        for side in (one.stable, one.candidate):
            assert side.error is None and side.finish_reason in ("stop", "length") and 0 < side.tokens <= 8
            assert side.first_token_s is not None and side.first_token_s > 0
    assert len({one.id for one in both.judge.got}) == 4


def test_one_model_agrees_with_itself_also_where_it_draws(answerers: Any) -> None:
    """The seed that one version got by chance is the other one's, too."""
    engine = BuiltinEngine.of(answerers[0], 1 << 24)
    both = beside((answerers[0], answerers[0]), engine, engine)

    async def go() -> None:
        await asyncio.gather(*(both.answer(asked(i, temperature=0.5)) for i in range(4)))
        await both.canary.idle()
        await engine.drain()

    run(go)
    assert [(one.same, one.overlap) for one in both.judge.got] == [(True, 1.0)] * 4
    assert [one.stable.tokens for one in both.judge.got] == [one.candidate.tokens for one in both.judge.got]


def test_what_hangs_in_the_shadow_holds_nobody_up(answerers: Any) -> None:
    """Ten clients at a candidate that never answers: two of them are compared, and it has failed those."""
    stable, candidate = Scripted(says), Scripted(hangs)
    both = beside(answerers, stable, candidate, PLAN.model_copy(update={"in_flight": 2, "patience_s": 0.2}))

    async def go() -> None:
        found = await asyncio.gather(*(both.answer(asked(i)) for i in range(0, 20, 2)))
        assert found == ["Yes"] * 10 and candidate.open <= 2 and not both.judge.got
        await both.canary.idle()

    run(go)
    assert both.canary.counts.dropped == 8 == sum(one.dropped for one in both.judge.got)
    assert [(one.stable.error, one.candidate.error) for one in both.judge.got] == [(None, "TimeoutError")] * 2
    assert candidate.open == 0 and candidate.cancelled == 2


@pytest.mark.parametrize(("act", "error"), [(fails, "KeyError"), (is_short, "TooLong")])
def test_what_fails_in_the_shadow_is_a_figure(answerers: Any, act: Any, error: str) -> None:
    both = beside(answerers, Scripted(says), Scripted(act))

    async def go() -> None:
        assert await both.answer(asked()) == "Yes"
        await both.canary.idle()

    run(go)
    (one,) = both.judge.got
    assert (one.stable.error, one.candidate.error, one.same) == (None, error, False)
    assert one.stable.tokens == 3 and one.candidate.tokens == 0


def test_what_the_client_itself_broke_is_not_compared(answerers: Any) -> None:
    both = beside(answerers, Scripted(is_short), Scripted(says))

    async def go() -> None:
        with pytest.raises(TooLong):
            await both.answer(asked())
        await both.canary.idle()
        both.engines["3"] = Scripted(fails)
        with pytest.raises(ModelFailure):
            await both.answer(asked())
        await both.canary.idle()

    run(go)
    assert [(one.stable.error, one.candidate.error) for one in both.judge.got] == [("KeyError", None)]


def test_a_client_that_goes_takes_its_shadow_along(answerers: Any) -> None:
    candidate = Scripted(hangs)
    both = beside(answerers, Scripted(begins), candidate)

    async def go() -> None:
        deltas = both.stream(asked())
        await anext(deltas)
        while not candidate.open:
            await asyncio.sleep(0.01)
        await deltas.aclose()
        await both.canary.idle()

    run(go)
    assert candidate.open == 0 and both.canary.counts.dropped == 1 and not both.judge.got


def test_a_slow_reader_does_not_make_its_version_look_slow(answerers: Any) -> None:
    now = [0.0]

    async def ticks() -> AsyncGenerator[Delta, None]:
        for i in range(5):
            now[0] += 1
            yield Delta("a", (i,), (), "stop" if i == 4 else None)

    both = beside(answerers, Scripted(ticks), Scripted(says), clock=lambda: now[0])

    async def go() -> None:
        async for _ in both.stream(asked()):
            await asyncio.sleep(0.05)
            now[0] += 100
        await both.canary.idle()

    run(go)
    assert both.judge.got[0].stable.token_s == 1.0 and both.judge.got[0].stable.tokens == 5


def test_comparisons_wait_for_a_judge_that_does_not_answer(answerers: Any) -> None:
    both = beside(answerers, Scripted(says), Scripted(says))

    async def go() -> None:
        both.judge.broken = True
        for i in range(0, 8, 2):
            assert await both.answer(asked(i)) == "Yes"
        await both.canary.idle()
        assert not both.judge.got
        both.judge.broken = False
        await both.canary.refresh()

    run(go)
    assert len(both.judge.got) == 4 and both.canary.counts.compared == 4


def test_a_share_of_the_requests_while_there_is_a_trial(answerers: Any) -> None:
    draws = iter([0.1, 0.9, 0.5, 0.2])
    plan = PLAN.model_copy(update={"shadow": 0.3})
    both = beside(answerers, Scripted(says), Scripted(says), plan, draw=lambda: next(draws))

    async def go() -> None:
        for i in range(4):
            await both.answer(asked(2 * i), "candidate" if i % 2 else "stable")
        await both.canary.idle()
        assert both.model.trial is not None
        both.model = replace(both.model, trial=replace(both.model.trial, share=1.0))
        assert await both.answer(asked(), "candidate") == "Yes", "it has taken over: nothing is drawn any more"

    run(go)
    assert [one.answered for one in both.judge.got] == ["stable", "candidate"] and not both.canary.counts.dropped
    assert both.canary.counts.answered == {"stable": 2, "candidate": 2}
