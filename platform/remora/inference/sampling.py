"""From the logits of a batch to its rows' tokens. Each row chooses by its own request; none depends on the others.

A matrix product's last bits depend on how many rows it has, so the logits of a batch differ from those at batch size 1
by 1e-6 to 1e-5 of the largest (fp32; benchmarks/results/answering.md). Where the two best scores are further apart than
`NEAR`, both choose the same token. Where they are not, the batch does not decide: the token is chosen from the logits
at batch size 1 (generation.py). So every token is that of batch size 1 before anybody sees it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from remora.inference.requests import Request

if TYPE_CHECKING:
    from remora.inference.generation import Generation

NEAR = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Two best scores that differ by less than this, in parts of the row's largest logit, are not told apart. At least five
times what a batch moved a logit in any class of the tests: half precision saves memory, but leaves many choices to
batch size 1."""


def choose(logits: Tensor, rows: Sequence[Generation], near: float) -> tuple[list[int], list[bool]]:
    """The rows' tokens from logits [B, V], and which of them are near ties: closer than `near`, or not a number.

    With `near` 0, logits are exact. Above it a row whose choice could hang on which tokens `top_p` and `top_k` keep is
    a near tie, too.
    """
    scores = logits.float()
    low, high = scores.aminmax(dim=-1)
    largest = torch.maximum(-low, high)
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
    best = scores.topk(2, dim=-1).values
    ties = (~(best[:, 0] - best[:, 1] > near * largest)).tolist()
    tokens: list[int] = scores.argmax(dim=-1).tolist()
    for i, scores_of_certain in certain.items():
        ties[i] = ties[i] or float(scores_of_certain[tokens[i]]) == -torch.inf
    return tokens, ties


def gumbel(seed: int, position: int, size: int) -> Tensor:
    """Noise [size] that depends on the seed and the position only: a token can be drawn again, in any batch.

    Added to scores times the temperature it makes the best score a draw from the softmax, and that draw depends on the
    last bits of the logits only where two scores are near. Philox is a counter: position 100 costs no 99 draws before.
    In double precision, since a single's smallest exponentials are too coarse for the largest of 50,000 draws.
    """
    draws = np.random.Generator(np.random.Philox(key=seed, counter=position << 64))
    return torch.from_numpy(-np.log(draws.standard_exponential(size))).float()


def _adjust(scores: Tensor, request: Request, said: Sequence[int]) -> None:
    """Put a row's bias and penalties into its scores [V]."""
    for token, bias in request.logit_bias:
        scores[token] += bias
    if request.frequency_penalty or request.presence_penalty:
        for token, times in Counter(said).items():
            scores[token] -= request.frequency_penalty * times + request.presence_penalty


def _edge(scores: Tensor, request: Request, slack: float) -> tuple[float, float]:
    """The lowest score that may be drawn and the highest that may not (minus infinity where all may).

    Of scores that are off by as much as `slack`, a probability is off by as much as slack / temperature: with a
    positive slack as many tokens are kept as could be, with a negative one as few.
    """
    best = scores.sort(descending=True).values
    kept = min(request.top_k, len(best)) if request.top_k else len(best)
    if request.top_p < 1:
        chances = torch.softmax(best[:kept] / request.temperature, 0)
        before = chances.cumsum(0) - chances
        kept = max(1, int((before < request.top_p + slack / request.temperature).sum()))
    return float(best[kept - 1]), float(best[kept]) if kept < len(best) else -torch.inf
