"""Attention in packed rows: every sample sees itself only, without a mask of tokens x tokens.

transformers' own way (positions that restart) builds that mask for sdpa: for 8,192 tokens 64 MB, and every kernel works
through all of it. Here the samples' lengths stand where the mask would be. In half precision on CUDA a layer is one
call of torch's variable-length attention; in fp32, which that does not take, and on a CPU each sample is a causal call
of its own. The cost of attention falls from the row's length squared to the sum of its samples' squares
(docs/batches.md).

The call of variable-length attention has not met a GPU: what it is handed is tested without one (docs/devices.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from remora.errors import SpecError
from remora.model.split import shape_of, whole_as_they_run

PER_SAMPLE = "per_sample"
UNLIKE = ("softcap", "s_aux", "position_bias")
"""What some attentions do to their scores besides scaling them; none of it is done here."""
LAYERS = {"full_attention", "sliding_attention"}
"""What a config may call its layers. Chunks, convolutions and recurrent states go on from a sample to the next."""
OTHERWISE = "; next: set rows: padded under cluster"


def lengths_mask(lengths: Sequence[int]) -> Tensor:
    """What a packed row has for an attention mask: its samples' lengths as int64 [1, 1, 1, S].

    transformers hands a mask of four dimensions through to every layer as it is. It stays on the CPU, where attention
    reads it without waiting for a GPU.
    """
    return torch.tensor(lengths).view(1, 1, 1, -1)


def positions_of(lengths: Sequence[int]) -> Tensor:
    """[1, T], where each token stands in its sample."""
    return torch.cat([torch.arange(length) for length in lengths])[None]


def per_sample_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query [1, heads, T, D], key and value [1, groups, T, D] and the row's `lengths_mask` -> [1, T, heads, D].

    Anything but a packed row (an answer, a padded row) is transformers' own sdpa.

    Raises:
        SpecError: the model's attention does more than this one.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    unlike = [name for name in UNLIKE if options.get(name) is not None]
    if unlike or dropout:
        raise SpecError(f"packed rows: attention with {(unlike or ['dropout'])[0]} is not supported{OTHERWISE}")
    lengths = attention_mask.flatten().tolist()
    query, key, value = _as_autocast(query, key, value)
    if in_one_call(query, key, value):
        return _varlen(query, key, value, lengths, scaling, sliding_window), None
    samples = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    seen = [_causal(q, k, v, scaling, sliding_window) for q, k, v in samples]
    return torch.cat(seen, 2).transpose(1, 2).contiguous(), None


def _as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What autocast makes of the inputs of `scaled_dot_product_attention`, and not of variable-length attention's.
    Rotary positions leave queries and keys in fp32 and values in half precision."""
    kind = tensors[0].device.type
    return tuple(t.to(torch.get_autocast_dtype(kind)) for t in tensors) if torch.is_autocast_enabled(kind) else tensors


def in_one_call(*tensors: Tensor) -> bool:
    """Whether torch's variable-length attention takes these: half precision on CUDA, in heads that flash attention
    takes. torch pads others for `scaled_dot_product_attention` only."""
    half = all(t.is_cuda and t.dtype == tensors[0].dtype in (torch.float16, torch.bfloat16) for t in tensors)
    return half and all(t.shape[-1] % 8 == 0 and t.shape[-1] <= 256 for t in tensors)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scaling: float | None, window: int | None
) -> Tensor:
    """All samples of the row at once; [1, T, heads, D]. A window of n tokens is a token and n - 1 to its left."""
    ends, longest = _ends(tuple(lengths), query.device), max(lengths)
    q, k, v = (t[0].transpose(0, 1).contiguous() for t in (query, key, value))
    left = -1 if window is None else window - 1
    grouped = query.shape[1] != key.shape[1]
    out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling, window_size=(left, 0), enable_gqa=grouped)
    return cast(Tensor, out)[None]


@lru_cache(maxsize=8)
def _ends(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Where the samples of a row begin and end, int32 [S + 1]; every layer of a pass asks for the same."""
    return F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32).to(device)


def _causal(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None) -> Tensor:
    tokens = query.shape[2]
    band = None
    if window is not None and tokens > window:
        band = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril().triu(1 - window)
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=band, is_causal=band is None, scale=scaling, enable_gqa=grouped
    )


AttentionInterface.register(PER_SAMPLE, per_sample_attention)
AttentionMaskInterface.register(PER_SAMPLE, sdpa_mask)


def attend_per_sample(llm: nn.Module) -> None:
    """Let the model read packed rows; what it does with other rows stays the same.

    It is tried on a row of two samples first: a model that mixes them in any way (recurrence, positions of its own)
    would train on wrong gradients without a word.

    Raises:
        SpecError: its config has layers that are no attention, or it gives a sample other states in a packed row than
            alone.
    """
    kind = type(llm).__name__
    if mixing := set(getattr(llm.config, "layer_types", None) or ()) - LAYERS:
        raise SpecError(f"packed rows: {kind} has layers of type {', '.join(sorted(mixing))}{OTHERWISE}")
    llm.set_attn_implementation(PER_SAMPLE)  # type: ignore[operator]
    lengths = (3, 5)
    row = probe(llm, sum(lengths))
    try:
        with trying(llm):
            packed = states(llm, row, lengths)
            expected = torch.cat([states(llm, sample) for sample in row.split(lengths, 1)], 1)
    except (RuntimeError, TypeError, ValueError) as e:  # it takes no such mask, or no positions
        raise SpecError(f"packed rows: {kind} does not read them: {e}{OTHERWISE}") from None
    if not alike(packed, expected):
        raise SpecError(f"packed rows: {kind} mixes the samples of a row{OTHERWISE}")


@contextlib.contextmanager
def trying(llm: nn.Module) -> Iterator[None]:
    """In the block the model can be run on a `probe`, also one that ZeRO 3 has split. Behind it every module is in the
    mode that it was in: in a frozen model it may be the dropouts alone that train."""
    training = [module for module in llm.modules() if module.training]
    llm.eval()
    try:
        with torch.no_grad(), whole_as_they_run(llm):
            yield
    finally:
        for module in training:
            module.training = True


def alike(found: Tensor, expected: Tensor) -> bool:
    """Whether a trial's states are the same to rounding."""
    return torch.allclose(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def probe(llm: nn.Module, tokens: int) -> Tensor:
    """Embeddings [1, tokens, hidden] to try a model on, no two alike."""
    table = llm.get_input_embeddings().weight  # type: ignore[operator]
    return torch.sin(torch.arange(tokens * shape_of(table)[1]) + 1.0).view(1, tokens, -1).to(table)


def states(llm: nn.Module, embeddings: Tensor, lengths: Sequence[int] = ()) -> Tensor:
    """Last hidden states [B, T, hidden] of embeddings [B, T, hidden]: a packed row of `lengths`, or rows that begin
    with their samples.

    Behind a sample there may be padding: a causal model does not look there, so it needs no mask.
    """
    mask, positions = None, None
    if lengths:
        mask, positions = lengths_mask(lengths), positions_of(lengths).to(embeddings.device)
    backbone = llm.base_model
    out = backbone(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False)  # type: ignore[operator]
    return cast(Tensor, out.last_hidden_state)
