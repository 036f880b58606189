"""How large a composition is and how much of it each stage trains, from the catalog's figures alone.

The table of docs/catalog.md:

    python -c "from remora.planning import published_table; print(published_table())"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor

from remora import catalog
from remora.catalog import Published
from remora.model.outline import connector_outline, count, llm_outline, vision_outline
from remora.spec import PARTS, Variant
from remora.stages import resolve_stages


@dataclass(frozen=True)
class Sizes:
    """Parameters of a composition: of its parts, and of what each stage trains."""

    vision: int
    connector: int
    llm: int
    embeddings: int
    """The share of `llm` that is its token table and output head (once if they are tied)."""
    trained: Mapping[str, Mapping[str, int]]
    """Stage name to part to the parameters that get a gradient; adapters count, the weights under them do not."""

    @property
    def total(self) -> int:
        """Of the three parts, without adapters."""
        return self.vision + self.connector + self.llm


def sizes(variant: Variant) -> Sizes:
    """Count a variant on the meta device: nothing is downloaded, and no dataset is read.

    Raises:
        SpecError: a name that the catalog does not hold, or an override that breaks a rule.
    """
    encoder, entry = catalog.vision(variant.vision), catalog.llm(variant.llm)
    vision, llm = vision_outline(encoder), llm_outline(entry)
    connector = connector_outline(catalog.connector(variant.connector), encoder.width, entry.hidden)
    parts = {"vision": vision, "connector": connector, "llm": llm}
    return Sizes(
        count(vision.whole),
        count(connector.whole),
        count(llm.whole),
        count(llm.whole.get_input_embeddings(), llm.whole.get_output_embeddings()),
        {s.name: {p: parts[p].trained(s.tune[p]) for p in PARTS} for s in resolve_stages(variant)},
    )


def as_published(size: Sizes, model: Published) -> str:
    """The count in the way and with the digits of the model's published size, 3.1B."""
    digits = len((model.size or "1.0B").rstrip("B").partition(".")[2])
    if model.counted == "cut":
        billions = sum(floor(n / 1e8) for n in (size.vision, size.llm)) / 10
    else:
        billions = (size.total - (size.embeddings if model.counted == "no-embeddings" else 0)) / 1e9
    return f"{billions:.{digits}f}B"


def published_table() -> str:
    """Every published model with its parts' parameters in millions, as a Markdown table."""
    rows = [
        "| model | encoder | connector | llm | total, M | published | counted |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name in catalog.entries("published"):
        model = catalog.published(name)
        size = sizes(model.variant(name))
        figures = (f"{n / 1e6:,.1f}" for n in (size.vision, size.connector, size.llm, size.total))
        rows.append(f"| {name} | {' | '.join(figures)} | {model.size or '–'} | {model.counted if model.size else ''} |")
    return "\n".join(rows)
