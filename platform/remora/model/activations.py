"""Activation checkpointing: a block keeps what enters it, and the backward pass computes the rest again.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174); torch.utils.checkpoint without
reentrance, which hands masks and positions through as they are. The switch of transformers' models
(gradient_checkpointing_enable) acts in training mode alone, in which a tower never is and a frozen language model is
not, although the gradients of a connector go through all of its blocks.
"""

from __future__ import annotations

from functools import partial

from torch.utils.checkpoint import checkpoint

from remora.model.blocks import blocks_of
from remora.model.vlm import VisionLanguageModel


def checkpoint_activations(model: VisionLanguageModel) -> None:
    """Let every block of the encoder and of the language model compute again whatever it would have kept.

    Blocks below the first trained part keep nothing, so nothing of them is computed again. The language model's last
    block keeps what it has: the backward pass begins there, so it would be held again at once. Results are the same to
    the bit: dropout is a function of the sample, so there is no random state to restore.
    """
    for part in ("vision", "llm"):
        module = model.part(part)
        if module is not None:
            blocks = list(blocks_of(module)[0])
            for block in blocks if part == "vision" else blocks[:-1]:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
