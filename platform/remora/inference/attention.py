"""Attention over slots: one pass reads tokens of many rows, each behind its own, without padding.

The tokens of a pass are one row of a batch, [1, N]. Each row's are a span of it. transformers hands a 4-D attention
mask to every layer unchanged, so the spans go in its place; keys and values are the whole memory of a layer
(cache.py). The linear layers then see all tokens at once, which is what makes a pass over a model's weights worth it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from remora.inference.shared_attention import SAVES, sharing
from remora.inference.spans import SlotSpan, spans_of

SLOTS = "slots"
"""Name of this attention in transformers."""
UNLIKE = ("softcap", "s_aux", "position_bias")
"""Arguments of some attentions that change scores beyond scaling; none is supported here."""
WASTE = 1.5
"""Rows that read one token each attend in one call unless that reads more than so many times their keys."""


def slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query [1, heads, N, D], a layer's memory [slots, groups, columns, D], and a `spans_mask` -> [1, N, heads, D].

    Anything but such a pass goes to transformers' sdpa. Spans of one token come first.

    Raises:
        ValueError: the model's attention uses unsupported arguments.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    if unlike := [name for name in UNLIKE if options.get(name) is not None]:
        raise ValueError(f"attention with {unlike[0]} does not run over slots")
    return attend(query[0], key, value, spans_of(attention_mask), scaling)[None], None


def attend(query: Tensor, key: Tensor, value: Tensor, spans: tuple[SlotSpan, ...], scaling: float | None) -> Tensor:
    """query [heads, N, D] of these spans, a layer's memory [slots, groups, columns, D] -> [N, heads, D]."""
    ones = next((i for i, span in enumerate(spans) if span.tokens > 1), len(spans))
    pieces, at = [], ones
    if ones:
        pieces.append(_of_tokens(query[:, :ones], key, value, spans[:ones], scaling))
    for span in spans[ones:]:
        pieces.append(_of_one_row(query[None, :, at : at + span.tokens], key, value, span, scaling))
        at += span.tokens
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


def _of_tokens(query: Tensor, key: Tensor, value: Tensor, spans: tuple[SlotSpan, ...], scaling: float | None) -> Tensor:
    """query [heads, R, D], a token of each of R rows -> [R, heads, D]."""
    if key.is_cpu and key.dtype == torch.float32:  # a GPU reads faster than it would start so many operations
        sets, others = sharing(spans)
        if sum(each.saved for each in sets) * 2 * key[0, :, 0].nbytes >= SAVES:
            found = query.new_empty(query.shape[1], len(query), value.shape[-1])
            for each in sets:
                each.attend(query, key, value, scaling, found)
            if others:
                found[list(others)] = _of_one_token(
                    query[:, list(others)], key, value, [spans[i] for i in others], scaling
                )
            return found
    return _of_one_token(query, key, value, spans, scaling)


def _of_one_token(
    query: Tensor, key: Tensor, value: Tensor, spans: Sequence[SlotSpan], scaling: float | None
) -> Tensor:
    """query [heads, R, D], a token of each of R rows -> [R, heads, D]."""
    heads, rows, width = query.shape
    groups = key.shape[1]
    slots, lengths = [span.slot for span in spans], [span.start + 1 for span in spans]
    last, longest = max(slots) + 1, max(lengths)
    if rows > 1 and last * longest > WASTE * sum(lengths):
        each = [_of_one_row(query[None, :, i : i + 1], key, value, span, scaling) for i, span in enumerate(spans)]
        return torch.cat(each)
    # A group's heads look at the same keys, so they are its queries: nothing is copied for them.
    asked = query.transpose(0, 1).reshape(rows, groups, heads // groups, width)
    seen = None
    if last != rows or min(lengths) < longest:  # slots between them are masked, but for one column
        ends = torch.ones(last, dtype=torch.long, device=query.device)
        ends[slots] = torch.tensor(lengths, device=query.device)
        seen = (torch.arange(longest, device=query.device) < ends[:, None])[:, None, None]
    in_order = slots == list(range(last))
    if not in_order:
        spread = asked.new_zeros(last, *asked.shape[1:])
        spread[slots] = asked
        asked = spread
    found = F.scaled_dot_product_attention(
        asked, key[:last, :, :longest], value[:last, :, :longest], attn_mask=seen, scale=scaling
    )
    return (found if in_order else found[slots]).reshape(rows, heads, -1)


def _of_one_row(query: Tensor, key: Tensor, value: Tensor, span: SlotSpan, scaling: float | None) -> Tensor:
    """query [1, heads, count, D], tokens of one row -> [count, heads, D]."""
    end = span.start + span.tokens
    keys, values = (held[span.slot : span.slot + 1, :, :end] for held in (key, value))
    band = None
    if span.start and span.tokens > 1:
        band = torch.ones(span.tokens, end, dtype=torch.bool, device=query.device).tril(span.start)
    found = F.scaled_dot_product_attention(
        query,
        keys,
        values,
        attn_mask=band,
        is_causal=not span.start and span.tokens > 1,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return found[0].transpose(0, 1)


AttentionInterface.register(SLOTS, slot_attention)
AttentionMaskInterface.register(SLOTS, sdpa_mask)
