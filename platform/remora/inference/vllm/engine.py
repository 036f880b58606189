"""An engine whose language model runs in vLLM, with the methods of an AnswerEngine.

A token is decided against ties as there: where vLLM's two best scores are near each other in fp32, its request is
taken back, the token is decided here at batch size 1, and the request goes on behind it. So answers are those of batch
size 1. In half precision most tokens would be near ties, and vLLM's own choice stands.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import torch

from remora.errors import ServingError
from remora.inference.decoding import WholeBatch, embed
from remora.inference.generation import Generation
from remora.inference.pictures import EncodedPictures
from remora.inference.requests import Event, FittedPicture, Logprobs, Prompt, Request, Stats
from remora.inference.sampling import NEAR, logprobs
from remora.inference.vllm.process import VllmProcess
from remora.inference.vllm.wire import Asked, ToldToken

if TYPE_CHECKING:
    from remora.inference.answerer import Answerer

PROBED = 4
"""Tokens of an answer that `check_equal` compares."""


def near_of(dtype: torch.dtype) -> float:
    """How near two scores are a tie that is decided here; 0: none is."""
    return NEAR[dtype] if dtype == torch.float32 else 0.0


class VllmEngine:
    """Answers requests with an Answerer's encoder and connector, and its language model in `process`. At most `rows`
    run together. One thread owns it, and at most one engine uses a process."""

    def __init__(self, answerer: Answerer, process: VllmProcess, rows: int) -> None:
        self.answerer = answerer
        self._process, self._rows = process, rows
        process.revive()
        self._pictures = EncodedPictures(answerer)
        self._waiting: deque[Generation] = deque()
        self._there: dict[int, Generation] = {}
        """Requests in vLLM by their numbers there."""
        self._undecided: dict[Generation, ToldToken] = {}
        """Near ties; each step goes on with the first."""
        self._added = 0
        self._prompt_tokens = self._shared_tokens = self._answer_tokens = self._near_ties = 0

    def add(self, request: Request) -> int:
        """As `AnswerEngine.add`."""
        self._waiting.append(Generation(self.answerer, request, self._added))
        self._added += 1
        return self._added - 1

    def cancel(self, number: int) -> None:
        """As `AnswerEngine.cancel`; vLLM drops it after its step."""
        self._waiting = deque(one for one in self._waiting if one.number != number)
        self._undecided = {one: token for one, token in self._undecided.items() if one.number != number}
        self._take_back([of for of, one in self._there.items() if one.number == number])

    def waits(self, number: int) -> bool:
        """As `AnswerEngine.waits`."""
        return any(one.number == number for one in self._waiting)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._there or self._undecided)

    @property
    def stats(self) -> Stats:
        """`cache_bytes` is what running requests may need."""
        running = [*self._there.values(), *self._undecided]
        held = sum(one.need for one in running) * self.answerer.token_bytes
        counts = (self._prompt_tokens, self._shared_tokens, self._answer_tokens, self._near_ties)
        need = sum(one.need for one in self._waiting)
        limit = self._process.options["cache_bytes"]
        return Stats(len(self._waiting), len(running), need, *counts, min(held, limit))

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Send what waits, at most one new picture of it; decide one near tie further; hear what vLLM said. It waits
        for a step of vLLM if there is nothing else to do."""
        more = self._send_waiting()
        events = self._decide()
        wait = bool(self._there) and not more and not self._undecided
        while (said := self._process.hear(wait)) is not None:
            if "refused" in said:
                raise ServingError(f"vLLM refuses a request: {said['refused'][1]}")
            for token in said.get("step", []):
                events += self._hear(token)
            wait = False
        return events

    def _send_waiting(self) -> bool:
        """Send requests until one needs a second picture that is new; true if it stopped for that."""
        encoded = False
        while self._waiting and len(self._there) + len(self._undecided) < self._rows:
            one = self._waiting[0]
            new = {p.digest: p for p in one.prompt.pictures if p not in self._pictures}
            if new and encoded:
                return True
            encoded = encoded or bool(new)
            self._waiting.popleft()
            self._send(one, list(one.prompt.pictures))
        return False

    def _send(self, one: Generation, pictures: list[FittedPicture]) -> None:
        request, number = one.request, self._process.added
        self._process.added += 1
        prompt = Prompt((*one.prompt.ids, *one.said), one.prompt.pictures)
        embeddings = embed(self.answerer.model.llm, prompt, self._pictures.of(pictures))[0].cpu().contiguous()
        asked = Asked(
            number=number,
            shape=list(embeddings.shape),
            max_new_tokens=request.max_new_tokens - len(one.said),
            stop_id=one.stop_id,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            seed=one.seed,
            frequency_penalty=request.frequency_penalty,
            presence_penalty=request.presence_penalty,
            logit_bias=list(request.logit_bias),
            top_logprobs=request.top_logprobs,
            said=list(one.said),
        )
        self._there[number] = one
        self._process.add(asked, embeddings.view(torch.uint8).numpy().tobytes())

    def _take_back(self, numbers: list[int]) -> None:
        for number in numbers:
            del self._there[number]
        self._process.cancel(numbers)

    def _hear(self, token: ToldToken) -> list[Event]:
        one = self._there.get(token["number"])
        if one is None:  # taken back while it was on its way
            return []
        if len(one.said) == len(one.request.said):  # its first
            one.cached = min(token["cached"], len(one.prompt.ids))
            self._prompt_tokens += len(one.prompt.ids)
            self._shared_tokens += one.cached
        if token["tie"]:
            self._take_back([token["number"]])
            self._undecided[one] = token
            return []
        found = None
        if (best := one.request.top_logprobs) is not None and token["logprob"] is not None:
            found = Logprobs(token["logprob"], tuple((each, value) for each, value in token["best"][:best]))
        event = self._told(one, token["token"], found)
        if event.answer is not None:
            del self._there[token["number"]]
            if len(one.said) == one.request.max_new_tokens or one.said[-1] == one.stop_id:
                self._process.ended(token["number"])
            else:  # a stop text, of which vLLM knows nothing
                self._process.cancel([token["number"]])
        return [event]

    def _decide(self) -> list[Event]:
        if not self._undecided:
            return []
        one = next(iter(self._undecided))
        token = one.listen()
        if token is None:
            return []
        del self._undecided[one]
        self._near_ties += 1
        best = one.request.top_logprobs
        event = self._told(one, token, None if best is None else logprobs(one.alone_logits, token, best))
        if event.answer is None:
            self._send(one, list(one.prompt.pictures))
        return [event]

    def _told(self, one: Generation, token: int, found: Logprobs | None) -> Event:
        answer = one.say(token)
        self._answer_tokens += 1
        return Event(one.number, token, answer, found, one.cached)


@torch.inference_mode()
def check_equal(answerer: Answerer, engine: VllmEngine) -> None:
    """Compare vLLM's language model with ours on a few tokens, before anybody is answered by it.

    Raises:
        ServingError: it is another model: it reads embeddings or weights in another way.
    """
    prompt = Prompt(tuple(2 + i % (answerer.vocabulary - 2) for i in range(8)))
    engine.add(Request(prompt, PROBED, top_logprobs=5))
    alone, allowed = WholeBatch(answerer.model.llm, [prompt], {}), 10 * NEAR[answerer.dtype]
    while engine.busy:
        for event in engine.step():
            assert event.logprobs is not None
            ours = torch.log_softmax(alone.logits[0].double(), 0)
            off = max(abs(value - float(ours[token])) for token, value in event.logprobs.best)
            if not off <= allowed * max(1.0, float(alone.logits.abs().max())):
                kind = type(answerer.model.llm).__name__
                raise ServingError(
                    f"vLLM's {kind} is not ours: log probabilities differ by {off:.2g}; next: engine: builtin"
                )
            alone.step([event.token])
