"""Dropout follows from sample, layer and element, whatever else is in the batch."""

from __future__ import annotations

import torch
from torch import nn

from remora.model.patches.dropout import KeyedDropout, key_dropouts, uniform


def test_masks_are_uniform_and_unlike_between_rows_layers_tokens_and_channels():
    u = uniform(torch.arange(20), 3, 50, 40)
    assert u.min() >= 0 and u.max() < 1
    counts = torch.histc(u, 10, 0, 1)
    # 40,000 draws in 10 bins of 4,000 +- 60 (one deviation); six deviations
    assert (counts - 4000).abs().max() < 360
    for a, b in (
        (u[0], u[1]),
        (u[:, 0], u[:, 1]),
        (u[..., 0], u[..., 1]),
        (u[0], uniform(torch.arange(1), 4, 50, 40)[0]),
    ):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.15


def test_a_row_gets_the_same_mask_alone_in_any_batch_and_with_more_padding():
    drop = KeyedDropout(0.4, 7).train()
    x = torch.ones(3, 6, 5)
    drop.keys = torch.tensor([5, 900, 12])
    together = drop(x)
    for row, key in enumerate((5, 900, 12)):
        drop.keys = torch.tensor([key])
        assert torch.equal(drop(torch.ones(1, 9, 5))[0, :6], together[row])
    assert 0.1 < (together == 0).float().mean() < 0.7
    assert torch.allclose(together[together != 0], torch.tensor(1 / 0.6))


def test_a_sample_gets_the_same_mask_anywhere_in_a_packed_row():
    drop = KeyedDropout(0.4, 7).train()
    drop.keys, drop.positions = torch.tensor([[5, 5, 5, 900, 900, 12]]), torch.tensor([[0, 1, 2, 0, 1, 0]])
    row = drop(torch.ones(1, 6, 50))
    drop.keys, drop.positions = torch.tensor([5, 900, 12]), None
    alone = drop(torch.ones(3, 3, 50))
    assert torch.equal(row[0], torch.cat([alone[0], alone[1, :2], alone[2, :1]]))


def test_every_dropout_that_acts_is_replaced_and_eval_mode_is_none():
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.0), nn.Dropout(0.1)))
    net.attention_dropout = 0.3
    found = key_dropouts(net, first_layer=10)
    assert [(d.p, d.layer) for d in found] == [(0.5, 10), (0.1, 11)]
    assert net.attention_dropout == 0.0
    net.eval()
    assert torch.equal(net[2](torch.ones(2, 3, 4)), torch.ones(2, 3, 4))
