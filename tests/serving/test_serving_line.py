"""The line before the model: batches of what is there, early answers, and failures that stay with their request."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from remora.inference import Answer, Message, Request
from remora.serving.line import Line
from support.serving_fake import FakePrompt


class Model:
    """Takes a batch when it is let, and answers its rows in order."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.may_start = threading.Semaphore(0)
        self.may_finish = threading.Event()
        self.may_finish.set()

    def answer(self, requests: list[Request], done: Any) -> None:
        texts = [request.conversation.conversation[-1].text for request in requests]  # type: ignore[union-attr]
        self.batches.append(texts)
        self.may_start.acquire()
        if "bad" in texts:
            raise ValueError("bad")
        for i, text in enumerate(texts):
            if i:
                assert self.may_finish.wait(20)
            done(i, Answer(f"{text} {requests[i].seed}", 1, 1, "stop"))


def a_job(text: str, answers: int = 1) -> tuple[Request, ...]:
    prompt = FakePrompt((0,), (), (Message("user", text),))
    return tuple(Request(prompt, 8, seed=i) for i in range(answers))


async def until(true: Any) -> None:
    while not true():
        await asyncio.sleep(0.005)


def test_a_batch_is_what_came_while_the_last_one_was_answered() -> None:
    model = Model()

    async def go() -> list[str]:
        line = Line(model, 4)  # type: ignore[arg-type]
        first = asyncio.ensure_future(line.answer(a_job("a")))
        await until(lambda: model.batches)
        rest = [
            asyncio.ensure_future(line.answer(a_job(text, n))) for text, n in (("b", 1), ("c", 3), ("d", 2), ("e", 9))
        ]
        await asyncio.sleep(0)
        for _ in range(5):
            model.may_start.release()
        return [answer.text for answers in await asyncio.gather(first, *rest) for answer in answers]

    found = asyncio.run(go())
    assert found == ["a 0", "b 0", *(f"c {i}" for i in range(3)), "d 0", "d 1", *(f"e {i}" for i in range(9))]
    assert model.batches == [["a"], ["b", "c", "c", "c"], ["d", "d"], ["e"] * 9], (
        "more answers than a batch has go alone"
    )


def test_an_answer_does_not_wait_for_its_batch() -> None:
    model = Model()
    model.may_finish.clear()

    async def go() -> None:
        line = Line(model, 4)  # type: ignore[arg-type]
        first = asyncio.ensure_future(line.answer(a_job("first")))
        await until(lambda: model.batches)
        early, late = (asyncio.ensure_future(line.answer(a_job(text))) for text in ("early", "late"))
        await asyncio.sleep(0)
        model.may_start.release()
        await first
        model.may_start.release()
        await early
        assert model.batches[-1] == ["early", "late"] and not late.done()
        model.may_finish.set()
        await late

    asyncio.run(asyncio.wait_for(go(), 20))


def test_one_that_fails_does_not_spoil_its_batch() -> None:
    model = Model()

    async def go() -> list[Any]:
        line = Line(model, 4)  # type: ignore[arg-type]
        first = asyncio.ensure_future(line.answer(a_job("first")))
        await until(lambda: model.batches)
        jobs = [asyncio.ensure_future(line.answer(a_job(text))) for text in ("a", "bad", "b")]
        await asyncio.sleep(0)
        for _ in range(5):
            model.may_start.release()
        await first
        return await asyncio.gather(*jobs, return_exceptions=True)

    good, bad, fine = asyncio.run(asyncio.wait_for(go(), 20))
    assert (good[0].text, fine[0].text) == ("a 0", "b 0") and isinstance(bad, ValueError)


def test_a_client_that_goes_leaves_the_line() -> None:
    model = Model()

    async def go() -> None:
        line = Line(model, 4)  # type: ignore[arg-type]
        first = asyncio.ensure_future(line.answer(a_job("first")))
        await until(lambda: model.batches)
        gone, stays = (asyncio.ensure_future(line.answer(a_job(text))) for text in ("gone", "stays"))
        await asyncio.sleep(0)
        gone.cancel()
        for _ in range(2):
            model.may_start.release()
        await asyncio.gather(first, stays)
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(asyncio.wait_for(go(), 20))
    assert model.batches == [["first"], ["stays"]]
