"""The Q-Former: a BERT whose learned queries attend to the vision tokens by cross-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EVERY = 2
"""Layers 0, 2, 4 ... have cross-attention, as in BLIP-2 and its successors."""


class QFormer(nn.Module):
    """`queries` learned vectors go through `depth` BERT layers of heads x head_width channels; M = queries.

    Every layer has self-attention and a feed-forward layer (x4), every second one cross-attention to the vision tokens;
    a linear layer then maps to `hidden`. Only the query path of BLIP-2's Q-Former is built: no text, no word
    embeddings. The layers are transformers'.

    Source: BLIP-2 (arXiv 2301.12597, section 3.1), with the shape that TinyLLaVA Factory gives it
    (connector/qformer.py): BERT-base, 12 layers of 12 heads x 64.
    Initialisation: as Factory's, which takes BERT's configuration but not its weights: queries and weights
    normal(0, 0.02), biases 0.
    Dropout: none; BERT's configuration has 0.1. With masks drawn per micro batch, results would depend on how the batch
    is split over workers.
    Names: after Factory's `connector._connector.`, `query_tokens` -> `queries`, `projector` -> `project`; in
    `bert.encoder`, `attention.self` -> `attention.attention`, `crossattention.self` -> `crossattention.attention`.
    Factory normalises its queries without gain and bias: `bert.layernorm` is 1 and 0.
    """

    def __init__(self, width: int, hidden: int, queries: int, depth: int, heads: int, head_width: int) -> None:
        super().__init__()
        # Imported here because it takes seconds, which processes with other connectors should not pay.
        from transformers import Blip2QFormerConfig, Blip2QFormerModel

        inner = heads * head_width
        config = Blip2QFormerConfig(
            hidden_size=inner,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * inner,
            encoder_hidden_size=width,
            cross_attention_frequency=EVERY,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.02,
        )
        self.bert = Blip2QFormerModel(config)
        self.queries = nn.Parameter(torch.randn(1, queries, inner) * config.initializer_range)
        self.project = nn.Linear(inner, hidden)
        nn.init.normal_(self.project.weight, std=config.initializer_range)
        nn.init.zeros_(self.project.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        queries = self.queries.expand(len(tokens), -1, -1)
        read = self.bert(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state
        return self.project(read)
