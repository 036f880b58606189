"""What a composition takes when it answers on a device: weights by their bits, a request's cache, speed by bandwidth.

Counted from the catalog and the composition's own shapes. A token of an answer reads all weights of the language model
and the cache of its request, so the memory's bandwidth bounds how fast answers come; pictures and prompts, which are
read at once, are not counted. It loads torch, to count parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from remora import catalog
from remora.catalog import LLM, Device
from remora.catalog.compatibility import check_composition
from remora.planning.sizes import PartSizes, part_sizes
from remora.runs.memory import CONTEXT, GIB
from remora.spec import Variant

Bits = Literal["fp32", "bf16", "int8", "int4"]
WEIGHTS: dict[Bits, float] = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.5 + 2 / 64}
"""Bytes of a weight of the language model's layers; int4 with a 16-bit scale for 64 of them."""
PROMPT, ANSWER = 64, 256
"""Tokens of the text of a request, and of an answer: the endpoint's default at most."""
USED = 0.9
"""Share of a device that is planned for; vLLM takes as much."""


@dataclass(frozen=True)
class ServingFit:
    """A composition with weights of so many bits."""

    composition: str
    weights: Bits
    size: int
    """Bytes of all weights."""
    picture: int
    """Embeddings of a picture."""
    cache: int
    """Bytes of keys and values of a request: a picture, its text and its answer."""
    requests: int
    """That fit at once; 0 if the weights do not."""
    alone: float | None
    """Tokens a second of one request, at most; None where the bandwidth is not known."""
    together: float | None
    """Tokens a second of all of them, at most."""


def serving(variants: Sequence[Variant], device: Device) -> tuple[ServingFit, ...]:
    """Every composition of the variants once, with weights of each kind."""
    found: dict[tuple[str, str, str], None] = dict.fromkeys((v.vision, v.connector, v.llm) for v in variants)
    return tuple(_served(names, bits, device) for names in found for bits in WEIGHTS)


def weight_bytes(sizes: PartSizes, bits: Bits) -> int:
    """Bytes of a composition's weights. Below 16 bits encoder, connector, embeddings and output head stay in 16."""
    inner = sizes.llm - sizes.embeddings
    others = sizes.total - inner
    return round(inner * WEIGHTS[bits] + others * max(2.0, WEIGHTS[bits]))


def cache_bytes(llm: LLM, bits: Bits) -> int:
    """Bytes of a token's keys and values: in 16 bits, or 32 with fp32."""
    config = llm.config
    heads = int(config["num_attention_heads"])
    width = int(config.get("head_dim") or llm.hidden // heads)
    shared = int(config.get("num_key_value_heads") or heads)
    return 2 * llm.layers * shared * width * (4 if bits == "fp32" else 2)


def _served(names: tuple[str, str, str], bits: Bits, device: Device) -> ServingFit:
    vision, connector, llm = names
    entry, sizes = catalog.llm(llm), part_sizes(vision, connector, llm)
    picture = check_composition(catalog.vision(vision), catalog.connector(connector), entry)
    size, token = weight_bytes(sizes, bits), cache_bytes(entry, bits)
    whole = min(entry.context, picture + PROMPT + ANSWER)
    room = ((device.memory or 0) << 20) * USED - CONTEXT - size
    requests = max(0, int(room // (whole * token)))
    tied = bool(entry.config.get("tie_word_embeddings"))
    tables = sizes.embeddings if tied else sizes.embeddings / 2  # of its own table a token reads one row
    read = (sizes.llm - sizes.embeddings) * WEIGHTS[bits] + tables * max(2.0, WEIGHTS[bits])
    filled = (whole - ANSWER / 2) * token
    alone = together = None
    if device.bandwidth and requests:
        alone = device.bandwidth / (read + filled)
        together = requests * device.bandwidth / (read + requests * filled)
    return ServingFit(", ".join(names), bits, size, picture, whole * token, requests, alone, together)


def weights_table(compositions: Sequence[tuple[str, str, str]]) -> str:
    """Weights of language models alone and of compositions in GiB, at 32, 16, 8 and 4 bits, as a Markdown table.

    python -c "from remora.planning.serving import *; print(weights_table(PUBLISHED))"
    """
    rows = ["| | parameters, M | fp32 | bf16 | int8 | int4 |", "|---|---:|---:|---:|---:|---:|"]
    for vision, connector, llm in compositions:
        whole = part_sizes(vision, connector, llm)
        alone = PartSizes(0, 0, whole.llm, whole.embeddings)
        for name, sizes in ((llm, alone), (f"with {vision}, {connector}", whole)):
            gib = (f"{weight_bytes(sizes, bits) / GIB:.2f}" for bits in WEIGHTS)
            rows.append(f"| {name} | {sizes.total / 1e6:,.0f} | {' | '.join(gib)} |")
    return "\n".join(rows)


PUBLISHED = [
    ("siglip-so400m-384", "mlp2x_gelu", llm) for llm in ("tinyllama-1.1b-chat", "stablelm-2-zephyr-1.6b", "phi-2")
]
"""TinyLLaVA's three."""
