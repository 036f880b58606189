"""Batches of rows that decode together, one token per row and step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from typing import Protocol, cast

import torch
from PIL import Image
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from remora.inference.cache import Prefix, SlotCache
from remora.inference.prefill import PictureEmbeddings, embed, passes, prefill
from remora.inference.recent import Recent
from remora.inference.requests import FittedPicture, Prompt
from remora.inference.sampling import NEAR
from remora.model.blocks import token_table
from remora.token_ids import IMAGE


class DecodingBatch(Protocol):
    """Rows side by side, numbered from 0."""

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token a row; returns the logits [B, V] after it."""

    def leave(self, rows: Collection[int]) -> list[int]:
        """Remove rows; returns the old numbers of the remaining ones, in their new order."""


class WholeBatch:
    """Prompts of equal length, or a single one, read whole into the model's own cache: in any model, attention sees
    exactly what it sees at batch size 1. Rows can only leave. `logits` [B, V] are for the next tokens."""

    def __init__(self, llm: PreTrainedModel, prompts: Sequence[Prompt], shown: PictureEmbeddings) -> None:
        self._llm = llm
        out = llm(inputs_embeds=embed(llm, prompts, 0, None, shown), use_cache=True, logits_to_keep=1)
        self.logits: Tensor = out.logits[:, -1]
        self.cache: Cache = out.past_key_values

    def step(self, tokens: Sequence[int]) -> Tensor:
        ids = torch.tensor(tokens, device=self.logits.device)[:, None]
        out = self._llm(input_ids=ids, past_key_values=self.cache, use_cache=True)
        self.logits, self.cache = out.logits[:, -1], out.past_key_values
        return self.logits

    def leave(self, rows: Collection[int]) -> list[int]:
        stay = [row for row in range(len(self.logits)) if row not in rows]
        if stay:
            index = torch.tensor(stay, device=self.logits.device)
            self.cache.reorder_cache(cast(torch.LongTensor, index))
            self.logits = self.logits[index]
        return stay


class SlotBatch:
    """Rows of any lengths, which join and leave at any step, in a cache of slots; for models that `can_join`."""

    def __init__(self, llm: PreTrainedModel) -> None:
        self._llm = llm
        self.cache = SlotCache(llm.config.num_hidden_layers)
        self._lengths: list[int] = []

    def join(self, prompts: Sequence[Prompt], prefixes: Sequence[Prefix | None], shown: PictureEmbeddings) -> Tensor:
        """Read the rest of prompts, after their bodies in `prefixes`, into free slots; returns the logits [B, V] of
        their first tokens. Best for prompts with bodies of equal length and similar total length."""
        logits, joined = [], iter(prefixes)
        for body, alike in groupby(prompts, key=lambda prompt: prompt.body):
            for some in passes(list(alike), body, max(len(prompt.ids) for prompt in prompts)):
                first = len(self._lengths)
                for slot in range(first, first + len(some)):
                    prefix = next(joined)
                    if prefix is not None:
                        self.cache.put(slot, prefix)
                self._lengths += [len(prompt.ids) for prompt in some]
                window = self.cache.window(first, len(self._lengths), body)
                logits.append(prefill(self._llm, window, some, body, max(self._lengths[first:]), shown))
        return torch.cat(logits)

    def step(self, tokens: Sequence[int]) -> Tensor:
        table = token_table(self._llm)
        longest = max(self._lengths)
        told: dict[str, Tensor] = {}
        lengths = None
        if min(self._lengths) < longest:  # else the model counts positions itself, and needs no mask
            lengths = torch.tensor(self._lengths, device=table.device)
            column = torch.arange(longest + 1, device=table.device)
            told = {"attention_mask": (column <= lengths[:, None]).long(), "position_ids": lengths[:, None]}
        out = self._llm(
            input_ids=torch.tensor(tokens, device=table.device)[:, None],
            past_key_values=self.cache.window(0, len(self._lengths), longest, lengths),
            use_cache=True,
            **told,
        )
        self._lengths = [length + 1 for length in self._lengths]
        return out.logits[:, -1]

    def leave(self, rows: Collection[int]) -> list[int]:
        stay = list(range(len(self._lengths)))
        if len(rows) == len(stay):
            self._lengths = []
            self.cache.clear()
            return []
        for row in sorted(rows, reverse=True):
            self.cache.free(row, len(stay) - 1)
            stay[row] = stay[-1]
            self._lengths[row] = self._lengths[-1]
            stay.pop()
            self._lengths.pop()
        return stay


class Prefixes:
    """A prefix cache: heads and bodies of prompts by their content, least recently used first out, limited in bytes."""

    def __init__(self, llm: PreTrainedModel, limit: int) -> None:
        self._llm = llm
        self.kept: Recent[Prefix] = Recent(limit, lambda prefix: sum(k.nbytes + v.nbytes for k, v in prefix))

    def has(self, prompt: Prompt) -> bool:
        """Whether a prompt's body is cached, so that its pictures are not needed."""
        return prompt.prefix(prompt.body) in self.kept

    def of(self, prompts: Sequence[Prompt], shown: PictureEmbeddings) -> list[Prefix | None]:
        """Each prompt's body, or None. Bodies are read after their heads."""
        found: dict[object, Prefix] = {}

        def missing(prompts: Iterable[Prompt], end: Callable[[Prompt], int]) -> list[Prompt]:
            distinct = {prompt.prefix(end(prompt)): prompt for prompt in prompts if end(prompt)}
            for key in distinct:
                if key not in found and (kept := self.kept.get(key)) is not None:
                    found[key] = kept
            return [prompt for key, prompt in distinct.items() if key not in found]

        bodies = missing(prompts, lambda prompt: prompt.body)
        heads = missing(bodies, lambda prompt: prompt.head)
        self._read(heads, found, lambda prompt: (0, prompt.head), shown)
        bodies = [prompt for prompt in bodies if prompt.body > prompt.head]
        self._read(bodies, found, lambda prompt: (prompt.head, prompt.body), shown)
        return [found.get(prompt.prefix(prompt.body)) for prompt in prompts]

    def _read(
        self,
        prompts: Iterable[Prompt],
        found: dict[object, Prefix],
        span: Callable[[Prompt], tuple[int, int]],
        shown: PictureEmbeddings,
    ) -> None:
        for (start, end), alike in groupby(sorted(prompts, key=span), key=span):
            for some in passes(list(alike), start, end):
                cache = SlotCache(self._llm.config.num_hidden_layers)
                cache.resize(len(some), end)
                if start:
                    for slot, prompt in enumerate(some):
                        cache.put(slot, found[prompt.prefix(start)])
                prefill(self._llm, cache.window(0, len(some), start), some, start, end, shown)
                for slot, prompt in enumerate(some):
                    key = prompt.prefix(end)
                    found[key] = cache.take(slot, end)
                    self.kept.put(key, found[key])


def can_join(llm: PreTrainedModel) -> bool:
    """Whether `SlotBatch` gives every row the logits that it has at batch size 1.

    False if a layer's cache drops tokens or is not a cache of tokens (sliding windows, convolutions, recurrence:
    padding would count), or if rotary frequencies follow the longest row of a batch. Models that count positions from a
    batch's columns and take none as input are found by a small trial.
    """
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=llm.config).layers):
        return False
    if any("dynamic" in kind or kind == "longrope" for kind in _rotary_kinds(llm)):
        return False
    try:
        with torch.inference_mode():
            return _trial(llm)
    except (AttributeError, RuntimeError, TypeError, ValueError):  # it does not take such a cache, or positions
        return False


def _trial(llm: PreTrainedModel) -> bool:
    """Compare three rows about two pictures, one of which joins a step later, with each row alone."""
    table = token_table(llm)
    pictures = [FittedPicture(Image.new("L", (1, 1), shade)) for shade in (0, 1)]
    shown = {picture.digest: table[10 + 2 * i : 12 + 2 * i] for i, picture in enumerate(pictures)}
    tails = ((0, (5,)), (1, (6, 7, 8, 9)), (0, (8, 6)))
    prompts = [Prompt((3, 4, IMAGE, IMAGE, *tail), (pictures[i],)) for i, tail in tails]
    batch, prefixes, said = SlotBatch(llm), Prefixes(llm, 0), [5, 6, 7]
    batch.cache.resize(3, 12)
    logits = [[row] for row in batch.join(prompts[:2], prefixes.of(prompts[:2], shown), shown)]
    for step in range(3):
        for row, found in zip(logits, batch.step(said[: len(logits)]), strict=True):
            row.append(found)
        if not step:
            logits.append([*batch.join(prompts[2:], prefixes.of(prompts[2:], shown), shown)])
    for prompt, token, together in zip(prompts, said, logits, strict=True):
        alone = WholeBatch(llm, [prompt], shown)
        for found in together:
            off = NEAR[table.dtype] / 2 * float(alone.logits.abs().max())
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
