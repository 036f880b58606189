"""Choose the tokens of a batch's rows from its logits, each by its own request and independent of the others.

A matrix product's last bits depend on its number of rows, so the logits of a batch differ from those at batch size 1 by
1e-6 to 1e-5 of the largest (fp32; benchmarks/results/answering.md). If the two best scores are further apart than
`NEAR`, both choose the same token. Otherwise the token is chosen from the logits at batch size 1 (generation.py). So
every token is that of batch size 1 before it leaves the engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from remora.inference.requests import Logprobs, Request

NEAR = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Two best scores that differ by less than this fraction of the row's largest logit are a near tie. It is at least
five times the largest effect of a batch on a logit in the tests' model classes. Half precision saves memory, but leaves
many choices to batch size 1."""
NEAR_INT8 = 3e-2
"""The same with int8 layers: a last bit may round an input to the next integer, which moves logits by up to 1.4 %."""


class ChoosingRow(Protocol):
    """A request whose next token is chosen (`Generation`)."""

    @property
    def request(self) -> Request: ...

    @property
    def said(self) -> Sequence[int]:
        """Its answer so far."""
        ...

    @property
    def seed(self) -> int: ...


def choose(logits: Tensor, rows: Sequence[ChoosingRow], near: float) -> tuple[list[int], list[bool]]:
    """The rows' tokens from logits [B, V], and which of them are near ties: closer than `near`, or NaN.

    With `near` 0, logits are exact. Above 0, a row whose choice could depend on which tokens `top_p` and `top_k` keep
    is a near tie, too.
    """
    scores = logits.float()
    largest = torch.maximum(-scores.amin(-1), scores.amax(-1))  # aminmax takes ten times as long on a CPU
    requests = [row.request for row in rows]
    if any(request.adjusts or request.temperature for request in requests):
        scores = scores.clone()
    certain: dict[int, Tensor] = {}  # noisy scores of the tokens that a row may draw whatever the last bits are
    for i, (row, request) in enumerate(zip(rows, requests, strict=True)):
        if request.adjusts:
            _adjust(scores[i], request, row.said)
        if not request.temperature:
            continue
        noise = gumbel(row.seed, len(row.said), scores.shape[1]).to(scores.device)
        noisy = scores[i] + request.temperature * noise
        if request.narrows:
            slack = near * float(largest[i])
            _, left_out = _edge(scores[i], request, -slack)
            certain[i] = noisy.masked_fill(scores[i] <= left_out + slack, -torch.inf)
            kept, _ = _edge(scores[i], request, slack)
            noisy = noisy.masked_fill(scores[i] < kept - slack, -torch.inf)
        scores[i] = noisy
    best, places = scores.topk(2, dim=-1)
    ties = (~(best[:, 0] - best[:, 1] > near * largest)).tolist()
    # Of equal scores the first is best, which topk does not promise; above 0 such a row is a near tie.
    tokens: list[int] = (places[:, 0] if near else scores.argmax(dim=-1)).tolist()
    for i, scores_of_certain in certain.items():
        ties[i] = ties[i] or float(scores_of_certain[tokens[i]]) == -torch.inf
    return tokens, ties


def logprobs(logits: Tensor, token: int, best: int) -> Logprobs:
    """Of a token and the `best` most likely ones, by a row's logits [V]. The logits of a batch move them by about
    1e-5."""
    found = torch.log_softmax(logits.double(), 0)
    values, tokens = found.topk(min(best, len(found)))
    return Logprobs(float(found[token]), tuple(zip(tokens.tolist(), values.tolist(), strict=True)))


def gumbel(seed: int, position: int, size: int) -> Tensor:
    """Noise [size] that depends only on the seed and the position: a token can be drawn again, in any batch.

    Times the temperature and added to scores, it makes the best score a sample from the softmax, which depends on the
    last bits of the logits only if two scores are near. Philox is counter-based: position 100 needs no 99 draws before.
    Double precision, since single precision's smallest exponentials are too coarse for the largest of 50,000 draws.
    """
    draws = np.random.Generator(np.random.Philox(key=seed, counter=position << 64))
    return torch.from_numpy(-np.log(draws.standard_exponential(size))).float()


def _adjust(scores: Tensor, request: Request, said: Sequence[int]) -> None:
    """Apply a row's bias and penalties to its scores [V]."""
    for token, bias in request.logit_bias:
        scores[token] += bias
    if request.frequency_penalty or request.presence_penalty:
        for token, times in Counter(said).items():
            scores[token] -= request.frequency_penalty * times + request.presence_penalty


def _edge(scores: Tensor, request: Request, slack: float) -> tuple[float, float]:
    """The lowest score that may be drawn and the highest that may not (minus infinity if all may).

    If scores are off by up to `slack`, a probability is off by up to slack / temperature: with a positive slack the
    most tokens that could be kept are kept, with a negative one the fewest.
    """
    best = scores.sort(descending=True).values
    kept = min(request.top_k, len(best)) if request.top_k else len(best)
    if request.top_p < 1:
        chances = torch.softmax(best[:kept] / request.temperature, 0)
        before = chances.cumsum(0) - chances
        kept = max(1, int((before < request.top_p + slack / request.temperature).sum()))
    return float(best[kept - 1]), float(best[kept]) if kept < len(best) else -torch.inf
