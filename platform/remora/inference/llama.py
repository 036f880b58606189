"""Passes over slots of Llama-like models: what transformers' classes compute, without what they do beside it.

Of a decoding step of a small model on a CPU, a tenth is transformers' Python and small operations that can be one.
`WholeBatch`, and so every near tie, stays with transformers' own forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from remora.inference.attention import attend
from remora.inference.cache import SlotCache, SlotWriting
from remora.inference.spans import SlotSpan
from remora.model.blocks import token_table

CLASSES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Of transformers: RMS norms before attention and MLP, rotary positions of whole heads, a gated MLP."""


def fits(llm: PreTrainedModel) -> bool:
    """Whether `llama_pass` is this model's forward pass: fp32 on a CPU, where it was compared."""
    table = token_table(llm)
    own = type(llm).__module__.startswith("transformers.models.") and type(llm).__name__ in CLASSES
    return own and table.is_cpu and table.dtype == torch.float32


def llama_pass(
    llm: PreTrainedModel, inputs: Tensor, spans: tuple[SlotSpan, ...], positions: Tensor, cache: SlotCache, last: Tensor
) -> Tensor:
    """inputs [N, H] of these spans, of which those of one token come first, at positions [N]; writes `cache`. Returns
    logits [n, V] behind the tokens `last` [n].
    """
    model: Any = llm.get_decoder()
    cos, sin = (each[0, :, None] for each in model.rotary_emb(inputs, positions[None]))
    turn = torch.cat((-sin[..., : sin.shape[-1] // 2], sin[..., sin.shape[-1] // 2 :]), -1)
    writing, x, count = SlotWriting(cache, spans), inputs, inputs.shape[0]
    for number, layer in enumerate(model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        read = _norm(x, layer.input_layernorm)
        asked, keys = (_heads(attention, name, read) for name in ("q", "k"))
        values = attention.v_proj(read).view(count, -1, attention.head_dim)
        both = torch.cat((asked, keys), 1)  # [N, heads, D]
        halves = both.chunk(2, -1)
        both = torch.addcmul(both * cos, torch.cat((halves[1], halves[0]), -1), turn).transpose(0, 1)
        held = writing.put(number, both[asked.shape[1] :], values.transpose(0, 1))
        told = attend(both[: asked.shape[1]], *held, spans, attention.scaling)
        x = x + attention.o_proj(told.reshape(count, -1))
        read = _norm(x, layer.post_attention_layernorm)
        x = x + mlp.down_proj(mlp.act_fn(mlp.gate_proj(read)) * mlp.up_proj(read))
    logits: Tensor = llm.get_output_embeddings()(_norm(x[last], model.norm))
    return logits


def _heads(attention: Any, name: str, read: Tensor) -> Tensor:
    """Queries or keys [N, heads, D]; Qwen3 norms each head's."""
    found: Tensor = getattr(attention, f"{name}_proj")(read).view(read.shape[0], -1, attention.head_dim)
    norm = getattr(attention, f"{name}_norm", None)
    return found if norm is None else _norm(found, norm)


def _norm(rows: Tensor, norm: nn.Module) -> Tensor:
    weight: Any = norm.weight
    return F.rms_norm(rows, weight.shape, weight, norm.variance_epsilon)  # type: ignore[arg-type]
