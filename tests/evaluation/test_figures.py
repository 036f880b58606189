"""Figures against their formulas, intervals against what they promise, the paired test against every swap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from remora.evaluation import figures
from remora.evaluation.figures import Term, difference, holm, interval, mean, ratio, total, value
from remora.evaluation.statistics import accuracy_interval


def test_a_figure_is_a_sum_of_ratios_of_sums():
    assert value(mean([1, 0, 0.5])) == 50.0
    assert value(mean([1, 0, 0.5], [True, False, True])) == 75.0
    assert value(ratio([1, 2], [4, 4], 1)) == 3 / 8
    assert value(total([mean([1, 0]), ratio([1, 1], [4, 0])], scale=0.5)) == 0.5 * (50 + 50)


def test_nothing_to_divide_by_is_nought():
    assert value(ratio([1, 1], [0, 0])) == 0.0
    assert value(mean([])) == 0.0 and interval(mean([]), []) == (0.0, 0.0)


def test_a_means_interval_is_wilsons_over_pictures():
    rng = np.random.default_rng(0)
    scores, groups = rng.integers(0, 2, 60).tolist(), [str(i // 3) for i in range(60)]
    where = [i % 2 == 0 for i in range(60)]
    _, low, high = accuracy_interval(scores[::2], groups[::2])
    assert interval(mean(scores, where), groups) == pytest.approx((100 * low, 100 * high))


def f1(gold: np.ndarray, said: np.ndarray) -> figures.Figure:
    return ratio(2 * gold * said, gold + said, 1)


@pytest.mark.slow
def test_an_interval_holds_the_truth_as_often_as_it_says(monkeypatch):
    """300 samples of a known population: the fraction of 95% intervals that contain it has a standard error of 1.3%."""
    monkeypatch.setattr(figures, "RESAMPLES", 300)
    rng = np.random.default_rng(1)
    held = 0
    truth = 2 * 0.5 * 0.8 / (0.5 + 0.5 * 0.8 + 0.5 * 0.3)  # half are yes; 80% of them and 30% of the others get a yes
    for _ in range(300):
        gold = rng.integers(0, 2, 150).astype(float)
        said = (rng.random(150) < np.where(gold == 1, 0.8, 0.3)).astype(float)
        low, high = interval(f1(gold, said), [str(i) for i in range(150)])
        held += low <= truth <= high
    assert 0.91 <= held / 300 <= 0.98


def test_an_interval_knows_that_questions_share_pictures():
    """Each picture's five questions have one answer: the interval is that of a fifth of the questions."""
    rng = np.random.default_rng(2)
    gold, said = (np.repeat(rng.integers(0, 2, 60), 5).astype(float) for _ in range(2))
    alone = interval(f1(gold, said), [str(i) for i in range(300)])
    together = interval(f1(gold, said), [str(i // 5) for i in range(300)])
    assert (together[1] - together[0]) / (alone[1] - alone[0]) == pytest.approx(5**0.5, rel=0.15)


def every_swap(a: list[float], b: list[float], groups: list[str]) -> float:
    """The paired test's p, by trying all 2^groups swaps of a mean."""
    names = sorted(set(groups))
    found = abs(sum(a) - sum(b))
    extreme = 0
    for swapped in itertools.product([False, True], repeat=len(names)):
        sign = {n: -1 if s else 1 for n, s in zip(names, swapped, strict=True)}
        extreme += abs(sum(sign[g] * (x - y) for x, y, g in zip(a, b, groups, strict=True))) >= found - 1e-12
    return extreme / 2 ** len(names)


@pytest.mark.parametrize("seed", range(4))
def test_the_paired_test_is_that_of_every_swap(seed):
    rng = np.random.default_rng(seed)
    groups = [str(i // 2) for i in range(20)]
    a, b = (rng.random(20) < 0.7).astype(float).tolist(), (rng.random(20) < 0.4).astype(float).tolist()
    found = difference(mean(a), mean(b), groups)
    assert found.a - found.b == pytest.approx(100 * (np.mean(a) - np.mean(b)))
    # 10,000 random swaps: the standard error of a p is at most 0.005
    assert found.p == pytest.approx(every_swap(a, b, groups), abs=0.02)
    assert found.low <= found.a - found.b <= found.high


def test_two_equal_models_do_not_differ():
    found = difference(mean([1, 0, 1]), mean([1, 0, 1]), ["a", "b", "c"])
    assert (found.p, found.low, found.high) == (1.0, 0.0, 0.0)


def test_chance_is_called_real_as_seldom_as_it_says(monkeypatch):
    """Of 300 pairs of equally good models 5% may seem to differ: standard error 1.3%."""
    monkeypatch.setattr(figures, "SWAPS", 300)
    monkeypatch.setattr(figures, "RESAMPLES", 2)
    rng = np.random.default_rng(4)
    groups = [str(i) for i in range(80)]
    seemed = sum(
        difference(f1(gold, one), f1(gold, other), groups).p < 0.05
        for gold, one, other in (rng.integers(0, 2, (3, 80)).astype(float) for _ in range(300))
    )
    assert seemed / 300 <= 0.09


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5}) == pytest.approx(
        {"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.5}
    )
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}


def test_a_term_over_some_items_that_are_counted_twice_is_no_mean():
    """Wilson's formula is for proportions only."""
    low, high = interval((Term(np.array([2.0, 0.0, 2.0]), np.array([2.0, 1.0, 2.0]), 1.0),), ["a", "b", "c"])
    assert 0 <= low <= 0.8 <= high <= 1
