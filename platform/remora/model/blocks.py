"""The blocks of an encoder or of a language model, in their order."""

from __future__ import annotations

from torch import nn

from remora.model.vision import Tower


def blocks_of(module: nn.Module) -> tuple[nn.ModuleList, list[nn.Module]]:
    """The ordered blocks of a part, and the modules behind them that train with the last one.

    Language models of transformers call their blocks `layers`; what else of the backbone has weights, apart from the
    embeddings, comes after them (`norm`, `final_layernorm`, `final_layer_norm`). The head is not of the backbone.
    """
    if isinstance(module, Tower):
        return module.blocks, module.tail
    backbone = module.base_model
    blocks, embeddings = backbone.layers, module.get_input_embeddings()  # type: ignore[operator,union-attr]
    others = [m for m in backbone.children() if m is not blocks and m is not embeddings]  # type: ignore[union-attr]
    return blocks, [m for m in others if any(True for _ in m.parameters())]  # type: ignore[return-value]
