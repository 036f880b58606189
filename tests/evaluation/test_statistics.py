"""Intervals: Wilson's against published figures, the clustered one by what it must equal and how often it covers."""

from __future__ import annotations

import numpy as np
import pytest

from remora.evaluation.statistics import accuracy_interval, wilson


# Newcombe, "Two-sided confidence intervals for the single proportion" (Statistics in Medicine 17, 1998), table I
@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_as_published(right, n, low, high):
    assert wilson(right / n, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (1, 2), (3, 7), (61, 100), (100, 100), (1, 1)])
def test_questions_of_their_own_give_wilsons_interval(right, n):
    scores = [1.0] * right + [0.0] * (n - right)
    assert accuracy_interval(scores, range(n)) == pytest.approx((right / n, *wilson(right / n, n)))


@pytest.mark.parametrize("repeats", [2, 10])
def test_the_same_question_asked_again_teaches_nothing(repeats):
    scores = [1.0] * 14 + [0.0] * 6
    mean, low, high = accuracy_interval(scores * repeats, [*range(20)] * repeats)
    # 20 pictures against 20 questions: the groups' k / (k - 1) against n / (n - 1) moves the bounds in the third digit
    assert (mean, low, high) == pytest.approx((0.7, *wilson(0.7, 20)), abs=0.01)
    assert low < wilson(0.7, 20)[0] and high > wilson(0.7, 20)[1]


def test_pictures_that_are_equally_hard_do_not_shrink_the_interval():
    scores, pictures = [1.0, 0.0] * 50, [i // 2 for i in range(100)]
    assert accuracy_interval(scores, pictures) == pytest.approx((0.5, *wilson(0.5, 100)))


def test_one_picture_counts_as_one_question_and_all_right_as_its_pictures():
    assert accuracy_interval([1.0, 0.0, 1.0], ["p"] * 3) == pytest.approx((2 / 3, *wilson(2 / 3, 1)))
    assert accuracy_interval([1.0] * 12, [i % 4 for i in range(12)]) == pytest.approx((1.0, *wilson(1.0, 4)))


def test_the_order_of_questions_does_not_matter():
    rng = np.random.default_rng(0)
    scores, pictures = rng.integers(0, 2, 60).astype(float), rng.integers(0, 9, 60)
    order = rng.permutation(60)
    assert accuracy_interval(scores, pictures) == pytest.approx(accuracy_interval(scores[order], pictures[order]))


def test_no_scores_and_scores_without_groups_are_errors():
    with pytest.raises(ValueError, match="no scores"):
        accuracy_interval([], [])
    with pytest.raises(ValueError, match="shorter"):
        accuracy_interval([1.0, 0.0], ["p"])


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """60 pictures, 8 questions each, pictures that differ in difficulty; 1,000 benchmarks of which each is one draw.

    1,000 draws of a 95% event have a standard deviation of 0.7%; the linearised variance itself is a little small at
    60 groups. So 93 to 97%. An interval that takes the questions as independent covers far less.
    """
    rng = np.random.default_rng(1)
    pictures = np.repeat(np.arange(60), 8).tolist()
    covered = naive = 0
    for _ in range(1000):
        hard = rng.beta(1.2, 0.8, 60)  # mean 0.6
        scores = (rng.random(480) < np.repeat(hard, 8)).astype(float).tolist()
        mean, low, high = accuracy_interval(scores, pictures)
        covered += low <= 0.6 <= high
        low, high = wilson(mean, 480)
        naive += low <= 0.6 <= high
    assert 930 <= covered <= 970
    assert naive < 800
