"""The multimodal model: three parts, and a loss over supervised tokens only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from remora.batch import Batch
from remora.model.patches.attention import positions_of, states
from remora.model.patches.dropout import KeyedDropout
from remora.model.patches.head import LossHead
from remora.model.patches.narrow import only
from remora.model.split import is_split
from remora.model.vision import Tower
from remora.token_ids import IGNORE, IMAGE


def place(embeddings: Tensor, ids: Tensor, pictures: Tensor) -> Tensor:
    """Put pictures [I, image_tokens, hidden] into embeddings [B, T, hidden] at the IMAGE positions of ids [B, T]."""
    return embeddings.masked_scatter((ids == IMAGE).unsqueeze(-1), pictures.flatten(0, 1).to(embeddings.dtype))


class VisionLanguageModel(nn.Module):
    """A vision encoder, a connector and a language model. A text-only stage has only the language model.

    `image_size` is the side in pixels of the encoder's input; `image_tokens` is the number of embeddings per picture.
    """

    def __init__(
        self,
        llm: PreTrainedModel,
        vision: Tower | None,
        connector: nn.Module | None,
        image_size: int,
        image_tokens: int,
    ) -> None:
        super().__init__()
        self.vision = vision
        self.connector = connector
        self.llm = llm
        llm.set_output_embeddings(LossHead(llm.get_output_embeddings()))
        self.image_size = image_size
        self.image_tokens = image_tokens
        self.dropouts: dict[str, list[KeyedDropout]] = {}
        """Part -> its active dropouts; set by `freeze_and_train`."""
        self.narrowed: list[nn.Module] = []
        """Modules of the language model's last block that run only for supervised positions; from `narrow`."""

    def part(self, name: str) -> nn.Module | None:
        return getattr(self, name)

    def image_embeddings(self, pixels: Tensor) -> Tensor:
        """pixels [I, 3, H, W] -> embeddings [I, image_tokens, hidden]."""
        assert self.vision is not None and self.connector is not None
        frozen = not any(p.requires_grad for p in self.vision.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            tokens = self.vision(pixels)
        return self.connector(tokens)

    def embed(self, ids: Tensor, pixels: Tensor) -> Tensor:
        """Input embeddings [B, T, hidden]: token embeddings, with pictures in their places.

        If gradients are needed or weights are split, a batch without a picture still runs the encoder and connector on
        a blank one, before the language model: every rank must use the same parameters in the same order. Adding the
        blank picture to the loss instead would crash ZeRO 1 and 3, and silently sum unrelated gradients under ZeRO 2.
        """
        embeddings = self.llm.get_input_embeddings()(ids.clamp(min=0))
        if self.vision is None:
            return embeddings
        if len(pixels):
            return place(embeddings, ids, self.image_embeddings(pixels))
        if torch.is_grad_enabled() or any(is_split(p) for p in self.vision.parameters()):
            blank = pixels.new_zeros(1, 3, self.image_size, self.image_size)
            embeddings = embeddings + 0.0 * self.image_embeddings(blank).sum()
        return embeddings

    def forward(self, batch: Batch) -> Tensor:
        """The loss: a scalar, the sum of cross entropies (nats) over supervised tokens, each times its sample's weight
        if the batch has weights. Rows are packed or padded on the right.

        Logits are computed for supervised positions only, and the head's gradients in the same pass
        (model/patches/head.py).
        """
        targets = F.pad(batch.targets, (0, 1), value=IGNORE).flatten()  # for every position, including the last
        rows = (targets != IGNORE).nonzero().squeeze(1)
        self._key_dropouts(batch)
        with only(self.narrowed, rows, batch.ids.shape):
            hidden = states(self.llm, self.embed(batch.ids, batch.pixels), batch.lengths)
        weights = batch.token_weights
        return self.llm.get_output_embeddings()(
            hidden.flatten(0, 1).index_select(0, rows),
            targets=targets[rows],
            weights=None if weights is None else weights[rows],
        )

    def _key_dropouts(self, batch: Batch) -> None:
        """Set the keys of every dropout, so that a sample has the same masks in a packed row as in a row of its own."""
        keys, positions = batch.keys, None
        if batch.lengths and self.dropouts.get("llm"):
            device = keys.device
            each = torch.tensor(batch.lengths, device=device)
            keys = keys.repeat_interleave(each, output_size=sum(batch.lengths))[None]  # avoids a GPU sync
            positions = positions_of(batch.lengths).to(device)
        for part, dropouts in self.dropouts.items():
            for dropout in dropouts:
                dropout.keys, dropout.positions = (keys, positions) if part == "llm" else (batch.image_keys, None)
