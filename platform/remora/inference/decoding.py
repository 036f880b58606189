"""Rows that a language model decodes together: in slots, where any may join and leave, or prompts of one length."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from PIL import Image
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from remora.inference import llama
from remora.inference.attention import SLOTS
from remora.inference.cache import Prefix, SlotCache
from remora.inference.recent import Recent
from remora.inference.requests import FittedPicture, Prompt
from remora.inference.spans import SlotSpan, spans_mask
from remora.model.blocks import token_table
from remora.model.vlm import place
from remora.token_ids import IMAGE

PictureEmbeddings = Mapping[bytes, Tensor]
"""Each picture's embeddings by its digest, [image_tokens, hidden]."""


class WholeBatch:
    """Prompts of equal length, or a single one, read whole into the model's own cache: in any model, attention sees
    exactly what it sees at batch size 1. Rows can only leave. `logits` [B, V] are for the next tokens."""

    def __init__(self, llm: PreTrainedModel, prompts: Sequence[Prompt], shown: PictureEmbeddings) -> None:
        self._llm = llm
        inputs = torch.cat([embed(llm, prompt, shown) for prompt in prompts])
        out = llm(inputs_embeds=inputs, use_cache=True, logits_to_keep=1)
        self.logits: Tensor = out.logits[:, -1]
        self.cache: Cache = out.past_key_values

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token a row; returns the logits [B, V] after it."""
        ids = torch.tensor(tokens, device=self.logits.device)[:, None]
        out = self._llm(input_ids=ids, past_key_values=self.cache, use_cache=True)
        self.logits, self.cache = out.logits[:, -1], out.past_key_values
        return self.logits

    def leave(self, rows: Collection[int]) -> list[int]:
        """Remove rows; returns the old numbers of the remaining ones, in their new order."""
        stay = [row for row in range(len(self.logits)) if row not in rows]
        if stay:
            index = torch.tensor(stay, device=self.logits.device)
            self.cache.reorder_cache(cast(torch.LongTensor, index))
            self.logits = self.logits[index]
        return stay


@dataclass(eq=False)
class Row:
    """A prompt in a slot, and the tokens said after it."""

    prompt: Prompt
    slot: int
    tokens: int
    """Tokens in the slot."""
    prefix: int = 0
    """Tokens of these that are a kept prefix's, to the last bit."""
    group: int = 0
    """The kept prefix's number."""

    def span(self, tokens: int) -> SlotSpan:
        """So many more tokens."""
        return SlotSpan(self.slot, self.tokens, tokens, self.prefix, self.group)

    @property
    def unread(self) -> int:
        """Tokens of its prompt that are not in the slot."""
        return max(0, len(self.prompt.ids) - self.tokens)

    @property
    def ends(self) -> Iterator[int]:
        """Where the prefixes end that it shares with others and has not read."""
        return (end for end in _shared(self.prompt) if self.tokens < end)


class _Kept(NamedTuple):
    """A prefix, and the number by which rows know that theirs is a copy of it."""

    states: Prefix
    number: int


class SlotBatch:
    """Rows of any lengths, which join and leave at any step, in a cache of slots; for models that `can_join`.

    The heads and bodies of prompts are kept by content when they are read, least recently used first out, with at most
    `limit` bytes. A row begins with the longest that is there.
    """

    def __init__(self, llm: PreTrainedModel, limit: int = 0) -> None:
        self._llm, self._like_llama = llm, llama.fits(llm)
        self.cache = SlotCache(llm.config.num_hidden_layers)
        self.kept: Recent[_Kept] = Recent(limit, lambda kept: sum(k.nbytes + v.nbytes for k, v in kept.states))
        self._numbers = itertools.count(1)
        self.rows: list[Row] = []

    def resize(self, slots: int, columns: int) -> None:
        """Make room for so many rows of so many tokens; those that are here must fit."""
        self.cache.resize(slots, columns, [row.slot for row in self.rows])
        for slot, row in enumerate(self.rows):
            row.slot = slot

    def is_read(self, prompt: Prompt) -> bool:
        """Whether a row is just reading a prefix that this prompt could copy in a few steps."""
        read = {row.prompt.prefix(end) for row in self.rows for end in row.ends}
        for end in _shared(prompt):
            key = prompt.prefix(end)
            if key in self.kept:
                return False
            if key in read:
                return True
        return False

    def join(self, prompt: Prompt) -> Row:
        """Give a prompt a free slot, with the longest prefix that is kept."""
        taken = {row.slot for row in self.rows}
        row = Row(prompt, next(slot for slot in range(self.cache.slots) if slot not in taken), 0)
        for end in _shared(prompt):
            kept = self.kept.get(prompt.prefix(end))
            if kept is not None:
                self.cache.put(row.slot, kept.states)
                row.tokens = row.prefix = end
                row.group = kept.number
                break
        self.rows.append(row)
        return row

    def step(
        self, saying: Sequence[tuple[Row, int]], reading: Sequence[tuple[Row, int]], shown: PictureEmbeddings
    ) -> tuple[list[Row], Tensor]:
        """One pass: a token for each of some rows, and so many more tokens of their prompts for others.

        Returns the logits [B, V] for the next tokens, and their rows: those of `saying`, then those whose prompts were
        read to their ends.
        """
        llm, table = self._llm, token_table(self._llm)
        reading = sorted(reading, key=lambda each: each[1] > 1)  # spans of one token come first
        spans = (*(row.span(1) for row, _ in saying), *(row.span(count) for row, count in reading))
        ids = torch.tensor([[token for _, token in saying]], dtype=torch.long, device=table.device)
        inputs = [llm.get_input_embeddings()(ids)]
        inputs += [embed(llm, row.prompt, shown, row.tokens, n) for row, n in reading]
        heard, last, end = [row for row, _ in saying], list(range(len(saying))), len(saying)
        for row, count in reading:
            end += count
            if count == row.unread:
                heard.append(row)
                last.append(end - 1)
        positions = torch.cat([torch.arange(span.start, span.start + span.tokens) for span in spans])
        logits = self._pass(
            torch.cat(inputs, 1),
            spans,
            positions.to(table.device),
            torch.tensor(last, dtype=torch.long, device=table.device),
        )
        for row, _ in saying:
            row.tokens += 1
        for row, count in reading:
            ends = list(row.ends)
            row.tokens += count
            for each in ends:
                if each <= row.tokens and row.prompt.prefix(each) not in self.kept:
                    self._keep(row, each)
        return heard, logits

    def _pass(self, inputs: Tensor, spans: tuple[SlotSpan, ...], positions: Tensor, last: Tensor) -> Tensor:
        """Inputs [1, N, H] of these spans at positions [N] -> logits [n, V] behind the tokens `last` [n]."""
        if self._like_llama:
            return llama.llama_pass(self._llm, inputs[0], spans, positions, self.cache, last)
        out = self._llm(
            inputs_embeds=inputs,
            attention_mask=spans_mask(spans),
            position_ids=positions[None],
            past_key_values=self.cache.window(spans),
            use_cache=True,
            logits_to_keep=last,
        )
        found: Tensor = out.logits[0]
        return found

    def _keep(self, row: Row, end: int) -> None:
        """Keep a row's first tokens for others."""
        kept = _Kept(self.cache.take(row.slot, end), next(self._numbers))
        self.kept.put(row.prompt.prefix(end), kept)
        if end > row.prefix:
            row.prefix, row.group = end, kept.number

    def leave(self, rows: Collection[Row]) -> None:
        """Remove rows."""
        self.rows = [row for row in self.rows if row not in rows]
        if not self.rows:
            self.cache.clear()
            return
        for row in rows:
            self.cache.free(row.slot, row.tokens)


def _shared(prompt: Prompt) -> list[int]:
    """Where the prefixes of a prompt end that other prompts may share, longest first."""
    return [end for end in dict.fromkeys((prompt.body, prompt.head)) if end]


def embed(
    llm: PreTrainedModel, prompt: Prompt, shown: PictureEmbeddings, start: int = 0, count: int | None = None
) -> Tensor:
    """Input embeddings [1, count, hidden] of a prompt's tokens from `start` on. Only pictures with a token there have
    to be `shown`."""
    some = prompt.ids[start:] if count is None else prompt.ids[start : start + count]
    at = torch.tensor([some], device=token_table(llm).device)
    embeddings = llm.get_input_embeddings()(at.clamp(min=0))
    numbers = prompt.pictures_in(start, len(some))
    if not numbers:
        return embeddings
    found = torch.cat([shown[prompt.shown[number]] for number in numbers])
    before = max(0, start - prompt.picture_starts(numbers[0]))  # tokens of its first picture that were read before
    return place(embeddings, at, found[before:][: some.count(IMAGE)])


def can_join(llm: PreTrainedModel, near: float) -> bool:
    """Whether `SlotBatch` gives every row the logits that it has at batch size 1; if so, the model's attention is set
    to slot_attention, which changes nothing elsewhere. `near` is the rule for near ties (sampling.py).

    False if a layer's cache drops tokens or is not a cache of tokens (sliding windows, convolutions, recurrence), if
    rotary frequencies follow the longest row, or if the model's attention is not sdpa. Models that count positions
    themselves, or read the mask, are found by a small trial.
    """
    before = llm.config._attn_implementation
    if before not in ("sdpa", SLOTS) or any(
        type(layer) is not DynamicLayer for layer in DynamicCache(config=llm.config).layers
    ):
        return False
    if any("dynamic" in kind or kind == "longrope" for kind in _rotary_kinds(llm)):
        return False
    try:
        llm.set_attn_implementation(SLOTS)
        with torch.inference_mode():
            joins = _trial(llm, near)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # it does not take such a pass
        joins = False
    if not joins:
        llm.set_attn_implementation(before)
    return joins


def _trial(llm: PreTrainedModel, near: float) -> bool:
    """Compare three rows about two pictures, one of which is read in pieces beside the others, with each row alone."""
    table = token_table(llm)
    pictures = [FittedPicture(Image.new("L", (1, 1), shade)) for shade in (0, 1)]
    shown = {picture.digest: table[10 + 2 * i : 12 + 2 * i] for i, picture in enumerate(pictures)}
    tails = ((0, (5,)), (1, (6, 7, 8, 9)), (0, (8, 6)))
    prompts = [Prompt((3, 4, IMAGE, IMAGE, *tail), (pictures[i],)) for i, tail in tails]
    batch, said = SlotBatch(llm, 1 << 20), [5, 6, 7]
    batch.resize(3, 12)
    rows = [batch.join(prompt) for prompt in prompts[:2]]
    logits: list[list[Tensor]] = [[], [], []]

    def step(saying: Sequence[Row], reading: Sequence[tuple[Row, int]]) -> None:
        heard, found = batch.step([(row, said[rows.index(row)]) for row in saying], reading, shown)
        for row, each in zip(heard, found, strict=True):
            logits[rows.index(row)].append(each)

    step([], [(row, row.unread) for row in rows])
    rows.append(batch.join(prompts[2]))
    while rows[2].unread:
        step(rows[:2], [(rows[2], 1)])
    for _ in range(2):
        step(rows, [])
    for prompt, token, together in zip(prompts, said, logits, strict=True):
        alone = WholeBatch(llm, [prompt], shown)
        for found in together:
            off = near / 2 * float(alone.logits.abs().max())
            if not torch.allclose(found, alone.logits[0], rtol=0, atol=off):
                return False
            alone.step([token])
    return True


def token_bytes(llm: PreTrainedModel) -> int:
    """Bytes of one token's keys and values."""
    with torch.inference_mode():
        layers = WholeBatch(llm, [Prompt((3, 4, 5, 6))], {}).cache.layers
    held = [s for layer in layers for s in (getattr(layer, "keys", None), getattr(layer, "values", None))]
    return max(1, sum(s.nbytes for s in held if s is not None) // 4)


def _rotary_kinds(llm: PreTrainedModel) -> list[str]:
    kinds: list[str] = []
    for module in llm.modules():
        kind = getattr(module, "rope_type", None)
        kinds += kind.values() if isinstance(kind, dict) else [kind] if kind else []
    return kinds
