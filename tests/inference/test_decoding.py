"""Rows stop, leave and draw by themselves, and a choice between near ties is left to the row alone."""

from __future__ import annotations

import pytest
import torch

from remora.inference import decoding
from remora.inference.decoding import Draws, decode

STOP = 9
GREEDY = Draws(0.0, [])


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


def said(script: Script, limit: int = 6, **how: bool) -> list[list[int] | None]:
    return decode(torch.nn.Identity(), script, limit, STOP, GREEDY, **how)


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


def test_draws_follow_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    for temperature in (0.7, 2.0):
        draws = Draws(temperature, [5])
        seen = torch.tensor([draws.choose(logits, [0])[0][0] for _ in range(20_000)]).bincount(minlength=4) / 20_000
        torch.testing.assert_close(seen, torch.softmax(logits[0] / temperature, 0), rtol=0, atol=0.015)


@pytest.mark.parametrize("mates", [[], [8], [8, 3, 4]])
def test_a_row_draws_the_same_whoever_is_with_it(mates):
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    alone = Draws(1.0, [6])
    expected = [alone.choose(step[None], [0])[0][0] for step in logits]
    seeds = [*mates, 6]
    draws, rows, found = Draws(1.0, seeds), list(range(len(seeds))), []
    for number, step in enumerate(logits):
        if number == 20:  # all mates leave
            rows = rows[-1:]
        found.append(draws.choose(step.expand(len(rows), -1), rows)[0][-1])
    assert found == expected and len(set(found)) > 5
    assert expected != [Draws(1.0, [7]).choose(step[None], [0])[0][0] for step in logits]


def test_a_draw_between_near_scores_is_left_to_the_row_alone():
    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(0))
    noisy = Draws(1.0, [1])
    noise = torch.empty(30).exponential_(generator=torch.Generator().manual_seed(1)).log()
    scores = logits[0] - noise
    first, second = scores.topk(2).indices.tolist()
    logits[0, second] += scores[first] - scores[second]  # a tie after the noise, none before it
    assert noisy.choose(logits, [0])[1] == [True]
    assert Draws(0.0, []).choose(logits, [0])[1] == [False]
