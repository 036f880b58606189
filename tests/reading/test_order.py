"""Orders are pure functions of (seed, position), and a step reads the same samples for every number of workers."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remora import catalog
from remora.data.mixture import read_mixture
from remora.data.order import MixtureOrder, Permutation
from remora.reading.batches import StageData
from remora.reading.prompt import Prompter
from remora.spec import Stage
from remora.token_ids import IGNORE


def epoch(order: MixtureOrder, number: int = 0) -> list[tuple[int, int]]:
    return [order[number * order.epoch_size + i] for i in range(order.epoch_size)]


@settings(max_examples=80)
@given(n=st.integers(1, 600), key=st.text(max_size=8))
def test_a_permutation_is_a_bijection_and_depends_on_its_key_alone(n, key):
    permutation = Permutation(n, key)
    order = [permutation[i] for i in range(n)]
    assert sorted(order) == list(range(n))
    asked_backwards = Permutation(n, key)
    assert [asked_backwards[i] for i in reversed(range(n))] == order[::-1]


def test_a_permutation_of_many_needs_no_memory_and_no_walk_through_them():
    order = Permutation(10**15, "k")
    some = [order[i] for i in range(500)]
    assert len(set(some)) == 500 and max(some) > 9 * 10**14


def test_other_keys_give_other_orders():
    orders = {tuple(Permutation(50, f"{seed}")[i] for i in range(50)) for seed in range(30)}
    assert len(orders) == 30


def test_every_place_is_taken_by_every_element_about_as_often():
    first = Counter(Permutation(10, f"{seed}")[0] for seed in range(5000))
    # 500 expected, standard deviation 21: 6 of them either side
    assert all(370 < first[i] < 630 for i in range(10))


@pytest.mark.parametrize("i", [-1, 5])
def test_what_is_outside_is_an_index_error(i):
    with pytest.raises(IndexError):
        Permutation(5, "k")[i]
    with pytest.raises(ValueError, match="at least one"):
        Permutation(0, "k")


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), seed=st.integers(0, 2**63))
def test_at_weight_one_an_epoch_holds_each_sample_once(sizes, seed):
    order = MixtureOrder(sizes, [1.0] * len(sizes), seed)
    everything = [(d, i) for d, size in enumerate(sizes) for i in range(size)]
    assert sorted(epoch(order, 0)) == sorted(epoch(order, 3)) == everything


def test_weights_say_how_often_an_epoch_reads_a_sample():
    order = MixtureOrder([10, 8, 1], [2.5, 0.5, 0.1], seed=1)
    counts = Counter(epoch(order))
    assert order.epoch_size == 25 + 4 + 1
    assert sorted(counts[0, i] for i in range(10)) == [2] * 5 + [3] * 5
    assert sorted(counts[1, i] for i in range(8)) == [0] * 4 + [1] * 4
    assert counts[2, 0] == 1  # a dataset is never read less than once


def test_epochs_and_seeds_differ():
    order, other = MixtureOrder([20, 20], [1, 1], seed=0), MixtureOrder([20, 20], [1, 1], seed=1)
    assert epoch(order, 0) != epoch(order, 1)
    assert epoch(order, 0) != epoch(other, 0)
    assert [d for d, _ in epoch(order)] != [d for d, _ in epoch(other)]
    assert any(d == 0 for d, _ in epoch(order)[:20]) and any(d == 1 for d, _ in epoch(order)[:20])


def test_positions_may_be_asked_in_any_order():
    order = MixtureOrder([7], [1], seed=3)
    forwards = [order[i] for i in range(21)]
    assert [order[i] for i in reversed(range(21))] == forwards[::-1]


@pytest.fixture
def stage_data(tiny_data, tiny_tokenizer, tmp_path):
    """Ten text-only samples in batches of four: two whole batches and one of two, twice over."""

    def make(**changes):
        file = tiny_data(count=10, pictures=False)
        stage = {
            "name": "s",
            "mixture": [{"path": str(file)}],
            "template": "brief",
            "batch": 4,
            "epochs": 1,
            "lr": 1e-3,
            "tune": {"vision": "absent", "connector": "absent", "llm": "full"},
        }
        prompter = Prompter(catalog.template("brief"), tiny_tokenizer, 0)
        checked = Stage.model_validate(stage | changes)
        return StageData(checked, read_mixture(checked.mixture, tmp_path), prompter, None, seed=5)

    return make


def read(data: StageData, step: int, world: int, size: int, rows: str) -> tuple[list[int], int]:
    """(numbers of the samples that all ranks train on, supervised tokens)."""
    samples, supervised, passes = [], 0, set()
    for rank in range(world):
        batches = data.read(step, rank, world, size, rows).batches
        passes.add(len(batches))
        for batch in batches:
            supervised += batch.supervised
            for row, labels in zip(batch.ids, batch.labels, strict=True):
                if (labels != IGNORE).any():
                    text = data.prompter.tokenizer.decode(row)
                    samples += [int(n) for n in re.findall(r"number (\d+)\?", text)]
    assert len(passes) == 1  # every rank takes as many, also those without a sample
    return samples, supervised


@pytest.mark.parametrize("rows", ["packed", "padded"])
@pytest.mark.parametrize("size", [1, 3])
def test_a_step_reads_the_same_samples_for_every_number_of_workers(stage_data, size, rows):
    data = stage_data(epochs=2)
    seen = []
    for step in range(data.steps):
        samples, supervised = read(data, step, 1, size, rows)
        for world in (2, 3):
            others, tokens = read(data, step, world, size, rows)
            assert sorted(others) == sorted(samples) and tokens == supervised
        seen.append([int(data.sample(p).id[1:]) for p in data.positions(step)])
        assert sorted(seen[-1]) == sorted(samples)
    assert [len(s) for s in seen] == [4] * 5
    in_order = list(chain(*seen))
    assert sorted(in_order[:10]) == sorted(in_order[10:]) == list(range(10))
    assert in_order[:10] != in_order[10:]


@pytest.mark.parametrize("rows", ["packed", "padded"])
def test_the_last_batch_of_an_epoch_is_smaller_and_some_ranks_have_none_of_it(stage_data, rows):
    data = stage_data()
    assert data.steps == 3
    for world in (1, 2, 3):
        steps = [read(data, step, world, 1, rows)[0] for step in range(3)]
        assert [len(s) for s in steps] == [4, 4, 2]
        assert sorted(chain(*steps)) == list(range(10))


def test_a_stage_in_steps_reads_on_into_the_next_epoch(stage_data):
    data = stage_data(epochs=None, steps=7)
    read_at = Counter(chain(*(read(data, step, 2, 2, "packed")[0] for step in range(7))))
    assert data.total == 28 and sum(read_at.values()) == 28
    assert set(read_at.values()) == {2, 3}


def test_padding_carries_no_label_and_no_attention(stage_data):
    data = stage_data()
    (batch,) = data.read(0, 0, 1, 4, "padded").batches
    padded = batch.mask == 0
    assert padded.any() and not padded[:, 0].any()
    assert (batch.labels[padded] == IGNORE).all() and (batch.ids[padded] == data.pad).all()
    assert (batch.labels[(batch.labels != IGNORE)] == batch.ids[batch.labels != IGNORE]).all()


def test_a_cap_is_a_seeded_choice_that_every_epoch_reads():
    order = MixtureOrder([100, 5], [1, 2], seed=3, caps=[10, None])
    assert order.epoch_size == 20
    epochs = [[order[e * 20 + i] for i in range(20)] for e in range(3)]
    first = {s for d, s in epochs[0] if d == 0}
    assert len(first) == 10 and all({s for d, s in e if d == 0} == first for e in epochs)
    assert epochs[0] != epochs[1] and first != {
        s for d, s in (MixtureOrder([100, 5], [1, 2], 4, [10, None])[i] for i in range(20)) if d == 0
    }
    assert Counter(s for d, s in epochs[0] if d == 1) == dict.fromkeys(range(5), 2)
    assert MixtureOrder([3], [1], 0, [10]).epoch_size == 3
