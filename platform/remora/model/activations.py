"""Activation checkpointing: a block keeps what enters it, and the backward pass computes the rest again.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174); torch.utils.checkpoint without
reentrance, which hands masks and positions through as they are. The switch of transformers' models
(gradient_checkpointing_enable) acts in training mode alone, in which a tower never is and a frozen language model is
not, although the gradients of a connector go through all of its blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from remora.model.tuning import blocks_of
from remora.model.vlm import VisionLanguageModel


def checkpoint_activations(model: VisionLanguageModel) -> None:
    """Let every block of the encoder and of the language model compute again whatever it would have kept.

    The results are the same to the bit: dropout is a function of the sample, so it needs no random state restored.
    """
    for part in ("vision", "llm"):
        module = model.part(part)
        if module is not None:
            for block in blocks_of(part, module)[0]:
                block.forward = partial(_forward, block, block.forward)


def _forward(block: nn.Module, forward: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Blocks below the first trained part keep nothing, so there is nothing to compute again."""
    if not torch.is_grad_enabled() or not (hidden.requires_grad or any(p.requires_grad for p in block.parameters())):
        return forward(hidden, *args, **kwargs)
    return checkpoint(forward, hidden, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
