"""The engine whose language model runs in vLLM: the answers at batch size 1, whoever leaves, whatever dies.

Each test runs with vLLM, by the Python of `make vllm` or the one that REMORA_VLLM_PYTHON names (skipped where there is
none), and with a stand-in for its process, which is quick.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from remora.errors import DataError, ServingError
from remora.inference import Answerer, Request
from remora.inference.sampling import NEAR
from remora.inference.text import GrowingText
from remora.inference.vllm.process import PYTHON, vllm_python
from remora.serving.engines.protocol import Delta, Draining
from remora.serving.engines.vllm import VllmServing
from support.small_answerers import conversations, requests_of
from support.vllm_small import answerer_for_vllm, llm_for_vllm, python_or_skip, standin

TOLD = 0.02
"""How far two engines' log probabilities may be apart, of logits up to 20."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module", params=["standin", pytest.param("vllm", marks=pytest.mark.slow)])
def python(request, folder) -> Path:
    return standin(folder) if request.param == "standin" else python_or_skip()


@pytest.fixture(scope="module")
def answerer(folder, tiny_tokenizer) -> Answerer:
    return answerer_for_vllm(tiny_tokenizer, folder / "llm")


@pytest.fixture(scope="module")
def requests(answerer) -> list[Request]:
    asked = requests_of("smollm2-135m")
    return [replace(one, conversation=answerer.prompt(one.conversation)) for one in asked]


@pytest.fixture(scope="module")
def expected(answerer, requests) -> list[Any]:
    return [answerer.answer_alone(request) for request in requests]


@pytest.fixture(scope="module")
def engine(answerer, folder, python) -> Iterator[VllmServing]:
    made = VllmServing.of(answerer, folder / "llm", 1 << 26, python, folder / "vllm.log")
    yield made
    asyncio.run(made.drain())
    assert not made.process.running
    with pytest.raises(Draining):
        run(lambda: whole(made, Request(answerer.prompt(conversations()[1]), 2)))


async def whole(engine: VllmServing, request: Request) -> list[Delta]:
    return [delta async for delta in engine.submit(request)]


def run(work: Callable[[], Any], seconds: float = 240) -> Any:
    return asyncio.run(asyncio.wait_for(work(), seconds))


def together(engine: VllmServing, asked: list[Request]) -> list[list[Delta]]:
    async def go() -> list[list[Delta]]:
        return await asyncio.gather(*(whole(engine, request) for request in asked))

    return run(go)


def check(deltas: list[Delta], answer: Any, request: Request) -> None:
    assert "".join(delta.text for delta in deltas) == answer.text
    assert sum(len(delta.tokens) for delta in deltas) == answer.completion_tokens - len(request.said)
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + [answer.finish_reason]
    assert {(delta.prompt_tokens, delta.image_tokens) for delta in deltas} == {
        (answer.prompt_tokens, request.conversation.image_tokens)  # type: ignore[union-attr]
    }


def endless(answerer: Answerer, i: int = 1, tokens: int = 900) -> Request:
    return Request(answerer.prompt(conversations()[i]), tokens, logit_bias=((answerer.stop_id, -100.0),))


@pytest.mark.slow
def test_streams_are_the_answers_at_batch_size_1(engine, requests, expected) -> None:
    """Greedy and drawn, with limits, penalties, biases and stop texts."""
    before = engine.stats.load
    for deltas, answer, request in zip(together(engine, requests), expected, requests, strict=True):
        check(deltas, answer, request)
    load = engine.stats.load
    said = load.answer_tokens - before.answer_tokens
    assert said == sum(answer.completion_tokens for answer in expected)
    assert (load.running, load.waiting, engine.stats.failed, engine.stats.rebuilt) == (0, 0, 0, 0)


def test_an_answer_goes_on_behind_what_was_said(engine, answerer, requests, expected) -> None:
    tokens = [tuple(token for delta in deltas for token in delta.tokens) for deltas in together(engine, requests)]
    kept = [replace(one, said=said[: len(said) // 2]) for one, said in zip(requests, tokens, strict=True)]
    for request, all_of_it, deltas, answer in zip(kept, tokens, together(engine, kept), expected, strict=True):
        assert request.said + tuple(token for delta in deltas for token in delta.tokens) == all_of_it
        had = GrowingText(answerer.detokenizer, request.stop)
        for token in request.said:
            had.add(token)
        assert had.released + "".join(delta.text for delta in deltas) == answer.text
    with pytest.raises(DataError, match="cannot go on behind"):
        run(lambda: whole(engine, replace(requests[0], said=(3,) * requests[0].max_new_tokens)))


def test_log_probabilities_are_the_models_own(engine, answerer) -> None:
    asked = [
        replace(endless(answerer, i, 5), top_logprobs=i, temperature=0.3 * (i % 2), frequency_penalty=0.5)
        for i in range(5)
    ]
    for request, deltas in zip(asked, together(engine, asked), strict=True):
        ours = answerer.engine()
        ours.add(request)
        expected = [event.logprobs for _ in range(5) for event in ours.step()]
        found = [chosen for delta in deltas for chosen in delta.logprobs]
        assert len(found) == len(expected) == 5
        for chosen, own in zip(found, expected, strict=True):
            assert own is not None and chosen.token.logprob == pytest.approx(own.token, abs=TOLD)
            assert len(chosen.best) == request.top_logprobs
            assert [each.logprob for each in chosen.best] == pytest.approx([one for _, one in own.best], abs=TOLD)


def test_a_client_that_goes_is_cancelled(engine, answerer, requests, expected) -> None:
    before = engine.stats.load.answer_tokens

    async def go() -> list[Delta]:
        long = engine.submit(endless(answerer))
        await anext(long)
        other = asyncio.create_task(whole(engine, requests[1]))
        await long.aclose()
        return await other

    check(run(go), expected[1], requests[1])
    run(lambda: whole(engine, requests[2]))  # by then the thread has taken it out
    assert engine.stats.load.running == 0
    assert engine.stats.load.answer_tokens - before < 700, "of 900 and a few"


@pytest.mark.slow
def test_near_ties_are_decided_at_batch_size_1(folder, python, answerer, requests, expected, monkeypatch) -> None:
    """With a wide rule, so that there are many; log probabilities come along."""
    monkeypatch.setitem(NEAR, torch.float32, 0.05)
    engine = VllmServing.of(answerer, folder / "llm", 1 << 26, python, folder / "ties.log")
    try:
        asked = [*requests, *(replace(one, top_logprobs=1) for one in requests[:8])]
        for deltas, answer, request in zip(together(engine, asked), [*expected, *expected[:8]], asked, strict=True):
            check(deltas, answer, request)
            if request.top_logprobs:
                spoken = [token for delta in deltas for token in delta.tokens if token != answerer.stop_id]
                assert [one.token.token for delta in deltas for one in delta.logprobs] == spoken
        assert engine.stats.load.near_ties > 10
    finally:
        run(engine.drain)


@pytest.mark.slow
def test_a_process_that_dies_costs_no_request(engine, answerer, requests, expected) -> None:
    async def go() -> tuple[list[list[Delta]], list[Delta]]:
        long = engine.submit(endless(answerer, 2, 60))
        first = [await anext(long)]
        others = [asyncio.create_task(whole(engine, request)) for request in requests[:8]]
        os.kill(engine.process.pid, signal.SIGKILL)
        return await asyncio.gather(*others), first + [delta async for delta in long]

    rebuilt = engine.stats.rebuilt
    found, long = run(go)
    for deltas, answer, request in zip(found, expected, requests, strict=False):
        check(deltas, answer, request)
    check(long, answerer.answer_alone(endless(answerer, 2, 60)), endless(answerer, 2, 60))
    assert engine.stats.rebuilt > rebuilt and engine.stats.failed == 0


@pytest.mark.slow
def test_another_model_is_refused(folder, python, answerer) -> None:
    llm = llm_for_vllm()
    with torch.no_grad():
        llm.get_input_embeddings().weight.mul_(1.5)
    llm.save_pretrained(folder / "other")
    with pytest.raises(ServingError, match=r"is not ours: log probabilities differ by .*engine: builtin"):
        VllmServing.of(answerer, folder / "other", 1 << 26, python, folder / "other.log")


@pytest.mark.slow
def test_a_model_that_vllm_does_not_know_is_refused_in_one_line(folder, python, answerer) -> None:
    llm_for_vllm().save_pretrained(folder / "unknown")
    config = folder / "unknown" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "none", "architectures": ["NoneLM"]}))
    with pytest.raises(ServingError, match=r"^vLLM cannot run .*engine: builtin$") as told:
        VllmServing.of(answerer, folder / "unknown", 1 << 26, python, folder / "unknown.log")
    assert "\n" not in str(told.value) and len(str(told.value)) < 700


@pytest.mark.slow
def test_a_cache_too_small_for_the_context_is_refused(folder, answerer) -> None:
    with pytest.raises(ServingError, match=r"^vLLM cannot run .*cache"):
        VllmServing.of(answerer, folder / "llm", 1 << 20, python_or_skip(), folder / "small.log")


@pytest.mark.slow
def test_a_request_that_the_process_refuses_fails_alone(folder, answerer, requests, expected) -> None:
    """The stand-in refuses answers of 13 tokens."""
    engine = VllmServing.of(answerer, folder / "llm", 1 << 26, standin(folder), folder / "refuses.log")

    async def go() -> list[Any]:
        asked = [*requests[:4], endless(answerer, 1, 13), *requests[4:8]]
        return await asyncio.gather(*(whole(engine, request) for request in asked), return_exceptions=True)

    *first, refused, _, _, _, _ = found = run(go)
    assert len(first) == 4 and "thirteen" in str(refused)
    for deltas, answer, request in zip([*found[:4], *found[5:]], expected, requests, strict=False):
        check(deltas, answer, request)
    assert engine.stats.failed == 1
    run(engine.drain)


@pytest.mark.slow
def test_the_process_ends_with_whoever_asked(folder, python, answerer) -> None:
    made = VllmServing.of(answerer, folder / "llm", 1 << 26, python, folder / "left.log")
    made.process._peer.shutdown(socket.SHUT_WR)  # as it is when this process is killed
    assert made.process._child.wait(20) == 0


@pytest.mark.slow
def test_a_process_that_cannot_start_again_fails_its_requests(folder, answerer, requests) -> None:
    python = standin(folder)
    engine = VllmServing.of(answerer, folder / "llm", 1 << 26, python, folder / "gone.log")
    python.write_text("#!/bin/sh\necho no such library >&2; exit 3\n")
    os.kill(engine.process.pid, signal.SIGKILL)
    with pytest.raises(ServingError, match="no such library"):
        run(lambda: whole(engine, requests[0]))


def test_where_there_is_no_vllm_the_line_says_what_to_do(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(PYTHON, raising=False)
    line = r"^engine vllm: vllm is not installed for .*; next: make vllm, or pip install 'remora\[vllm\]' .*bin/python$"
    with pytest.raises(ServingError, match=line):
        vllm_python()
    with pytest.raises(ServingError, match=line):
        vllm_python(Path(sys.executable))
    monkeypatch.setenv(PYTHON, str(tmp_path / "none"))
    with pytest.raises(ServingError, match=r"none does not start \(No such file or directory\); next: make vllm"):
        vllm_python()
