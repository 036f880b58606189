"""Reading the prompts of a batch into a key-value cache: whole and of one length, or with heads and bodies shared."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from remora.inference.rooms import child, joined, room
from remora.inference.rows import Row
from remora.marks import IMAGE
from remora.model.vlm import place

Pictures = Mapping[int, Tensor]
"""Embeddings [image_tokens, hidden] of each picture, by its name in `Row.images`."""

PASS = 512
"""Tokens that go through the model at once while prompts are read. A CPU is busy with these; fewer rows at a time are
of more equal length, and activations stay small."""


@dataclass
class Reading:
    """A batch whose prompts are read.

    logits [B, V] of each row's next token, and the cache of what came before it. Where rows were padded, `mask`
    [B, tokens] has 0 at padding (it reaches as far as the answers may) and `positions` [B] are the next tokens'; else
    both are None, and the model counts for itself.
    """

    logits: Tensor
    cache: Cache
    mask: Tensor | None = None
    positions: Tensor | None = None

    def step(self, llm: nn.Module, tokens: Tensor) -> None:
        """Read one more token a row, [B]."""
        told: dict[str, Tensor] = {}
        if self.mask is not None and self.positions is not None:
            told = {
                "attention_mask": self.mask[:, : self.cache.get_seq_length() + 1],
                "position_ids": self.positions[:, None],
            }
            self.positions = self.positions + 1
        out = llm(input_ids=tokens[:, None], past_key_values=self.cache, use_cache=True, **told)
        self.logits, self.cache = out.logits[:, -1], out.past_key_values

    def keep(self, rows: Tensor) -> None:
        """Let all other rows leave."""
        self.cache.reorder_cache(cast(torch.LongTensor, rows))
        self.mask = self.mask if self.mask is None else self.mask[rows]
        self.positions = self.positions if self.positions is None else self.positions[rows]


def read_whole(llm: nn.Module, rows: Sequence[Row], pictures: Pictures) -> Reading:
    """Prompts of one length, or a single one: attention sees exactly what it would see alone, in any model."""
    inputs = _embed(llm, rows, 0, None, pictures)
    out = llm(inputs_embeds=inputs, use_cache=True, logits_to_keep=1)
    return Reading(out.logits[:, -1], out.past_key_values)


def read_shared(llm: nn.Module, rows: Sequence[Row], pictures: Pictures) -> Reading:
    """Prompts with heads and bodies of the same lengths, whose tails differ; there is room for what may follow.

    Every distinct head is read once, then every distinct body behind its head, then all tails behind their bodies.
    Shorter tails are padded on the right. No token looks ahead at padding; those of the answer, which come behind it,
    mask it, and positions do not count it.
    """
    first = rows[0]
    behind: tuple[Cache, list[Hashable]] | None = None
    start = 0
    for end in (first.head, first.body):
        if end > start:
            distinct = {row.shared(end): row for row in rows}
            cache, _ = _read(llm, list(distinct.values()), start, end, behind, pictures, end)
            behind, start = (cache, list(distinct)), end
    lengths = torch.tensor([len(row.ids) for row in rows])
    longest = int(lengths.max())
    limit = max(row.limit for row in rows)
    cache, logits = _read(llm, rows, start, longest, behind, pictures, longest + limit)
    lengths = lengths.to(logits.device)
    if bool((lengths == longest).all()):
        return Reading(logits, cache)
    column = torch.arange(longest + limit, device=logits.device)
    return Reading(logits, cache, ((column < lengths[:, None]) | (column >= longest)).long(), lengths)


def _read(
    llm: nn.Module,
    rows: Sequence[Row],
    start: int,
    end: int,
    behind: tuple[Cache, list[Hashable]] | None,
    pictures: Pictures,
    room_for: int,
) -> tuple[Cache, Tensor]:
    """Tokens `start` to `end` of each row `behind` what it shares with others, and the logits [B, V] after its last.

    `behind` is a cache and what each of its rows was read for; the new one has `room_for` tokens.
    """
    where = {key: i for i, key in enumerate(behind[1])} if behind else {}
    caches, logits = [], []
    for some in _passes(rows, start, end):
        ends = [min(end, len(row.ids)) for row in some]
        if behind:
            cache = child(behind[0], [where[row.shared(start)] for row in some], max(ends))
        else:
            cache = room(max(ends), cast(Any, llm).config.num_hidden_layers)
        inputs = _embed(llm, some, start, end, pictures)
        last = torch.tensor(ends, device=inputs.device)[:, None] - start - 1
        out = llm(inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=last)
        caches.append(cache)
        logits.append(out.logits[:, 0])
    return joined(caches, room_for), torch.cat(logits)


def _passes(rows: Sequence[Row], start: int, end: int) -> Iterator[Sequence[Row]]:
    """Rows that follow each other, with at most `PASS` tokens between `start` and `end`, counting padding."""
    first = widest = 0
    for i, row in enumerate(rows):
        width = min(end, len(row.ids)) - start
        if i > first and (i + 1 - first) * max(widest, width) > PASS:
            yield rows[first:i]
            first, widest = i, 0
        widest = max(widest, width)
    yield rows[first:]


def _embed(llm: nn.Module, rows: Sequence[Row], start: int, end: int | None, pictures: Pictures) -> Tensor:
    """Input embeddings [B, T, hidden] of the tokens from `start` to `end`, padded on the right with token 0."""
    parts = [row.ids[start:end] for row in rows]
    width = max(map(len, parts))
    table = cast(Any, llm).get_input_embeddings()
    ids = torch.tensor([[*part, *[0] * (width - len(part))] for part in parts], device=table.weight.device)
    embeddings = cast(Tensor, table(ids.clamp(min=0)))
    shown = [pictures[i] for row, part in zip(rows, parts, strict=True) if IMAGE in part for i in row.images]
    return place(embeddings, ids, torch.stack(shown)) if shown else embeddings


def can_share(llm: nn.Module) -> bool:
    """Whether `read_shared` gives every row the logits that `read_whole` gives it alone.

    Not where a layer's cache forgets or is no cache of tokens (sliding windows, convolutions, recurrence: padding would
    count), nor where rotary frequencies follow the longest row of a batch. Positions that cannot be told, but are
    counted from a batch's columns, show on a small trial.
    """
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=cast(Any, llm).config).layers):
        return False
    if any("dynamic" in kind or kind == "longrope" for kind in _rotary_kinds(llm)):
        return False
    table = cast(Any, llm).get_input_embeddings().weight
    pictures = {i: table[10 + 2 * i : 12 + 2 * i] for i in range(2)}
    tails = ((0, [5]), (1, [6, 7, 8, 9]), (0, [8, 6]))
    rows = [Row((3, 4, IMAGE, IMAGE, *tail), (picture,), limit=2) for picture, tail in tails]
    said = torch.tensor([5, 6, 7], device=table.device)
    with torch.inference_mode():
        try:
            together = read_shared(llm, rows, pictures)
            seen = [together.logits]
            for _ in range(2):
                together.step(llm, said)
                seen.append(together.logits)
        except (AttributeError, RuntimeError, TypeError, ValueError):  # it takes no such cache, or no positions
            return False
        for i, row in enumerate(rows):
            alone = read_whole(llm, [row], pictures)
            for logits in seen:
                scale = float(alone.logits.abs().max())
                if not torch.allclose(logits[i], alone.logits[0], rtol=0, atol=1e-4 * scale):
                    return False
                alone.step(llm, said[i : i + 1])
    return True


def token_bytes(llm: nn.Module) -> int:
    """Memory for the keys and values of one token."""
    with torch.inference_mode():
        layers = read_whole(llm, [Row((3, 4, 5, 6), ())], {}).cache.layers
    held = [s for layer in layers for s in (getattr(layer, "keys", None), getattr(layer, "values", None))]
    return max(1, sum(s.nbytes for s in held if s is not None) // 4)


def _rotary_kinds(llm: nn.Module) -> list[str]:
    kinds: list[str] = []
    for module in llm.modules():
        kind = getattr(module, "rope_type", None)
        kinds += kind.values() if isinstance(kind, dict) else [kind] if kind else []
    return kinds
