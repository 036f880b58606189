"""The choice of a search's champion, from what its variants left in the run folder. No MLflow, no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from remora import catalog
from remora.catalog.compatibility import check_composition
from remora.evaluation.choice import ChampionChoice, Prefer, choose
from remora.evaluation.kept import read_report
from remora.evaluation.sheet import REPORT
from remora.pipeline.variant import Outcome
from remora.runs import StageRun, Store
from remora.spec import Variant
from remora.training import journal


def cost(variant: Variant, last: StageRun, store: Store) -> dict[str, float]:
    """What a variant costs to run: its parameters, as its last stage run counted them, and the embeddings of a picture.

    A language model reads a picture's embeddings with every question, so they cost time and memory as its size does.
    """
    vision, llm = catalog.vision(variant.vision), catalog.llm(variant.llm)
    events = journal.read(store.folder(last) / journal.JOURNAL)
    table = next((e["table"] for e in events if e["event"] == "started" and "table" in e), None)
    # A journal that lost its first line says nothing; the connector, which the catalog does not count, is the least.
    counted = sum(row["parameters"] for row in table) if table else vision.parameters + llm.parameters
    tokens = check_composition(vision, catalog.connector(variant.connector), llm)
    return {"parameters": counted, "picture_tokens": tokens}


def choice(
    outcomes: Sequence[Outcome],
    variants: Mapping[str, tuple[Variant, tuple[StageRun, ...]]],
    benchmark: str,
    prefer: Prefer,
    store: Store,
) -> ChampionChoice:
    """Choose among measured variants by their answers to `benchmark`.

    Raises:
        DataError: a report that is gone, or that cannot be compared with the others.
    """
    reports = {o.name: read_report(o.reports[benchmark] / REPORT).report for o in outcomes}
    costs = {o.name: cost(variants[o.name][0], variants[o.name][1][-1], store) for o in outcomes}
    return choose(benchmark, reports, costs, prefer)
