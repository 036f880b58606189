"""A cache in place holds what transformers' own holds."""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicLayer

from remora.inference.rooms import Room


def states(rows: int, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.rand(rows, 2, tokens, 3, generator=generator)
    return keys, keys + 1


def test_it_holds_what_a_growing_cache_holds():
    room, other = Room(9), DynamicLayer()
    for seed, tokens in enumerate((4, 1, 1, 3)):
        given = states(5, tokens, seed)
        for ours, theirs in zip(room.update(*given), other.update(*given), strict=True):
            assert torch.equal(ours, theirs)
        assert room.get_seq_length() == other.get_seq_length()
        assert room.get_mask_sizes(2) == other.get_mask_sizes(2)
    assert [held.shape for held in room.held] == [(5, 2, 9, 3)] * 2


def test_rows_leave_in_place():
    room, other = Room(9), DynamicLayer()
    for layer in (room, other):
        layer.update(*states(5, 4, 0))
    memory = room.held[0].data_ptr()
    kept = torch.tensor([0, 2, 4])
    for layer in (room, other):
        layer.reorder_cache(kept)
        layer.update(*states(3, 1, 1))
    assert torch.equal(room.held[0][:, :, : room.used], other.keys)
    assert torch.equal(room.held[1][:, :, : room.used], other.values)
    assert room.held[0].data_ptr() == memory


def test_children_begin_with_their_parents_and_go_their_own_ways():
    room = Room(4)
    keys, _ = room.update(*states(2, 4, 0))
    child = room.child(torch.tensor([1, 0, 1]), 6)
    longer, _ = child.update(*states(3, 2, 1))
    assert torch.equal(longer[:, :, :4], keys[[1, 0, 1]])
    assert room.used == 4 and torch.equal(room.held[0], states(2, 4, 0)[0])


def test_joined_rows_keep_their_tokens_and_the_shorter_end_in_zeros():
    parts = [Room(4), Room(2)]
    given = [parts[0].update(*states(2, 3, 0)), parts[1].update(*states(1, 2, 1))]
    for held in parts[0].held:
        held[:, :, 3:] = float("nan")
    layer = Room.joined(parts, 6)
    keys, values = layer.update(*states(3, 1, 2))
    assert layer.used == 4 and layer.held[0].shape[2] == 6
    for now, kind in ((keys, 0), (values, 1)):
        assert torch.equal(now[:2, :, :3], given[0][kind]) and torch.equal(now[2:, :, :2], given[1][kind])
        assert not now[2, :, 2].any()
