"""Rows choose by their own requests, draw by seed and position, and near ties are left to batch size 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch

from remora.inference import Request
from remora.inference.sampling import NEAR, choose, gumbel

EDGE = NEAR[torch.float32]


@dataclass
class Row:
    """The fields of a generation that `choose` reads."""

    request: Request
    seed: int = 0
    said: Sequence[int] = ()


def how(max_new_tokens: int = 9, temperature: float = 0.0, **more: object) -> Request:
    return Request((), max_new_tokens, temperature, **more)  # type: ignore[arg-type]


def chosen(logits: torch.Tensor, *rows: Row, near: float = EDGE) -> tuple[list[int], list[bool]]:
    return choose(logits, rows, near)  # type: ignore[arg-type]


def test_the_best_token_is_chosen_unless_another_is_near():
    logits = torch.zeros(4, 10)
    logits[:, 3] = 20.0
    logits[0, 5] = 20 - 20 * EDGE * 0.9
    logits[1, 5] = 20 - 20 * EDGE * 1.1
    logits[2, 5] = 20.0
    logits[3, 4] = float("nan")
    rows = [Row(how()) for _ in range(4)]
    tokens, ties = chosen(logits, *rows)
    assert tokens[:2] == [3, 3] and ties == [True, False, True, True]
    logits[0, 0] = -40.0  # nearness is relative to the largest of either sign
    logits[1, 0] = -40.0
    assert chosen(logits, *rows)[1] == [True, True, True, True]


def test_noise_follows_from_seed_and_position():
    assert torch.equal(gumbel(5, 3, 50), gumbel(5, 3, 50))
    others = [gumbel(seed, position, 50) for seed, position in ((5, 3), (5, 4), (4, 3), (2**64 - 1, 3))]
    assert len({tuple(noise.tolist()) for noise in others}) == 4
    far = gumbel(1, 10**6, 200_000)
    assert bool(far.isfinite().all())
    assert abs(float(far.mean()) - 0.5772) < 0.01 and abs(float(far.var()) - 1.6449) < 0.03


def drawn(request: Request, logits: torch.Tensor) -> torch.Tensor:
    """How often each token is drawn in 2,000."""
    rows = [Row(request, 5, range(position)) for position in range(2_000)]
    tokens, _ = chosen(logits.expand(len(rows), -1), *rows, near=0.0)
    return torch.tensor(tokens).bincount(minlength=len(logits)) / len(rows)


def test_draws_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    for temperature in (0.7, 2.0):
        expected = torch.softmax(logits / temperature, 0)
        torch.testing.assert_close(drawn(how(9, temperature), logits), expected, rtol=0, atol=0.04)


@pytest.mark.slow
def test_the_fewest_tokens_that_add_up_to_top_p_are_drawn():
    """Temperature 2 makes 0.4, 0.3, 0.2 and 0.1 of these; top_k comes first, and top_p counts of what is left."""
    logits = 2 * torch.tensor([0.2, 0.4, 0.1, 0.3]).log()
    for narrowing, kept in (
        ({"top_p": 0.35}, [1]),
        ({"top_p": 0.45}, [1, 3]),
        ({"top_p": 0.75}, [0, 1, 3]),
        ({"top_k": 3}, [0, 1, 3]),
        ({"top_k": 2, "top_p": 0.56}, [1]),
    ):
        expected = torch.zeros(4).index_copy(0, torch.tensor(kept), torch.softmax(logits[kept] / 2, 0))
        torch.testing.assert_close(drawn(how(9, 2.0, **narrowing), logits), expected, rtol=0, atol=0.04)


@pytest.mark.slow
def test_which_tokens_may_be_drawn_is_a_near_tie_too():
    """A batch's logits may put another token at the edge than the row's own."""
    logits = 20 + 2 * torch.tensor([0.2, 0.4, 0.1, 0.3]).log()
    for top_p, certain in ((0.4, False), (0.7 + 1e-4, False), (0.55, True)):
        rows = [Row(how(9, 2.0, top_p=top_p), 3, range(position)) for position in range(500)]
        near = sum(chosen(logits.expand(len(rows), -1), *rows)[1])
        assert near < 10 if certain else near > 50  # a few are near ties of the draw itself
    assert chosen(logits[None], Row(how(top_p=0.4))) == ([1], [False]), "greedy: nothing is drawn"


def test_biases_and_penalties_are_those_of_the_row():
    logits = torch.tensor([[0.0, 1.0, 2.0, 1.5]] * 5)
    requests = (
        how(),
        how(logit_bias=((0, 5.0), (3, -100.0))),
        how(presence_penalty=0.6),
        how(frequency_penalty=0.3),
        how(frequency_penalty=0.2),
    )
    assert chosen(logits, *(Row(request, 0, [2, 2]) for request in requests))[0] == [2, 0, 3, 3, 2]
    assert logits.tolist() == [[0.0, 1.0, 2.0, 1.5]] * 5, "the model's logits are left as they were"


@pytest.mark.parametrize("mates", [0, 1, 3])
def test_a_row_draws_the_same_whoever_is_with_it(mates):
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    one = [Row(how(99, 1.0), 6, range(position)) for position in range(50)]
    expected = [chosen(step[None], row)[0][0] for step, row in zip(logits, one, strict=True)]
    others = [Row(how()), Row(how(99, 0.3), 8), Row(how(99, 2.0, top_p=0.5), 6)][:mates]
    found = [chosen(step.expand(mates + 1, -1), *others, row)[0][-1] for step, row in zip(logits, one, strict=True)]
    assert found == expected and len(set(found)) > 5
    other = [chosen(step[None], Row(how(99, 1.0), 7, row.said))[0][0] for step, row in zip(logits, one, strict=True)]
    assert expected != other


def test_a_draw_between_near_scores_is_a_near_tie():
    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(0))
    scores = logits[0] + gumbel(1, 0, 30)
    first, second = scores.topk(2).indices.tolist()
    logits[0, second] += scores[first] - scores[second]  # a tie with the noise, none without it
    assert chosen(logits, Row(how(9, 1.0), 1))[1] == [True]
    assert chosen(logits, Row(how()))[1] == [False]
