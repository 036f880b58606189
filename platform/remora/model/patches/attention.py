"""Attention in packed rows: every sample attends only to itself, without a [tokens, tokens] mask.

transformers' way (restarting positions) builds that mask for sdpa: 64 MB for 8,192 tokens, all of which every kernel
processes. Here the samples' lengths are passed in place of the mask. In half precision on CUDA, a layer is one call of
torch's variable-length attention. In fp32, which that does not support, and on CPUs, each sample is a separate causal
call. The cost of attention falls from the square of the row's length to the sum of the samples' squares
(docs/batches.md).

Variable-length attention has not been run on a GPU; its inputs are tested without one (docs/devices.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from remora.errors import SpecError
from remora.model.blocks import token_table
from remora.model.split import shape_of, whole_as_they_run

PER_SAMPLE = "per_sample"
UNLIKE = ("softcap", "s_aux", "position_bias")
"""Arguments of some attentions that change scores beyond scaling; none is supported here."""
LAYERS = {"full_attention", "sliding_attention"}
"""Supported layer types in a config. Chunks, convolutions and recurrent states would mix adjacent samples."""
OTHERWISE = "; next: set rows: padded under cluster"


def lengths_mask(lengths: Sequence[int]) -> Tensor:
    """The attention mask argument of a packed row: its samples' lengths, int64 [1, 1, 1, S].

    transformers passes a 4-D mask unchanged to every layer. It stays on the CPU, so reading it needs no GPU sync.
    """
    return torch.tensor(lengths).view(1, 1, 1, -1)


def positions_of(lengths: Sequence[int]) -> Tensor:
    """[1, T], the position of each token within its sample."""
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

    Anything but a packed row (decoding, a padded row) goes to transformers' sdpa.

    Raises:
        SpecError: the model's attention uses unsupported arguments.
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
    """Cast inputs as autocast does for `scaled_dot_product_attention`, but not for variable-length attention. Rotary
    positions leave queries and keys in fp32 and values in half precision."""
    kind = tensors[0].device.type
    return tuple(t.to(torch.get_autocast_dtype(kind)) for t in tensors) if torch.is_autocast_enabled(kind) else tensors


def in_one_call(*tensors: Tensor) -> bool:
    """Whether torch's variable-length attention supports these: half precision on CUDA, with a head size that flash
    attention supports. torch pads others for `scaled_dot_product_attention` only."""
    half = all(t.is_cuda and t.dtype == tensors[0].dtype in (torch.float16, torch.bfloat16) for t in tensors)
    return half and all(t.shape[-1] % 8 == 0 and t.shape[-1] <= 256 for t in tensors)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scaling: float | None, window: int | None
) -> Tensor:
    """Attention of all samples in the row at once: [1, T, heads, D]. A window of n is a token and n - 1 to its left."""
    ends, longest = _ends(tuple(lengths), query.device), max(lengths)
    q, k, v = (t[0].transpose(0, 1).contiguous() for t in (query, key, value))
    left = -1 if window is None else window - 1
    grouped = query.shape[1] != key.shape[1]
    out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling, window_size=(left, 0), enable_gqa=grouped)
    assert isinstance(out, Tensor)
    return out[None]


@lru_cache(maxsize=8)
def _ends(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Cumulative lengths of a row's samples, int32 [S + 1]; cached, because every layer of a pass needs the same."""
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


def attend_per_sample(llm: PreTrainedModel, untried: bool = False) -> None:
    """Enable packed rows; the model's behaviour for other rows does not change.

    It is first tried on a row of two samples: a model that mixes them (recurrence, its own positions) would silently
    train on wrong gradients. `untried` is for a model without values, which is only traced.

    Raises:
        SpecError: its config has layers other than attention, or a sample's states in a packed row differ from those in
            a row of its own.
    """
    kind = type(llm).__name__
    if mixing := set(getattr(llm.config, "layer_types", None) or ()) - LAYERS:
        raise SpecError(f"packed rows: {kind} has layers of type {', '.join(sorted(mixing))}{OTHERWISE}")
    llm.set_attn_implementation(PER_SAMPLE)
    if untried:
        return
    lengths = (3, 5)
    row = probe(llm, sum(lengths))
    try:
        with trying(llm):
            packed = states(llm, row, lengths)
            expected = torch.cat([states(llm, sample) for sample in row.split(lengths, 1)], 1)
    except (RuntimeError, TypeError, ValueError) as e:  # it does not accept such a mask, or positions
        raise SpecError(f"packed rows: {kind} does not support them: {e}{OTHERWISE}") from None
    if not alike(packed, expected):
        raise SpecError(f"packed rows: {kind} mixes the samples of a row{OTHERWISE}")


@contextlib.contextmanager
def trying(llm: PreTrainedModel) -> Iterator[None]:
    """During the block the model can run on a `probe`, also if ZeRO 3 has sharded it. Afterwards every module has its
    old mode back: in a frozen model, only the dropouts may be in training mode."""
    training = [module for module in llm.modules() if module.training]
    llm.eval()
    try:
        with torch.no_grad(), whole_as_they_run(llm):
            yield
    finally:
        for module in training:
            module.training = True


def alike(found: Tensor, expected: Tensor) -> bool:
    """Whether two trials' states are equal up to rounding."""
    return torch.allclose(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def probe(llm: PreTrainedModel, tokens: int) -> Tensor:
    """Embeddings [1, tokens, hidden] to try a model on, all different."""
    table = token_table(llm)
    return torch.sin(torch.arange(tokens * shape_of(table)[1]) + 1.0).view(1, tokens, -1).to(table)


def states(llm: PreTrainedModel, embeddings: Tensor, lengths: Sequence[int] = ()) -> Tensor:
    """Last hidden states [B, T, hidden] of embeddings [B, T, hidden]: a packed row with `lengths`, or one sample per
    row.

    Samples may be padded on the right: a causal model does not attend there, so no mask is needed.
    """
    mask, positions = None, None
    if lengths:
        mask, positions = lengths_mask(lengths), positions_of(lengths).to(embeddings.device)
    backbone = llm.base_model
    out = backbone(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False)
    return out.last_hidden_state
