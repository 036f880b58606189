"""The ordered blocks of an encoder or language model."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from remora.model.vision import Tower


def blocks_of(module: nn.Module) -> tuple[nn.ModuleList, list[nn.Module]]:
    """The ordered blocks of a part, and the modules after them that train with the last one.

    transformers' language models call their blocks `layers`. All other modules of the backbone with weights, except the
    embeddings, come after them (`norm`, `final_layernorm`, `final_layer_norm`). The head is not part of the backbone.
    """
    if isinstance(module, Tower):
        return module.blocks, module.tail
    assert isinstance(module, PreTrainedModel)
    backbone, embeddings = module.base_model, module.get_input_embeddings()
    blocks = backbone.get_submodule("layers")
    assert isinstance(blocks, nn.ModuleList)
    others = [m for m in backbone.children() if m is not blocks and m is not embeddings]
    return blocks, [m for m in others if any(True for _ in m.parameters())]


def token_table(llm: PreTrainedModel) -> Tensor:
    """The input embeddings of every token, [vocabulary, hidden]."""
    weight = llm.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight
