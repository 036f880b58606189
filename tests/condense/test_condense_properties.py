"""Properties of the filters: edges of ranks, chains of filters, and independence of the order of rows."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from remora.condense.duplicates import components, medians
from remora.condense.filters import ranked
from remora.condense.vectors import Vectors
from support.condense_reference import ranking

SHARE = st.integers(0, 100).map(lambda percent: percent / 100)
RANGE = st.tuples(SHARE, SHARE).filter(lambda r: r[0] < r[1])
SCORES = st.lists(st.integers(-5, 5), max_size=60).map(lambda s: np.array(s, float) / 5)
DISTINCT = st.lists(st.integers(-1000, 1000), min_size=1, max_size=60, unique=True).map(lambda s: np.array(s, float))


@given(SCORES, RANGE)
def test_ranks_are_those_of_a_sort(scores, bounds):
    rows = list(range(len(scores)))
    assert np.flatnonzero(ranked(scores, *bounds)).tolist() == ranking(rows, dict(enumerate(scores)), *bounds)


@given(SCORES, RANGE)
def test_as_many_are_kept_as_the_share_says(scores, bounds):
    low, high = (Fraction(str(b)) for b in bounds)
    assert abs(int(ranked(scores, *bounds).sum()) - (high - low) * len(scores)) <= 1


@given(SCORES, st.lists(SHARE, min_size=1, max_size=4, unique=True).map(sorted))
def test_neighbouring_ranges_share_nothing_and_leave_nothing_out(scores, cuts):
    edges = [0.0, *cuts, 1.0]
    times = sum(ranked(scores, a, b).astype(int) for a, b in pairwise(edges))
    assert (times == 1).all()


@given(DISTINCT, RANGE, RANGE, st.randoms(use_true_random=False))
def test_two_filters_chain_whatever_the_order_of_rows(scores, first, second, random):
    """The second ranks among what the first kept, by its own scores; a permutation of the rows permutes the result."""
    other = np.array(random.sample(range(1000), len(scores)), float)

    def chain(order):
        rows = order[ranked(scores[order], *first)]
        return set(rows[ranked(other[rows], *second)].tolist())

    order = np.array(random.sample(range(len(scores)), len(scores)))
    kept = chain(np.arange(len(scores)))
    assert chain(order) == kept
    by_first = ranking(list(range(len(scores))), dict(enumerate(scores)), *first)
    assert sorted(kept) == ranking(by_first, dict(enumerate(other)), *second)


@given(st.integers(1, 40), st.integers(0, 10_000), st.floats(0.2, 0.95))
def test_what_is_kept_of_near_copies_follows_no_order(n, seed, threshold):
    g = np.random.default_rng(seed)
    rows = g.standard_normal((n, 3)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distances, order = g.permutation(n).astype(float), g.permutation(n)

    def kept(at):
        return at[medians(components(rows[at], threshold), distances[at])][np.argsort(at)]

    assert kept(order).tolist() == kept(np.arange(n)).tolist()


@settings(max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_rows_are_the_same_however_they_are_cut_into_files(sizes, random):
    total = sum(sizes)
    rows = np.random.default_rng(total).standard_normal((total, 3)).astype(np.float32)
    wanted = np.array(sorted(random.sample(range(total), random.randint(0, total))), int)
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.npy" for i in range(len(sizes))]
        for file, part in zip(files, np.split(rows, np.cumsum(sizes)[:-1]), strict=True):
            np.save(file, part)
        cut = Vectors(files)
        assert len(cut) == total
        np.save(Path(folder) / "whole.npy", rows)
        assert np.array_equal(cut.take(wanted), Vectors([Path(folder) / "whole.npy"]).take(wanted))
        assert np.allclose(cut.take(wanted) * np.linalg.norm(rows[wanted], axis=1)[:, None], rows[wanted], atol=1e-6)
