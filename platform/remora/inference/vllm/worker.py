"""What runs in vLLM's process, under the Python of vLLM's own environment (start.py).

Tokens are chosen by our own rule (sampling.py), so penalties, seeds and near ties are the same in both engines.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from vllm import EngineArgs, LLMEngine, RequestOutput, SamplingParams
from vllm import __version__ as VLLM
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from remora.inference.requests import Request
from remora.inference.sampling import choose
from remora.inference.vllm.wire import Asked, ToldToken, WorkerOptions, receive, send

if TYPE_CHECKING:
    from vllm.config import VllmConfig


@dataclass
class WorkerRow:
    """A request's settings and its answer so far."""

    number: int
    request: Request
    seed: int
    before: list[int]
    """Said before it came here."""
    after: list[int]
    """vLLM's own list, which grows."""

    @property
    def said(self) -> list[int]:
        return [*self.before, *self.after]

    @property
    def plain(self) -> bool:
        """Whether its tokens are the best logits'."""
        return not (self.request.adjusts or self.request.temperature)


class Chooser(LogitsProcessor):
    """Leaves each row's chosen token alone in its logits, by the same rule as the builtin engine."""

    near = 0.0
    ties: set[int] = set()  # noqa: RUF012 (of this process)
    """Requests whose last token was a near tie."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, WorkerRow] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, _, said in batch_update.added:
            asked: Asked = params.extra_args["remora"]
            self._rows[index] = WorkerRow(asked["number"], _request(asked), asked["seed"], asked["said"], said)
        for first, second, direction in batch_update.moved:
            there = self._rows.pop(second, None)
            if (here := self._rows.pop(first, None)) is not None:
                self._rows[second] = here
            if direction == MoveDirectionality.SWAP and there is not None:
                self._rows[first] = there

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        indices = [i for i in range(len(logits)) if i in self._rows and (self.near or not self._rows[i].plain)]
        if not indices:
            return logits
        rows = [self._rows[i] for i in indices]
        some = logits if len(indices) == len(logits) else logits[indices]
        tokens, ties = choose(some, rows, self.near)
        self.ties.update(row.number for row, tie in zip(rows, ties, strict=True) if tie)
        for i, row, token in zip(indices, rows, tokens, strict=True):
            if not row.plain:
                logits[i] = -torch.inf
                logits[i, token] = 0.0
        return logits


def _request(asked: Asked) -> Request:
    return Request(
        (),
        asked["max_new_tokens"],
        asked["temperature"],
        asked["top_p"],
        asked["top_k"],
        frequency_penalty=asked["frequency_penalty"],
        presence_penalty=asked["presence_penalty"],
        logit_bias=tuple((token, bias) for token, bias in asked["logit_bias"]),
    )


def _engine(options: WorkerOptions) -> LLMEngine:
    Chooser.near = options["near"]
    arguments = EngineArgs(
        model=options["model"],
        skip_tokenizer_init=True,
        dtype=options["dtype"],
        seed=0,
        max_model_len=options["max_length"],
        max_num_seqs=options["rows"],
        max_num_batched_tokens=max(options["chunk"], options["rows"]),
        kv_cache_memory_bytes=options["cache_bytes"],
        enable_prompt_embeds=True,
        enable_prefix_caching=True,
        block_size=None if torch.cuda.is_available() else 32,  # 128 by default: few prompts share as much
        enforce_eager=not torch.cuda.is_available(),  # compiling takes a minute, and a C++ compiler
        async_scheduling=False,  # a step's near ties are those of its tokens
        generation_config="vllm",
        logits_processors=[Chooser],
        max_logprobs=64,
        disable_log_stats=True,
    )
    return LLMEngine.from_engine_args(arguments)


class Worker:
    """Steps vLLM while it has requests, and tells what each step said."""

    def __init__(self, peer: socket.socket, engine: LLMEngine, dtype: torch.dtype) -> None:
        self._peer, self._engine, self._dtype = peer, engine, dtype
        self._told: dict[str, int] = {}
        """Tokens told of each request that runs."""
        self._came: queue.SimpleQueue[tuple[str, bytearray]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while (frame := receive(self._peer)) is not None:
            self._came.put(frame)
        os._exit(0)  # whoever asked is gone

    def run(self) -> None:
        while True:
            while not self._came.empty() or not self._engine.has_unfinished_requests():
                self._take(*self._came.get())
            Chooser.ties.clear()
            outputs = self._engine.step()
            said: list[ToldToken] = []
            for output in outputs:
                assert isinstance(output, RequestOutput)
                said += self._tokens(output)
            send(self._peer, {"step": said})

    def _take(self, text: str, behind: bytearray) -> None:
        asked = json.loads(text)
        if "cancel" in asked:
            gone = [str(number) for number in asked["cancel"] if str(number) in self._told]
            for name in gone:
                del self._told[name]
            self._engine.abort_request(gone)
            return
        one: Asked = asked["add"]
        embeddings = torch.frombuffer(behind, dtype=self._dtype).view(one["shape"])
        params = SamplingParams(
            temperature=0.0,
            max_tokens=one["max_new_tokens"],
            ignore_eos=True,
            stop_token_ids=[one["stop_id"]] if one["stop_id"] >= 0 else None,
            logprobs=one["top_logprobs"],
            detokenize=False,
            extra_args={"remora": one},
        )
        try:
            self._engine.add_request(str(one["number"]), {"prompt_embeds": embeddings}, params)
        except ValueError as error:
            send(self._peer, {"refused": (one["number"], _line(error))})
        else:
            self._told[str(one["number"])] = 0

    def _tokens(self, output: RequestOutput) -> list[ToldToken]:
        name = output.request_id
        if name not in self._told:
            return []
        (answer,) = output.outputs
        number, told = int(name), self._told[name]
        self._told[name] = len(answer.token_ids)
        said: list[ToldToken] = []
        for i, token in enumerate(answer.token_ids[told:], told):
            logprob, best = None, list[tuple[int, float]]()
            if answer.logprobs is not None:
                found = answer.logprobs[i]
                logprob = found[token].logprob
                ranked = sorted((one.rank or 0, each, one.logprob) for each, one in found.items())
                best = [(each, value) for _, each, value in ranked]
            tie = number in Chooser.ties
            said.append(
                ToldToken(
                    number=number,
                    token=token,
                    tie=tie,
                    cached=output.num_cached_tokens or 0,
                    logprob=logprob,
                    best=best,
                )
            )
        if output.finished:
            del self._told[name]
        return said


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]


def work(peer: socket.socket, options: WorkerOptions) -> None:
    """Load the model, say so, and answer until the other end is gone."""
    try:
        engine = _engine(options)
    except Exception as error:
        send(peer, {"failed": _line(error)})
        raise
    send(peer, {"ready": VLLM})
    Worker(peer, engine, getattr(torch, options["dtype"])).run()
