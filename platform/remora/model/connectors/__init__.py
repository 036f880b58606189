"""Connectors: vision tokens [B, N, width] in, language-model embeddings [B, M, hidden] out.

One module per family. `remora.catalog.compatibility` says which ones fit and how many embeddings come out, without
building them. Every connector is initialised as in its publication (see its docstring), from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from remora.catalog import Connector
from remora.catalog.compatibility import check_width, tokens_out
from remora.model.connectors.mobile import LDP, LDPv2
from remora.model.connectors.projection import PixelShuffle, mlp
from remora.model.connectors.qformer import QFormer
from remora.model.connectors.resampler import CrossResampler, Resampler

KINDS: dict[str, Callable[..., nn.Module]] = {
    "identity": nn.Identity,
    "mlp": mlp,
    "resampler": Resampler,
    "cross-resampler": CrossResampler,
    "qformer": QFormer,
    "ldp": LDP,
    "ldpv2": LDPv2,
    "pixel-shuffle": PixelShuffle,
}


def build_connector(entry: Connector, width: int, hidden: int) -> nn.Module:
    """Build and initialise the connector of a catalog entry, from `width` channels to `hidden`.

    Raises:
        SpecError: its kind cannot connect these widths.
    """
    check_width(entry, width, hidden)
    return KINDS[entry.kind](width, hidden, **entry.shape)


__all__ = ["build_connector", "tokens_out"]
