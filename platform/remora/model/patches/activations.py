"""Activation checkpointing: a block keeps what enters it, and the backward pass computes the rest again.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174), by torch's checkpoint wrapper
without reentrance, which hands masks and positions through as they are. The switch of transformers' models
(gradient_checkpointing_enable) acts in training mode only, in which a tower never is and a frozen language model is
not, although the gradients of a connector go through all of its blocks.
"""

from __future__ import annotations

from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from remora.model.blocks import blocks_of
from remora.model.vision import Unread
from remora.model.vlm import VisionLanguageModel

WRAPPED = "_checkpoint_wrapped_module."
"""What the wrapper adds to the names of a block's parameters; it leaves those of `state_dict` alone."""


def checkpoint_activations(model: VisionLanguageModel) -> None:
    """Let every block of the encoder and of the language model compute again whatever it would have kept.

    Blocks below the first trained part keep nothing, so nothing of them is computed again. The language model's last
    block keeps what it has: the backward pass begins there, so it would be held again at once. Results are the same to
    the bit: dropout is a function of the sample, so there is no random state to restore.
    """
    for part in ("vision", "llm"):
        module = model.part(part)
        if module is not None:
            blocks = blocks_of(module)[0]
            for i in range(len(blocks) - (part == "llm")):
                if not isinstance(blocks[i], Unread):
                    blocks[i] = checkpoint_wrapper(blocks[i], preserve_rng_state=False)


def plain_name(parameter: str) -> str:
    """The name that a parameter has without a wrapper around its block."""
    return parameter.replace(WRAPPED, "")
