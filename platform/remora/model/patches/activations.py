"""Gradient checkpointing: keep only each block's input, and recompute the rest in the backward pass.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174), with torch's non-reentrant
checkpoint wrapper, which passes masks and positions through unchanged. transformers' gradient_checkpointing_enable
works in training mode only, but towers and frozen language models are in eval mode, although a connector's gradients go
through all blocks of the language model.
"""

from __future__ import annotations

from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from remora.model.blocks import blocks_of
from remora.model.vision import Unread
from remora.model.vlm import VisionLanguageModel

WRAPPED = "_checkpoint_wrapped_module."
"""What the wrapper adds to a block's parameter names; names in `state_dict` do not change."""


def checkpoint_activations(model: VisionLanguageModel) -> None:
    """Checkpoint every block of the encoder and the language model.

    Blocks below the first trained part keep no activations, so nothing is recomputed there. The language model's last
    block is not checkpointed: the backward pass begins there, so it would be recomputed at once. Results are bit-equal:
    dropout is a function of the sample, so there is no random state to restore.
    """
    for part in ("vision", "llm"):
        module = model.part(part)
        if module is not None:
            blocks = blocks_of(module)[0]
            for i in range(len(blocks) - (part == "llm")):
                if not isinstance(blocks[i], Unread):
                    blocks[i] = checkpoint_wrapper(blocks[i], preserve_rng_state=False)


def plain_name(parameter: str) -> str:
    """A parameter's name without the wrapper around its block."""
    return parameter.replace(WRAPPED, "")
