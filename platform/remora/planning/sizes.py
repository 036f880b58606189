"""Parameters of a composition and how many each stage trains, from the catalog only.

The table of docs/catalog.md:

    python -c "from remora.planning.sizes import published_table; print(published_table())"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import floor

from remora import catalog
from remora.catalog import PublishedModel
from remora.model.parts import count_connector, count_llm, sketch
from remora.model.tuning import freeze_and_train, tuning_table
from remora.runs import resolve_stages
from remora.spec import PARTS, Variant


@dataclass(frozen=True)
class PartSizes:
    """Parameters of a composition, by part."""

    vision: int
    """As published, including blocks and heads after the feature layer, which are neither loaded nor trained."""
    connector: int
    llm: int
    embeddings: int
    """The part of `llm` in its embedding table and output head (once if tied)."""

    @property
    def total(self) -> int:
        """Total of the three parts, without adapters."""
        return self.vision + self.connector + self.llm


@dataclass(frozen=True)
class Sizes(PartSizes):
    """Parameters of a variant's parts, and of what each stage trains."""

    trained: Mapping[str, Mapping[str, int]]
    """Stage name -> part -> trained parameters; adapters count, the weights below them do not."""


def part_sizes(vision: str, connector: str, llm: str) -> PartSizes:
    """Count three catalog parts on the meta device; nothing is downloaded.

    Raises:
        SpecError: a name is not in the catalog.
    """
    encoder = catalog.vision(vision)
    joined = count_connector(catalog.connector(connector), encoder.width, catalog.llm(llm).hidden)
    return PartSizes(encoder.parameters, joined, *_llm(llm))


@cache
def _llm(name: str) -> tuple[int, int]:
    return count_llm(catalog.llm(name))  # takes a second


def sizes(variant: Variant) -> Sizes:
    """Count a variant, and what each of its stages trains. No dataset is read.

    Raises:
        SpecError: a name is not in the catalog, or an override is invalid.
    """
    entries = catalog.vision(variant.vision), catalog.connector(variant.connector), catalog.llm(variant.llm)
    trained = {}
    for stage in resolve_stages(variant):
        model = sketch(*entries)  # a new one, because adapters stay
        freeze_and_train(model, stage.tune)
        trained[stage.name] = dict.fromkeys(PARTS, 0) | {r.part: r.trained for r in tuning_table(model, stage)}
    return Sizes(**vars(part_sizes(variant.vision, variant.connector, variant.llm)), trained=trained)


def as_published(size: PartSizes, model: PublishedModel) -> str:
    """The count in the method and with the digits of the model's published size (3.1B)."""
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
        size = part_sizes(model.vision, model.connector, model.llm)
        figures = (f"{n / 1e6:,.1f}" for n in (size.vision, size.connector, size.llm, size.total))
        rows.append(f"| {name} | {' | '.join(figures)} | {model.size or '–'} | {model.counted if model.size else ''} |")
    return "\n".join(rows)
