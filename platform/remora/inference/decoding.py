"""From the logits of a batch to its rows' tokens: rows choose, stop and leave.

A matrix product's last bits depend on how many rows it has, so the logits of a batch differ from those of a row alone
by 1e-6 to 1e-5 of the largest (benchmarks/results/answering.md). Where the two best tokens are further apart than
`NEAR`, both choose the same; where they are not, the row gets no answer here, and its caller asks it alone. So every
answer is that of batch size 1, for models in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from remora.inference.reading import Reading

NEAR = 1e-4
"""Two best scores that differ by less than this, in parts of the row's largest logit, are not told apart."""


class Draws:
    """How a row chooses: the best score, where each score is its logit plus, above temperature 0, noise of its own.

    Gumbel noise times the temperature makes the best score a draw from the softmax, and a draw too depends on the last
    bits of the logits only where two scores are near.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds] if temperature else []

    def choose(self, logits: Tensor, rows: Sequence[int]) -> tuple[list[int], list[bool]]:
        """The tokens of `rows` from logits [B, V], and which of them are near ties."""
        scores = logits.float()
        largest = scores.abs().amax(dim=-1)
        if self.temperature:
            noise = [torch.empty(scores.shape[1]).exponential_(generator=self.generators[row]) for row in rows]
            scores = scores - self.temperature * torch.stack(noise).log().to(scores.device)
        best = scores.topk(2, dim=-1).values
        apart = best[:, 0] - best[:, 1] > NEAR * largest
        return scores.argmax(dim=-1).tolist(), (~apart).tolist()


def decode(
    llm: nn.Module, reading: Reading, limit: int, stop: int, draws: Draws, alone: bool = False
) -> list[list[int] | None]:
    """Each row's tokens, at most `limit`, the last of them `stop` if it stopped; None for a row with a near tie.

    A row that was read `alone` is the one that the others are held against, so it always has an answer.
    """
    said: list[list[int] | None] = [[] for _ in reading.logits]
    rows = list(range(len(said)))  # those that are in the batch
    going = set(rows)  # those that are not done
    while True:
        tokens, near = draws.choose(reading.logits, rows)
        for row, token, tie in zip(rows, tokens, near, strict=True):
            answer = said[row]
            if row not in going or answer is None:
                continue
            if tie and not alone:
                said[row] = None
                going.remove(row)
                continue
            answer.append(token)
            if token == stop or len(answer) == limit:
                going.remove(row)
        if not going:
            return said
        kept = [i for i, row in enumerate(rows) if row in going]
        if 4 * len(kept) <= 3 * len(rows):  # leaving copies the cache, and a done row costs its share of each step
            reading.keep(torch.tensor(kept, device=reading.logits.device))
            rows, tokens = [rows[i] for i in kept], [tokens[i] for i in kept]
        reading.step(llm, torch.tensor(tokens, device=reading.logits.device))
