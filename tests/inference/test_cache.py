"""The slot cache equals transformers' cache, whichever requests join, leave or move."""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicLayer

from remora.inference.cache import SlotCache


def states(rows: int, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.rand(rows, 2, tokens, 3, generator=generator)
    return keys, keys + 1


def write(cache: SlotCache, first: int, start: int, given: tuple[torch.Tensor, torch.Tensor], lengths=None):
    """One pass over a cache of one layer, as a model makes it."""
    (layer,) = cache.window(first, first + len(given[0]), start, lengths).layers
    assert layer.get_seq_length() == start
    return layer.update(*given)


def test_it_holds_what_a_growing_cache_holds():
    cache, other, start = SlotCache(1), DynamicLayer(), 0
    cache.resize(5, 9)
    for seed, tokens in enumerate((4, 1, 1, 3)):
        given = states(5, tokens, seed)
        (layer,) = cache.window(0, 5, start).layers
        assert layer.get_mask_sizes(tokens) == other.get_mask_sizes(tokens)
        for ours, theirs in zip(layer.update(*given), other.update(*given), strict=True):
            assert torch.equal(ours, theirs)
        start += tokens
        assert layer.get_seq_length() == other.get_seq_length() == start


def test_each_row_writes_behind_its_own_tokens():
    cache = SlotCache(1)
    cache.resize(4, 6)
    given = [states(1, tokens, tokens) for tokens in (4, 2, 3)]
    for slot, one in enumerate(given):
        write(cache, slot, 0, one)
    token = states(3, 1, 9)
    found = write(cache, 0, 4, token, torch.tensor([4, 2, 3]))
    for kind in (0, 1):
        assert found[kind].shape == (3, 2, 5, 3)
        for slot, one in enumerate(given):
            held = one[kind].shape[2]
            assert torch.equal(found[kind][slot, :, :held], one[kind][0])
            assert torch.equal(found[kind][slot, :, held], token[kind][slot, :, 0])
            assert not found[kind][slot, :, held + 1 :].any()


def test_rows_move_up_and_a_free_slot_is_zeros():
    """A stale NaN in it would pass through any mask of the next row there."""
    cache = SlotCache(1)
    cache.resize(4, 5)
    given = states(3, 4, 0)
    given[0][0] = given[1][0] = float("nan")
    write(cache, 0, 0, given)
    cache.free(0, 2)
    keys, values = write(cache, 0, 4, states(3, 1, 1))
    assert torch.equal(keys[:2, :, :4], given[0][[2, 1]]) and torch.equal(values[:2, :, :4], given[1][[2, 1]])
    assert not keys[2, :, :4].any() and not values[2, :, :4].any()


def test_rows_keep_their_tokens_when_slots_grow_and_shrink():
    cache = SlotCache(1)
    cache.resize(2, 4)
    given = states(2, 3, 0)
    write(cache, 0, 0, given)
    for size in ((2, 9), (7, 9), (3, 4)):
        cache.resize(*size)
        keys, values = cache.layer(0, *given)
        assert keys.shape == (size[0], 2, size[1], 3)
        assert torch.equal(keys[:2, :, :3], given[0]) and torch.equal(values[:2, :, :3], given[1])
        assert not keys[:2, :, 3:].any() and not keys[2:].any()


def test_a_prefix_is_a_copy_that_many_rows_begin_with():
    cache, other = SlotCache(1), SlotCache(1)
    cache.resize(1, 4)
    other.resize(2, 6)
    given = states(1, 4, 0)
    write(cache, 0, 0, given)
    prefix = cache.take(0, 3)
    cache.free(0, 0)
    for slot in (0, 1):
        other.put(slot, prefix)
    keys, values = write(other, 0, 3, states(2, 1, 1))
    for slot in (0, 1):
        assert torch.equal(keys[slot, :, :3], given[0][0, :, :3])
        assert torch.equal(values[slot, :, :3], given[1][0, :, :3])
