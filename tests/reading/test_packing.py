"""Rows and groups: each sample once, none above its capacity, as few and as even as can be, the same on every rank."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remora.reading.packing import deal, group, pack

CAPACITY = 40
LENGTHS = st.lists(st.integers(1, CAPACITY), max_size=60)
RANKS = st.integers(1, 5)


def flat(shares):
    return sorted(itertools.chain(*shares))


@settings(max_examples=200)
@given(lengths=LENGTHS, ranks=RANKS)
def test_rows_hold_each_sample_once_and_no_more_than_their_capacity(lengths, ranks):
    rows = pack(lengths, CAPACITY, ranks)
    assert flat(rows) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= CAPACITY for row in rows)
    assert len(rows) % ranks == 0 and rows
    assert rows == pack(list(lengths), CAPACITY, ranks)
    assert all(row == sorted(row) for row in rows)


@settings(max_examples=200)
@given(lengths=LENGTHS, ranks=RANKS)
def test_no_two_rows_could_be_one(lengths, ranks):
    rows = pack(lengths, CAPACITY, 1)
    loads = [sum(lengths[i] for i in row) for row in rows]
    assert loads == sorted(loads, reverse=True)
    assert len(rows) <= max(1, 2 * sum(lengths) / CAPACITY + 1)  # at most one is half empty
    assert len(pack(lengths, CAPACITY, ranks)) == math.ceil(len(rows) / ranks) * ranks


def loads_of(lengths, count):
    """The fullest row of every way to fill `count` rows."""
    for where in itertools.product(range(count), repeat=len(lengths)):
        loads = [0] * count
        for length, row in zip(lengths, where, strict=True):
            loads[row] += length
        yield max(loads)


@pytest.mark.slow
@settings(max_examples=60)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_few_samples_are_packed_as_well_as_they_can_be(lengths):
    rows = pack(lengths, 12)
    counts = range(1, len(lengths) + 1)
    assert len(rows) == next(n for n in counts if min(loads_of(lengths, n)) <= 12)  # so few are always packed best
    fullest = sum(lengths[i] for i in rows[0])
    assert fullest <= 1.22 * min(loads_of(lengths, len(rows)))  # MULTIFIT's bound


def test_rows_of_many_samples_are_even():
    draw = random.Random(0)
    lengths = [min(2048, int(draw.lognormvariate(6.5, 0.5)) + 1) for _ in range(256)]
    for capacity, ranks in (2048, 8), (8192, 8), (8192, 1):
        loads = [sum(lengths[i] for i in row) for row in pack(lengths, capacity, ranks)]
        mean = sum(loads) / len(loads)
        # One sample of 2,048 tokens fills a row by itself, however even the others are.
        assert mean / loads[0] > (0.98 if capacity == 2048 else 0.99)
    assert len(pack(lengths, 2048)) <= math.ceil(sum(lengths) / 2048) + 1


@pytest.mark.parametrize("lengths", [[41], [0, 3]])
def test_what_fits_no_row_is_an_error(lengths):
    with pytest.raises(ValueError, match="do not fit rows of 1 to 40 tokens"):
        pack(lengths, CAPACITY)


def test_without_samples_every_rank_still_has_a_row():
    assert pack([], CAPACITY, 3) == group([], 2, 3) == [[], [], []]


@settings(max_examples=200)
@given(lengths=LENGTHS, ranks=RANKS, size=st.integers(1, 7))
def test_groups_hold_each_sample_once_and_no_more_than_their_size(lengths, ranks, size):
    groups = group(lengths, size, ranks)
    assert flat(groups) == list(range(len(lengths)))
    assert max(map(len, groups)) <= size
    assert len(groups) == max(1, math.ceil(len(lengths) / (size * ranks))) * ranks
    passes = [[lengths[i] for g in groups[at : at + ranks] for i in g] for at in range(0, len(groups), ranks)]
    for longer, shorter in itertools.pairwise(p for p in passes if p):
        assert min(longer) >= max(shorter)
    for at in range(0, len(groups), ranks):
        counts = [len(g) for g in groups[at : at + ranks]]
        assert max(counts) - min(counts) <= 1


def test_grouping_never_pads_more_than_the_order_of_the_step():
    draw = random.Random(1)
    for _ in range(50):
        lengths = [draw.randint(1, 100) for _ in range(48)]
        grouped = sum(len(g) * max(lengths[i] for i in g) for g in group(lengths, 4))
        in_order = sum(4 * max(lengths[at : at + 4]) for at in range(0, 48, 4))
        assert grouped <= in_order


@settings(max_examples=100)
@given(count=st.integers(1, 6), ranks=RANKS)
def test_every_share_is_dealt_once_and_every_rank_has_as_many(count, ranks):
    shares = [[i] for i in range(count * ranks)]
    hands = [deal(shares, rank, ranks) for rank in range(ranks)]
    assert {len(hand) for hand in hands} == {count}
    assert sorted(itertools.chain(*hands)) == shares
    for at in range(count):  # a pass is one neighbourhood of sizes on all ranks
        assert sorted(hand[at][0] for hand in hands) == list(range(at * ranks, (at + 1) * ranks))
    sums = [sum(s[0] for s in hand) for hand in hands]
    assert max(sums) - min(sums) <= (0 if count % 2 == 0 else ranks - 1)
