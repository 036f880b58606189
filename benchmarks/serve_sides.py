"""What benchmarks/serve.py compares: each answers questions, in CPU seconds of its processes.

`generate` asks transformers one question at a time. The others are engines that clients ask in one event loop: the
builtin one, vLLM behind our encoder and connector, and transformers' continuous batching, which takes token ids alone
(transformers 5.23), so here pictures have ids behind the vocabulary, which a table in the model's place looks up.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import ContinuousBatchingConfig, GenerationConfig

from remora.inference import Answerer, Prompt, Request
from remora.reading.images import preprocess
from remora.serving.engines.builtin import BuiltinEngine
from remora.serving.engines.protocol import Delta
from remora.serving.engines.vllm import VllmServing
from remora.token_ids import IMAGE

CACHE = 1 << 30
"""Bytes of keys and values, of each engine."""
PAGE = 32


@dataclass
class Measured:
    """CPU seconds of a run, and of its parts."""

    tokens: int = 0
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    answers: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    def row(self, side: str, clients: int, base: Measured) -> str:
        common = base.answers.keys() & self.answers.keys()
        equal = sum(self.answers[i] == base.answers[i] for i in common)
        shown = [*(f"{at(each, p):.3f}" for each in (self.first, self.gaps) for p in (0.5, 0.95))]
        return (
            f"| {side} | {clients} | {self.rate:.1f} | {self.rate / base.rate:.2f} | {' | '.join(shown)} "
            f"| {max(self.gaps):.3f} | {equal} of {len(common)} |"
        )


def at(values: list[float], part: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(part * 100) - 1] if len(values) > 1 else 0.0


class Side(Protocol):
    """An engine that is compared."""

    def submit(self, request: Request) -> AsyncGenerator[Delta, None]: ...

    async def drain(self) -> None: ...


def read_prompt(request: Request) -> Prompt:
    assert isinstance(request.conversation, Prompt)
    return request.conversation


@torch.inference_mode()
def one_at_a_time(model: Answerer, asked: list[Request]) -> Measured:
    """transformers' `generate`, each picture encoded for its question."""
    found, clock = Measured(), time.process_time
    began = clock()

    class Listener:
        """Sees every token as it comes."""

        def __init__(self) -> None:
            self.last = clock()
            self.first, self.prompt = True, True

        def put(self, tokens: Tensor) -> None:
            if self.prompt:  # which comes first
                self.prompt = False
                return
            (found.first if self.first else found.gaps).append(clock() - self.last)
            self.last, self.first = clock(), False

        def end(self) -> None: ...

    llm = model.model.llm
    llm.generation_config.pad_token_id = 0
    for i, request in enumerate(asked):
        listener, prompt = Listener(), read_prompt(request)
        pixels = torch.stack([preprocess(each.image, model.encoder) for each in prompt.pictures])
        inputs = model.model.embed(torch.tensor([prompt.ids]), pixels)
        said = llm.generate(
            inputs_embeds=inputs,
            max_new_tokens=request.max_new_tokens,
            min_new_tokens=request.max_new_tokens,
            do_sample=False,
            streamer=listener,
        )
        found.answers[i] = tuple(said[0].tolist()[-request.max_new_tokens :])
        found.tokens += request.max_new_tokens
    found.seconds = clock() - began
    return found


def together(
    asked: list[Request], warm: list[Request], clients: int, make: Callable[[], Side], clock: Callable[[], float]
) -> Measured:
    """An engine, with so many clients that each ask the next question when they have an answer."""
    found, waiting = Measured(), list(enumerate(asked))[::-1]

    async def client(engine: Side) -> None:
        while waiting:
            number, request = waiting.pop()
            last, first, tokens = clock(), True, list[int]()
            async for delta in engine.submit(request):
                (found.first if first else found.gaps).append(clock() - last)
                last, first = clock(), False
                tokens += delta.tokens
            found.answers[number] = tuple(tokens)
            found.tokens += len(tokens)

    async def run() -> None:
        engine = make()
        for request in warm:
            async for _ in engine.submit(request):
                pass
        began = clock()
        await asyncio.gather(*(client(engine) for _ in range(clients)))
        found.seconds = clock() - began
        await engine.drain()

    asyncio.run(run())
    return found


def builtin(model: Answerer, asked: list[Request], warm: list[Request], clients: int, **options: int) -> Measured:
    """Our own engine."""
    return together(asked, warm, clients, lambda: BuiltinEngine.of(model, CACHE, **options), time.process_time)


def vllm(model: Answerer, llm: Path, asked: list[Request], warm: list[Request], clients: int) -> Measured:
    """vLLM behind our encoder and connector; its process's seconds and this one's together."""
    with tempfile.TemporaryDirectory() as folder:
        engine = VllmServing.of(model, llm, CACHE, log=Path(folder) / "vllm.log")
        there = Path(f"/proc/{engine.process.pid}/stat")
        tick, last = os.sysconf("SC_CLK_TCK"), [0.0]

        def clock() -> float:
            if engine.process.running:
                fields = there.read_text().rpartition(")")[2].split()
                last[0] = (int(fields[11]) + int(fields[12])) / tick
            return time.process_time() + last[0]

        return together(asked, warm, clients, lambda: engine, clock)


class PictureTable(nn.Module):
    """Word embeddings, and those of pictures under ids behind the vocabulary: equal pixels have equal ids."""

    def __init__(self, words: nn.Module, model: Answerer) -> None:
        super().__init__()
        self.words, self._model, self._first = words, model, model.vocabulary
        self._of: dict[bytes, int] = {}
        self._rows: list[Tensor] = []

    def ids(self, prompt: Prompt) -> list[int]:
        """A prompt's ids; its pictures are encoded if they are new."""
        each, places = len(prompt.places) // max(1, len(prompt.pictures)), iter(range(len(prompt.places)))
        starts = []
        for picture in prompt.pictures:
            if picture.digest not in self._of:
                self._of[picture.digest] = self._first + sum(map(len, self._rows))
                self._rows.append(self._model.embeddings([picture])[0])
            starts.append(self._of[picture.digest])
        return [starts[(n := next(places)) // each] + n % each if token == IMAGE else token for token in prompt.ids]

    def forward(self, ids: Tensor) -> Tensor:
        found = self.words(ids.clamp(max=self._first - 1))
        shown = ids >= self._first
        if bool(shown.any()):
            found[shown] = torch.cat(self._rows)[ids[shown] - self._first]
        return found


class TransformersSide:
    """transformers' ContinuousBatchingManager, whose thread generates; its answers as deltas."""

    def __init__(self, model: Answerer, clients: int) -> None:
        llm = model.model.llm
        self._llm, self._words = llm, llm.get_input_embeddings()
        self._attention = llm.config._attn_implementation
        llm.set_attn_implementation("sdpa")
        self._table = PictureTable(self._words, model)
        llm.set_input_embeddings(self._table)
        greedy = GenerationConfig(max_new_tokens=128, do_sample=False, eos_token_id=-1, pad_token_id=0)
        paged = ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=CACHE // (model.token_bytes * PAGE),
            max_batch_tokens=512,
            max_requests_per_batch=clients,
        )
        self._manager = llm.init_continuous_batching(generation_config=greedy, continuous_batching_config=paged)
        self._manager.start()
        self._added = 0

    async def submit(self, request: Request) -> AsyncGenerator[Delta, None]:
        came: asyncio.Queue[list[int]] = asyncio.Queue()
        name, told = f"r{self._added}", 0
        self._added += 1
        self._manager.register_result_handler(name, lambda output: came.put_nowait(list(output.generated_tokens)))
        ids = self._table.ids(read_prompt(request))
        self._manager.add_request(ids, name, max_new_tokens=request.max_new_tokens, streaming=True)
        while told < request.max_new_tokens:
            tokens = await came.get()
            if len(tokens) > told:
                yield Delta("", tuple(tokens[told:]))
                told = len(tokens)

    async def drain(self) -> None:
        await asyncio.to_thread(self._manager.stop, block=True, timeout=30)
        self._llm.set_input_embeddings(self._words)
        self._llm.set_attn_implementation(self._attention)


def transformers(model: Answerer, asked: list[Request], warm: list[Request], clients: int) -> Measured:
    """transformers' continuous batching."""
    return together(asked, warm, clients, lambda: TransformersSide(model, clients), time.process_time)
