"""Ranking models on the same questions: against explicit swaps, and simulations with a known truth."""

from __future__ import annotations

import itertools
from statistics import NormalDist

import numpy as np
import pytest

from remora.evaluation import figures, ranking
from remora.evaluation.figures import difference, mean, ratio, value
from remora.evaluation.ranking import cheapest, rank


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulations rank hundreds of sets: 400 swaps each are enough to know 5%."""
    monkeypatch.setattr(ranking, "SWAPS", 400)
    monkeypatch.setattr(ranking, "RESAMPLES", 2)
    monkeypatch.setattr(figures, "RESAMPLES", 2)


def answered(rng: np.random.Generator, right: list[float], n: int, alike: float = 0.5, clones: int = 0) -> np.ndarray:
    """0/1 answers [n, models] of models that are right this often; `alike` is how much the same questions are hard for
    all of them, and the first `clones` answer almost the same."""
    hard = np.sqrt(alike) * rng.standard_normal((n, 1)) + np.sqrt(1 - alike) * rng.standard_normal((n, len(right)))
    if clones:
        hard[:, :clones] = hard[:, :1] + 0.02 * rng.standard_normal((n, clones))
    return (hard < [NormalDist().inv_cdf(p) for p in right]).astype(float)


def of(scores: np.ndarray) -> dict[str, figures.Figure]:
    return {str(i): mean(column, scale=1) for i, column in enumerate(scores.T)}


def each(count: int, per: int = 1) -> list[str]:
    return [str(i // per) for i in range(count * per)]


def every_swap(scores: np.ndarray, groups: list[str]) -> dict[int, float]:
    """Adjusted p of each model against the best, by trying all 2^groups swaps, pair by pair."""
    names = sorted(set(groups), key=int)
    sums = np.array([scores[[g == name for g in groups]].sum(axis=0) for name in names])
    pairs = list(itertools.combinations(range(scores.shape[1]), 2))

    def largest(signs: tuple[int, ...]) -> float:
        found = []
        for i, j in pairs:
            apart = [float(row[i] - row[j]) for row in sums]
            if error := sum(d * d for d in apart) ** 0.5:
                found.append(abs(sum(s * d for s, d in zip(signs, apart, strict=True))) / error)
        return max(found)

    chance = [largest(signs) for signs in itertools.product((1, -1), repeat=len(names))]
    best = int(scores.mean(axis=0).argmax())
    p = {}
    for i in range(scores.shape[1]):
        apart = [float(row[best] - row[i]) for row in sums]
        error = sum(d * d for d in apart) ** 0.5
        p[i] = float(np.mean([c >= abs(sum(apart)) / error - 1e-9 for c in chance])) if error else 1.0
    return p


@pytest.mark.parametrize("seed", range(3))
def test_adjusted_p_is_that_of_every_swap(seed: int) -> None:
    scores = answered(np.random.default_rng(seed), [0.9, 0.8, 0.5, 0.3], 20)
    groups = each(10, 2)
    found = {int(m.name): m.p for m in rank(of(scores), groups).models}
    # 10,000 random swaps: the standard error of a p is at most 0.005
    assert found == pytest.approx(every_swap(scores, groups), abs=0.02)


def test_of_two_models_it_is_the_paired_test() -> None:
    scores = answered(np.random.default_rng(3), [0.7, 0.5], 60)
    groups = each(30, 2)
    best, other = rank(of(scores), groups).models
    pair = difference(mean(scores[:, int(best.name)]), mean(scores[:, int(other.name)]), groups)
    assert other.p == pytest.approx(pair.p, abs=0.02) and 100 * other.behind == pytest.approx(pair.a - pair.b)


def test_the_best_comes_first_and_equal_figures_stay_in_their_order() -> None:
    columns = {"a": [1, 0, 0, 1], "b": [1, 1, 1, 0], "c": [0, 1, 1, 1], "d": [1, 1, 0, 0]}
    found = rank({k: mean(v) for k, v in columns.items()}, each(4))
    assert [m.name for m in found.models] == ["b", "c", "a", "d"] and found.best == "b"
    assert found.equals == ("c", "a", "d") and (found.n, found.groups) == (4, 4)
    best = found.models[0]
    assert (best.behind, best.behind_low, best.behind_high, best.p) == (0.0, 0.0, 0.0, 1.0)
    assert found == rank({k: mean(v) for k, v in columns.items()}, each(4)), "seeded"


def test_the_interval_leaves_out_nought_where_the_difference_counts() -> None:
    scores = answered(np.random.default_rng(5), [0.9, 0.87, 0.7, 0.4], 300)
    found = rank(of(scores), each(300))
    assert {m.p <= 0.05 for m in found.models} == {True, False}
    for m in found.models[1:]:
        assert (m.behind_low > 0) == (m.p <= found.alpha)
        assert (m.name in found.equals) == (m.p > found.alpha)


def test_one_model_and_models_that_answer_alike() -> None:
    alone = rank({"a": mean([1, 0, 1])}, each(3))
    assert (alone.best, alone.equals, alone.expected_drop) == ("a", (), 0.0)
    same = rank({"a": mean([1, 0, 1]), "b": mean([1, 0, 1]), "c": mean([0, 0, 0])}, ["p"] * 3)
    assert same.equals == ("b", "c") and same.expected_drop == 0.0, "one picture tells nothing apart"


def test_a_figure_that_is_no_mean() -> None:
    """F1's denominator is each model's own; what pictures add is linearised, and its total is the difference."""
    rng = np.random.default_rng(6)
    gold = rng.integers(0, 2, 200).astype(float)
    said = {str(i): (rng.random(200) < np.where(gold == 1, p, 1 - p)).astype(float) for i, p in enumerate((0.9, 0.7))}
    f1 = {k: ratio(2 * gold * s, gold + s, 1) for k, s in said.items()}
    _, other = rank(f1, each(200)).models
    assert other.behind == pytest.approx(value(f1["0"]) - value(f1["1"])) and other.p < 0.001
    pair = difference(f1["0"], f1["1"], each(200))
    assert other.behind_low == pytest.approx(pair.low, abs=0.03) and other.behind_high == pytest.approx(
        pair.high, abs=0.03
    )


def test_models_that_answer_alike_are_told_apart_by_few_questions() -> None:
    """The second lost twelve of the first one's questions and won none; what is between them and a third, which answers
    otherwise altogether, is much more, and by chance."""
    first = np.array([1.0] * 110 + [0.0] * 90)
    second, third = first.copy(), first[::-1].copy()
    second[:12] = 0.0
    found = rank(of(np.stack([first, second, third], axis=1)), each(200))
    p = {m.name: m.p for m in found.models}
    assert p["1"] < 0.01 and p["2"] > 0.05


def test_the_cheapest_of_the_equals() -> None:
    scores = answered(np.random.default_rng(7), [0.9, 0.89, 0.3], 100)
    found = rank(of(scores), each(100))
    assert set(found.equals) | {found.best} == {"0", "1"}
    assert cheapest(found, {"0": (2, 1), "1": (1, 9), "2": (0, 0)}) == "1", "the worst one is no equal"
    assert cheapest(found, {"0": (2, 1), "1": (2, 2), "2": (0, 0)}) == "0"
    assert cheapest(found, {"0": (2,), "1": (2,), "2": (0,)}) == found.best


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("right", "n", "more"),
    [
        ([0.7] * 6, 60, {}),
        ([0.7] * 6, 60, {"per": 5}),
        ([0.5] * 10, 60, {"alike": 0.0, "clones": 8}),
        ([0.8] * 3 + [0.5] * 3, 100, {}),
    ],
    ids=["equal", "five questions a picture", "clones and two others", "two levels"],
)
def test_equal_models_are_seldom_told_apart(few: None, right: list[float], n: int, more: dict) -> None:
    """In at most 5% of 300 sets any model may be called worse than the best though it is not (standard error 1.3%),
    and the true differences lie in all intervals at once in at least 95%."""
    rng, per = np.random.default_rng(8), more.pop("per", 1)
    wrong = held = 0
    for _ in range(300):
        found = rank(of(np.repeat(answered(rng, right, n, **more), per, axis=0)), each(n, per))
        top = right[int(found.best)]
        wrong += any(m.p <= found.alpha and right[int(m.name)] >= top for m in found.models[1:])
        held += all(m.behind_low - 1e-9 <= top - right[int(m.name)] <= m.behind_high + 1e-9 for m in found.models)
    assert wrong / 300 <= 0.085
    assert held / 300 >= 0.915


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("right", "n", "alike"),
    [([0.8] * 24, 400, 0.5), ([0.87] * 4, 400, 0.5), ([0.9] + [0.8] * 9, 500, 0.9), ([0.8] * 8 + [0.6] * 8, 400, 0.5)],
    ids=["24 equal", "4 equal", "a clear winner", "eight at the top"],
)
def test_the_expected_drop_is_the_winners_curse(
    few: None, monkeypatch: pytest.MonkeyPatch, right: list[float], n: int, alike: float
) -> None:
    """The mean of 120 estimates against the mean of 120 true drops, whose standard error is below 0.0015."""
    monkeypatch.setattr(ranking, "RESAMPLES", 100)
    rng = np.random.default_rng(9)
    true, estimated = [], []
    for _ in range(120):
        scores = answered(rng, right, n, alike)
        best = int(scores.mean(axis=0).argmax())
        true.append(scores.mean(axis=0)[best] - right[best])
        estimated.append(rank(of(scores), each(n)).expected_drop)
    assert np.mean(estimated) == pytest.approx(np.mean(true), rel=0.25, abs=0.003)
