"""Alpha spending and exact paired tests, against published tables, scipy's own tests, enumeration and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from remora.evaluation.sequential import SPENT, levels, paired_rates, quantile, sign_test


@pytest.mark.parametrize(
    ("spending", "bounds"),
    [
        ("obrien-fleming", (4.8769, 3.3570, 2.6803, 2.2898, 2.0310)),
        ("pocock", (2.4380, 2.4268, 2.4101, 2.3966, 2.3859)),
    ],
)
def test_five_looks_are_those_of_the_tables(spending, bounds) -> None:
    """Of Lan and DeMets' functions, one-sided 0.025 (Jennison and Turnbull 2000, and gsDesign's)."""
    found = [-stats.norm.ppf(level) for level in levels(5, 0.025, spending)]
    assert found == pytest.approx(bounds, abs=2e-4)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("spending", SPENT)
@pytest.mark.parametrize(("looks", "alpha"), [(1, 0.05), (2, 0.05), (20, 0.05), (20, 0.05 / 7), (100, 0.01)])
def test_a_random_walk_crosses_with_probability_alpha(spending, looks, alpha) -> None:
    found = np.array(levels(looks, alpha, spending))
    rng, walks = np.random.default_rng(looks), 200_000
    place, crossed = np.zeros(walks), np.zeros(walks, bool)
    for look, level in enumerate(found, 1):
        place += rng.standard_normal(walks)
        crossed |= place / math.sqrt(look) >= -stats.norm.ppf(level)
    assert abs(crossed.mean() - alpha) < 4 * math.sqrt(alpha / walks)
    parts = np.diff([0.0, *(SPENT[spending](look / looks, alpha) for look in range(1, looks + 1))])
    assert (found >= parts * (1 - 1e-6)).all(), "never less than what Bonferroni would give it"
    assert SPENT[spending](1.0, alpha) == pytest.approx(alpha)


def test_the_sign_test_is_the_binomial_one() -> None:
    for up, down in itertools.product(range(9), range(9)):
        if up + down:
            more = stats.binomtest(up, up + down, alternative="greater").pvalue
            fewer = stats.binomtest(up, up + down, alternative="less").pvalue
            assert sign_test(up, down) == pytest.approx((more, fewer))
    assert sign_test(0, 0) == (1.0, 1.0)


def restricted(up: int, down: int, count: int, margin: float) -> float:
    """The second's own rate that makes the counts most likely, by trying a million."""
    rates = np.linspace(0, (1 - margin) / 2, 1_000_001)
    with np.errstate(divide="ignore", invalid="ignore"):
        likely = np.where(up > 0, up * np.log(rates + margin), 0.0)
        likely = likely + (down * np.log(rates) if down else 0.0)
        rest = count - up - down
        likely = likely + (rest * np.log(1 - 2 * rates - margin) if rest else 0.0)
    return float(rates[np.nanargmax(likely)])


def differences(count: int, first: float, second: float) -> np.ndarray:
    """The distribution of up - down, from -count to count, by convolving pair by pair."""
    one, found = np.array([second, 1 - first - second, first]), np.array([1.0])
    for _ in range(count):
        found = np.convolve(found, one)
    return found


@pytest.mark.parametrize("margin", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("count", [1, 7, 40])
def test_paired_rates_are_the_exact_distribution_at_the_likeliest_rate(count, margin) -> None:
    for up, down in [(0, 0), (1, 0), (0, 1), (3, 1), (2, 5), (7, 0), (20, 15), (40, 0), (0, 40)]:
        if up + down > count:
            continue
        second = restricted(up, down, count, margin)
        chance = differences(count, second + margin, second)
        at = up - down + count
        expected = chance[at:].sum(), chance[: at + 1].sum()
        assert paired_rates(up, down, count, margin) == pytest.approx(expected, abs=2e-5)
    assert paired_rates(0, 0, count, margin)[1] == pytest.approx((1 - margin) ** count)
    assert paired_rates(0, 0, 0, margin) == (1.0, 1.0)


@pytest.mark.parametrize(("count", "margin"), [(60, 0.1), (100, 0.05)])
def test_their_level_is_nearly_the_nominal_one(count, margin) -> None:
    """Over every outcome, at rates that differ by exactly the margin: how often p is at most alpha."""
    ups, downs = np.array([(u, d) for u in range(count + 1) for d in range(count + 1 - u)]).T
    kept = (ups < count // 2) & (downs < count // 2)  # the others never come at these rates
    ups, downs = ups[kept], downs[kept]
    p = np.array([paired_rates(int(u), int(d), count, margin) for u, d in zip(ups, downs, strict=True)])
    for second in (0.001, 0.01, 0.03, 0.08):
        cells = [second + margin, second, 1 - 2 * second - margin]
        chance = stats.multinomial.pmf(np.stack([ups, downs, count - ups - downs], axis=1), count, cells)
        for alpha, side in itertools.product((0.05, 0.01), (0, 1)):
            assert float(chance[p[:, side] <= alpha].sum()) <= 1.2 * alpha


def test_quantiles_are_values() -> None:
    assert [quantile([3, 1, 2, 4], share) for share in (0.25, 0.5, 0.51, 1.0)] == [1, 2, 3, 4]
    assert quantile([5.0], 0.95) == 5.0
