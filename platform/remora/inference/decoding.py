"""From the logits of a batch to its rows' tokens: each row chooses, stops and leaves by settings of its own.

A matrix product's last bits depend on how many rows it has, so the logits of a batch differ from those of a row alone
by 1e-6 to 1e-5 of the largest (benchmarks/results/answering.md). Where the two best tokens are further apart than
`NEAR`, both choose the same; where they are not, the row gets no answer here, and its caller asks it alone. So every
answer is that of batch size 1, for models in fp32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from remora.inference.reading import Reading
from remora.inference.sampling import Sampling

NEAR = 1e-4
"""Two best scores that differ by less than this, in parts of the row's largest logit, are not told apart."""


class Draws:
    """How rows choose: the best score, where above temperature 0 each score has noise of the row's own.

    Gumbel noise times the temperature makes the best score a draw from the softmax, and a draw too depends on the last
    bits of the logits only where two scores are near. `seeds` has one for each row; greedy rows do not read theirs.
    """

    def __init__(self, settings: Sequence[Sampling], seeds: Sequence[int]) -> None:
        self.settings = settings
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def choose(
        self, logits: Tensor, rows: Sequence[int], said: Sequence[Sequence[int]], alone: bool = False
    ) -> tuple[list[int], list[bool]]:
        """The tokens of `rows` from logits [B, V], and which of them are near ties; `said` is each row's answer so far.

        A row that is `alone` has exactly its settings' tokens to draw from; in a batch one whose choice could hang on
        which tokens those are is a near tie, too.
        """
        scores = logits.float()
        largest = scores.abs().amax(dim=-1)
        own = [self.settings[row] for row in rows]
        if any(s.adjusts or s.temperature for s in own):
            scores = scores.clone()
        narrow: dict[int, Tensor] = {}  # rows that may not draw every token: their scores of those they may for certain
        for i, (row, setting) in enumerate(zip(rows, own, strict=True)):
            if setting.adjusts:
                _adjust(scores[i], setting, said[i])
            if not setting.temperature:
                continue
            noise = torch.empty(scores.shape[1]).exponential_(generator=self.generators[row]).log().to(scores.device)
            noisy = scores[i] - setting.temperature * noise
            if setting.narrows:
                slack = 0.0 if alone else NEAR * float(largest[i])
                _, left_out = _edge(scores[i], setting, -slack)
                narrow[i] = noisy.masked_fill(scores[i] <= left_out + slack, -torch.inf)
                kept, _ = _edge(scores[i], setting, slack)
                noisy = noisy.masked_fill(scores[i] < kept - slack, -torch.inf)
            scores[i] = noisy
        best = scores.topk(2, dim=-1).values
        near = (~(best[:, 0] - best[:, 1] > NEAR * largest)).tolist()
        tokens: list[int] = scores.argmax(dim=-1).tolist()
        for i, certain_scores in narrow.items():
            near[i] = near[i] or float(certain_scores[tokens[i]]) == -torch.inf
        return tokens, near


def _adjust(scores: Tensor, setting: Sampling, said: Sequence[int]) -> None:
    """Put a row's bias and penalties into its scores [V]."""
    for token, bias in setting.logit_bias:
        scores[token] += bias
    if setting.frequency_penalty or setting.presence_penalty:
        for token, times in Counter(said).items():
            scores[token] -= setting.frequency_penalty * times + setting.presence_penalty


def _edge(scores: Tensor, setting: Sampling, slack: float) -> tuple[float, float]:
    """The lowest score that may be drawn and the highest that may not (minus infinity where all may).

    Of scores that are off by as much as `slack`, a probability is off by as much as slack / temperature: with a
    positive slack as many tokens are kept as could be, with a negative one as few.
    """
    best = scores.sort(descending=True).values
    kept = min(setting.top_k, len(best)) if setting.top_k else len(best)
    if setting.top_p < 1:
        chances = torch.softmax(best[:kept] / setting.temperature, 0)
        before = chances.cumsum(0) - chances
        kept = max(1, int((before < setting.top_p + slack / setting.temperature).sum()))
    return float(best[kept - 1]), float(best[kept]) if kept < len(best) else -torch.inf


def decode(
    llm: nn.Module,
    reading: Reading,
    draws: Draws,
    stop: int,
    alone: bool = False,
    ended: Callable[[int, list[int]], bool] | None = None,
    done: Callable[[int, list[int]], None] | None = None,
) -> list[list[int] | None]:
    """Each row's tokens, at most its `max_new_tokens`, the last of them `stop` if it stopped; None for a row with a
    near tie.

    A row that was read `alone` is the one that the others are held against, so it always has an answer. `ended` says of
    a row and its tokens whether they end it; `done` is told of each row as soon as it has its answer.
    """
    said: list[list[int] | None] = [[] for _ in reading.logits]
    rows = list(range(len(said)))  # those that are in the batch
    going = set(rows)  # those that are not done
    while True:
        tokens, near = draws.choose(reading.logits, rows, [said[row] or [] for row in rows], alone)
        for row, token, tie in zip(rows, tokens, near, strict=True):
            answer = said[row]
            if row not in going or answer is None:
                continue
            if tie and not alone:
                said[row] = None
                going.remove(row)
                continue
            answer.append(token)
            full = len(answer) == draws.settings[row].max_new_tokens
            if token == stop or full or (ended is not None and ended(row, answer)):
                going.remove(row)
                if done is not None:
                    done(row, answer)
        if not going:
            return said
        kept = [i for i, row in enumerate(rows) if row in going]
        if 4 * len(kept) <= 3 * len(rows):  # leaving copies the cache, and a done row costs its share of each step
            reading.keep(torch.tensor(kept, device=reading.logits.device))
            rows, tokens = [rows[i] for i in kept], [tokens[i] for i in kept]
        reading.step(llm, torch.tensor(tokens, device=reading.logits.device))
