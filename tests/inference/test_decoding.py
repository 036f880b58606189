"""Rows stop, leave and draw by themselves, and a choice between near ties is left to the row alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from remora.inference import decoding
from remora.inference.decoding import Draws, decode
from remora.inference.sampling import Sampling

STOP = 9


def draws_of(*settings: Sampling, seeds: list[int] | None = None) -> Draws:
    return Draws(settings, seeds or [0] * len(settings))


def warm(temperature: float, **how: float) -> Sampling:
    return Sampling(99, temperature, **how)


class Script:
    """A reading whose rows want given tokens, whatever was chosen; `margins` by (row, step), else wide."""

    def __init__(self, wanted: list[list[int]], margins: dict[tuple[int, int], float] | None = None) -> None:
        self.wanted, self.margins = wanted, margins or {}
        self.rows, self.at = list(range(len(wanted))), 0
        self.sizes: list[int] = []
        self.logits = self._logits()

    def _logits(self) -> torch.Tensor:
        self.sizes.append(len(self.rows))
        logits = torch.zeros(len(self.rows), 10)
        for i, row in enumerate(self.rows):
            token = self.wanted[row][min(self.at, len(self.wanted[row]) - 1)]
            logits[i, token] = 20.0
            logits[i, (token + 1) % 9] = 20.0 - self.margins.get((row, self.at), 5.0)
        return logits

    def keep(self, rows: torch.Tensor) -> None:
        self.rows = [self.rows[i] for i in rows.tolist()]

    def step(self, llm: object, tokens: torch.Tensor) -> None:
        assert tokens.tolist() == [self.wanted[r][min(self.at, len(self.wanted[r]) - 1)] for r in self.rows]
        self.at += 1
        self.logits = self._logits()


def said(script: Script, limit: int | list[int] = 6, **how: Any) -> list[list[int] | None]:
    limits = limit if isinstance(limit, list) else [limit] * len(script.wanted)
    return decode(torch.nn.Identity(), script, draws_of(*map(Sampling, limits)), STOP, **how)


def test_a_row_ends_with_its_stop_or_at_the_limit():
    assert said(Script([[1, 2, STOP], [STOP], [3, 4]])) == [[1, 2, STOP], [STOP], [3, 4, 4, 4, 4, 4]]
    assert said(Script([[1, 2], [STOP]]), 1) == [[1], [STOP]]


def test_rows_that_are_done_leave_when_they_are_a_quarter():
    script = Script([[1] * n + [STOP] for n in (1, 5, 1, 5, 4, 5, 5, 5)])
    assert said(script, 9) == [[1] * n + [STOP] for n in (1, 5, 1, 5, 4, 5, 5, 5)]
    assert script.sizes == [8, 8, 6, 6, 6, 6]  # two of eight leave, one of six does not


def test_a_near_tie_is_no_answer_but_alone():
    close = {(1, 2): 20.0 * decoding.NEAR * 0.9, (2, 1): 20.0 * decoding.NEAR * 1.1}
    wanted = [[1, 2, 3, STOP], [4, 5, 6, STOP], [7, 7, STOP]]
    assert said(Script(wanted, close)) == [wanted[0], None, wanted[2]]
    assert said(Script(wanted, close), alone=True) == wanted


def test_a_row_of_no_numbers_is_no_answer():
    script = Script([[1, STOP], [2, STOP]])
    script.logits[1] = float("nan")
    assert said(script)[1] is None


def test_rows_have_limits_of_their_own():
    told = []
    script = Script([[1], [2], [3], [4, STOP]])
    assert said(script, [1, 3, 5, 9], done=lambda row, tokens: told.append((row, list(tokens)))) == [
        [1],
        [2, 2, 2],
        [3] * 5,
        [4, STOP],
    ]
    assert told == [(0, [1]), (3, [4, STOP]), (1, [2, 2, 2]), (2, [3] * 5)], "each as soon as it is there"
    assert script.sizes == [4, 3, 2, 1, 1]


def test_a_row_ends_where_its_text_does():
    ended = {0: [1, 2], 2: [7]}
    wanted = [[1, 2, 3, STOP], [4, STOP], [7, 7, STOP]]
    found = said(Script(wanted), ended=lambda row, tokens: ended.get(row) == tokens)
    assert found == [[1, 2], [4, STOP], [7]]


def drawn(setting: Sampling, logits: torch.Tensor, said: list[int] | None = None, alone: bool = True) -> torch.Tensor:
    """How often each token is drawn in 20,000."""
    draws = draws_of(setting, seeds=[5])
    tokens = [draws.choose(logits[None], [0], [said or []], alone)[0][0] for _ in range(20_000)]
    return torch.tensor(tokens).bincount(minlength=len(logits)) / 20_000


def test_draws_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    for temperature in (0.7, 2.0):
        expected = torch.softmax(logits / temperature, 0)
        torch.testing.assert_close(drawn(warm(temperature), logits), expected, rtol=0, atol=0.015)


def test_the_fewest_tokens_that_add_up_to_top_p_are_drawn():
    """Temperature 2 makes 0.4, 0.3, 0.2 and 0.1 of these; top_k comes first, and top_p counts of what is left."""
    logits = 2 * torch.tensor([0.2, 0.4, 0.1, 0.3]).log()
    for how, kept in (
        ({"top_p": 0.35}, [1]),
        ({"top_p": 0.45}, [1, 3]),
        ({"top_p": 0.75}, [0, 1, 3]),
        ({"top_k": 3}, [0, 1, 3]),
        ({"top_k": 2, "top_p": 0.56}, [1]),
    ):
        expected = torch.zeros(4).index_copy(0, torch.tensor(kept), torch.softmax(logits[kept] / 2, 0))
        torch.testing.assert_close(drawn(warm(2.0, **how), logits), expected, rtol=0, atol=0.015)


def test_which_tokens_may_be_drawn_is_a_near_tie_too():
    """A batch's logits may put another token at the edge than the row's own."""
    logits = 20 + 2 * torch.tensor([0.2, 0.4, 0.1, 0.3]).log()
    for top_p, certain in ((0.4, False), (0.7 + 1e-4, False), (0.55, True)):
        draws = draws_of(warm(2.0, top_p=top_p), seeds=[3])
        near = sum(draws.choose(logits[None], [0], [[]])[1][0] for _ in range(2_000))
        assert near < 20 if certain else near > 200  # a few are near ties of the draw itself
    draws = draws_of(Sampling(9, 0.0, top_p=0.4), seeds=[3])
    assert draws.choose(logits[None], [0], [[]]) == ([1], [False]), "greedy: nothing is drawn"


def test_biases_and_penalties_are_those_of_the_row():
    logits = torch.tensor([[0.0, 1.0, 2.0, 1.5]] * 5)
    settings = (
        Sampling(9),
        Sampling(9, logit_bias=((0, 5.0), (3, -100.0))),
        Sampling(9, presence_penalty=0.6),
        Sampling(9, frequency_penalty=0.3),
        Sampling(9, frequency_penalty=0.2),
    )
    said = [[2, 2], [2, 2], [2, 2], [2, 2], [2, 2]]
    assert draws_of(*settings).choose(logits, range(5), said)[0] == [2, 0, 3, 3, 2]
    assert logits.tolist() == [[0.0, 1.0, 2.0, 1.5]] * 5, "the model's logits are left as they were"


@pytest.mark.parametrize("mates", [[], [8], [8, 3, 4]])
def test_a_row_draws_the_same_whoever_is_with_it(mates):
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    alone = draws_of(warm(1.0), seeds=[6])
    expected = [alone.choose(step[None], [0], [[]])[0][0] for step in logits]
    seeds = [*mates, 6]
    others = [Sampling(9), warm(0.3), warm(2.0, top_p=0.5)][: len(mates)]
    draws, rows, found = draws_of(*others, warm(1.0), seeds=seeds), list(range(len(seeds))), []
    for number, step in enumerate(logits):
        if number == 20:  # all mates leave
            rows = rows[-1:]
        found.append(draws.choose(step.expand(len(rows), -1), rows, [[]] * len(rows))[0][-1])
    assert found == expected and len(set(found)) > 5
    other = draws_of(warm(1.0), seeds=[7])
    assert expected != [other.choose(step[None], [0], [[]])[0][0] for step in logits]


def test_a_draw_between_near_scores_is_left_to_the_row_alone():
    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(0))
    noise = torch.empty(30).exponential_(generator=torch.Generator().manual_seed(1)).log()
    scores = logits[0] - noise
    first, second = scores.topk(2).indices.tolist()
    logits[0, second] += scores[first] - scores[second]  # a tie after the noise, none before it
    assert draws_of(warm(1.0), seeds=[1]).choose(logits, [0], [[]])[1] == [True]
    assert draws_of(Sampling(9)).choose(logits, [0], [[]])[1] == [False]
