"""How large a composition is and how much of it each stage trains, from the catalog's figures alone.

The table of docs/catalog.md:

    python -c "from remora.planning.sizes import published_table; print(published_table())"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor

from remora import catalog
from remora.catalog import Published
from remora.model.parts import sketch
from remora.model.tuning import freeze_and_train, tuning_table
from remora.spec import PARTS, Variant
from remora.stages import resolve_stages


@dataclass(frozen=True)
class Sizes:
    """Parameters of a composition: of its parts, and of what each stage trains."""

    vision: int
    """As published, with blocks and heads behind the feature layer, which are neither held nor trained."""
    connector: int
    llm: int
    embeddings: int
    """The share of `llm` that is its token table and output head (once if they are tied)."""
    trained: Mapping[str, Mapping[str, int]]
    """Stage name to part to the parameters that train; adapters count, the weights under them do not."""

    @property
    def total(self) -> int:
        """Of the three parts, without adapters."""
        return self.vision + self.connector + self.llm


def sizes(variant: Variant) -> Sizes:
    """Count a variant on the meta device: nothing is downloaded, and no dataset is read.

    Raises:
        SpecError: a name that the catalog does not hold, or an override that breaks a rule.
    """
    encoder, stages = catalog.vision(variant.vision), resolve_stages(variant)
    entries = encoder, catalog.connector(variant.connector), catalog.llm(variant.llm)
    model = sketch(*entries)
    parts = {row.part: row.parameters for row in tuning_table(model, stages[-1])}
    trained = {}
    for stage in stages:
        model = sketch(*entries)  # anew, because adapters stay
        freeze_and_train(model, stage.tune)
        trained[stage.name] = dict.fromkeys(PARTS, 0) | {r.part: r.trained for r in tuning_table(model, stage)}
    ends = model.llm.get_input_embeddings(), model.llm.get_output_embeddings()  # type: ignore[operator]
    embeddings = sum({id(p): p.numel() for m in ends for p in m.parameters()}.values())
    return Sizes(encoder.parameters, parts["connector"], parts["llm"], embeddings, trained)


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
