"""The slot cache holds each row's tokens, whichever rows join, leave or move; attention sees a row's own alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers.cache_utils import DynamicLayer

from remora.inference import attention, shared_attention
from remora.inference.attention import slot_attention
from remora.inference.cache import SlotCache
from remora.inference.spans import SlotSpan, spans_mask

GROUPS, WIDTH = 2, 3


def states(tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    keys = torch.rand(1, GROUPS, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))
    return keys, keys + 1


def write(cache: SlotCache, spans: list[SlotSpan], given: tuple[torch.Tensor, torch.Tensor]):
    """One pass over a cache of one layer, as a model makes it."""
    (layer,) = cache.window(spans).layers
    return layer.update(*given)


def test_it_holds_what_growing_caches_hold():
    cache, others = SlotCache(1), [DynamicLayer() for _ in range(3)]
    cache.resize(4, 9)
    held = [0, 0, 0]
    for seed, counts in enumerate(((4, 2, 3), (1, 1, 0), (1, 0, 4), (1, 1, 1), (0, 3, 0))):
        order = sorted((i for i in range(3) if counts[i]), key=lambda i: counts[i] > 1)
        spans = [SlotSpan(i + 1, held[i], counts[i]) for i in order]
        given = states(sum(counts), seed)
        memory = write(cache, spans, given)
        at = 0
        for i in order:
            others[i].update(*(each[:, :, at : at + counts[i]] for each in given))
            at, held[i] = at + counts[i], held[i] + counts[i]
        for i, other in enumerate(others):
            for ours, theirs in zip(memory, (other.keys, other.values), strict=True):
                assert torch.equal(ours[i + 1, :, : held[i]], theirs[0]) and not ours[i + 1, :, held[i] :].any()


def test_a_free_slot_is_zeros():
    """A stale NaN in it would pass through any mask of the next row there."""
    cache = SlotCache(1)
    cache.resize(3, 5)
    broken = states(4, 0)
    broken[0][0] = broken[1][0] = float("nan")
    write(cache, [SlotSpan(0, 0, 4)], broken)
    kept = states(2, 1)
    write(cache, [SlotSpan(1, 0, 2)], kept)
    cache.free(0, 4)
    for held, given in zip(cache.layer(0, *kept), kept, strict=True):
        assert not held[0].any() and torch.equal(held[1, :, :2], given[0])


def test_rows_keep_their_tokens_when_slots_grow_and_shrink():
    cache = SlotCache(1)
    cache.resize(3, 4)
    given = [states(3, seed) for seed in range(2)]
    write(cache, [SlotSpan(0, 0, 3), SlotSpan(2, 0, 3)], tuple(torch.cat(each, 2) for each in zip(*given, strict=True)))
    slots = [0, 2]
    for size in ((3, 9), (7, 9), (2, 4)):
        cache.resize(*size, slots)
        slots = [0, 1]
        for held, *rows in zip(cache.layer(0, *given[0]), *given, strict=True):
            assert held.shape == (size[0], GROUPS, size[1], WIDTH)
            for slot, row in enumerate(rows):
                assert torch.equal(held[slot, :, :3], row[0])
            assert not held[:, :, 3:].any() and not held[2:].any()


def test_a_prefix_is_a_copy_that_many_rows_begin_with():
    cache, other = SlotCache(1), SlotCache(1)
    cache.resize(1, 4)
    other.resize(2, 6)
    given = states(4, 0)
    write(cache, [SlotSpan(0, 0, 4)], given)
    prefix = cache.take(0, 3)
    cache.free(0, 4)
    for slot in (0, 1):
        other.put(slot, prefix)
        for held, first in zip(other.layer(0, *given), given, strict=True):
            assert torch.equal(held[slot, :, :3], first[0, :, :3])


@pytest.mark.parametrize("waste", [0.0, 1.5, 1e9])
@pytest.mark.parametrize("heads", [GROUPS, 3 * GROUPS])
@pytest.mark.parametrize("slots", [(0, 1, 2, 3, 4), (3, 0, 6, 1, 5)])
def test_attention_is_that_of_each_row_alone(monkeypatch, waste, heads, slots):
    """In one call and in one for each row; a slot that is no row's does not count."""
    monkeypatch.setattr(attention, "WASTE", waste)
    generator = torch.Generator().manual_seed(0)
    key, value = (torch.randn(8, GROUPS, 20, 4, generator=generator) for _ in range(2))
    spans = [SlotSpan(*three) for three in zip(slots, (7, 0, 12, 0, 5), (1, 1, 1, 6, 9), strict=True)]
    query = torch.randn(1, heads, sum(span.tokens for span in spans), 4, generator=generator)
    found, _ = slot_attention(torch.nn.Module(), query, key, value, spans_mask(spans), scaling=0.4)
    at = 0
    for slot, start, count, *_ in spans:
        end = start + count
        keys, values = (each[slot, :, :end].repeat_interleave(heads // GROUPS, 0) for each in (key, value))
        band = torch.ones(count, end, dtype=torch.bool).tril(start)
        expected = F.scaled_dot_product_attention(
            query[0, :, at : at + count].double(), keys.double(), values.double(), attn_mask=band, scale=0.4
        )
        torch.testing.assert_close(found[0, at : at + count].transpose(0, 1).double(), expected, rtol=0, atol=1e-6)
        at += count


@pytest.mark.parametrize("heads", [GROUPS, 3 * GROUPS])
@pytest.mark.parametrize("block", [3, 64])
@pytest.mark.parametrize(
    "rows",
    [
        [(0, 9, 6, 1), (1, 30, 6, 1), (2, 7, 6, 1)],
        [(5, 9, 6, 1), (1, 30, 6, 2), (2, 7, 6, 1), (7, 12, 6, 2), (3, 6, 6, 3), (0, 4, 0, 0)],
        [(0, 9, 6, 1), (4, 30, 8, 2), (2, 7, 6, 1), (6, 12, 8, 2), (3, 8, 0, 0), (5, 6, 0, 0)],
    ],
)
def test_a_prefix_of_many_rows_is_read_once(monkeypatch, heads, block, rows):
    """Rows (slot, start, prefix, group) in one group and in several, of two lengths, with others between. The slots of
    all but one of a group have nothing readable where the prefix is."""
    monkeypatch.setattr(attention, "SAVES", 0)
    monkeypatch.setattr(shared_attention, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    key, value = (torch.randn(9, GROUPS, 40, 4, generator=generator) for _ in range(2))
    spans = [SlotSpan(slot, start, 1, prefix, group) for slot, start, prefix, group in rows]
    whole, read = (key.clone(), value.clone()), {}
    for span in spans:
        first = read.setdefault((span.prefix, span.group), span.slot)
        for held, all_there in zip((key, value), whole, strict=True):
            all_there[span.slot, :, : span.prefix] = held[first, :, : span.prefix]
            if span.slot != first and span.group:
                held[span.slot, :, : span.prefix] = float("nan")
    query = torch.randn(1, heads, len(spans), 4, generator=generator)
    found, _ = slot_attention(torch.nn.Module(), query, key, value, spans_mask(spans), scaling=0.4)
    for i, span in enumerate(spans):
        seen = [each[span.slot, :, : span.start + 1].repeat_interleave(heads // GROUPS, 0).double() for each in whole]
        expected = F.scaled_dot_product_attention(query[0, :, i : i + 1].double(), *seen, scale=0.4)
        torch.testing.assert_close(found[0, i : i + 1].transpose(0, 1).double(), expected, rtol=0, atol=1e-6)
