"""Read prompts into a key-value cache: in passes of many tokens, or whole, as at batch size 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from remora.inference.requests import Prompt
from remora.model.blocks import token_table
from remora.model.vlm import place
from remora.token_ids import IMAGE

PictureEmbeddings = Mapping[bytes, Tensor]
"""Each picture's embeddings by its digest, [image_tokens, hidden]."""

PASS = 512
"""Tokens per pass while prompts are read. This keeps a CPU busy; fewer rows at a time have more equal lengths, and
activations stay small."""


def prefill(
    llm: PreTrainedModel, window: Cache, prompts: Sequence[Prompt], start: int, end: int, shown: PictureEmbeddings
) -> Tensor:
    """Read tokens `start` to `end` of each prompt, or to its end, into a window of a cache that has the first `start`.

    Shorter ones are padded on the right: no token looks ahead at padding. Returns the logits [B, V] after each's last.
    """
    inputs = embed(llm, prompts, start, end, shown)
    ends = [min(end, len(prompt.ids)) for prompt in prompts]
    last = torch.tensor(ends, device=inputs.device)[:, None] - start - 1
    out = llm(inputs_embeds=inputs, past_key_values=window, use_cache=True, logits_to_keep=last)
    return out.logits[:, 0]


def passes(prompts: Sequence[Prompt], start: int, end: int) -> Iterator[Sequence[Prompt]]:
    """Consecutive prompts with at most `PASS` tokens between `start` and `end`, counting padding."""
    first = widest = 0
    for i, prompt in enumerate(prompts):
        width = min(end, len(prompt.ids)) - start
        if i > first and (i + 1 - first) * max(widest, width) > PASS:
            yield prompts[first:i]
            first, widest = i, 0
        widest = max(widest, width)
    yield prompts[first:]


def embed(
    llm: PreTrainedModel, prompts: Sequence[Prompt], start: int, end: int | None, shown: PictureEmbeddings
) -> Tensor:
    """Input embeddings [B, T, hidden] of the tokens from `start` to `end`, padded on the right with token 0."""
    parts = [prompt.ids[start:end] for prompt in prompts]
    width = max(map(len, parts))
    table = llm.get_input_embeddings()
    ids = torch.tensor([[*part, *[0] * (width - len(part))] for part in parts], device=token_table(llm).device)
    embeddings = table(ids.clamp(min=0))
    pictures = [
        shown[digest] for prompt, part in zip(prompts, parts, strict=True) if IMAGE in part for digest in prompt.shown
    ]
    return place(embeddings, ids, torch.stack(pictures)) if pictures else embeddings
