"""A model card in the hub's form: metadata with a model-index, then what a person wants to know.

A figure goes into the model-index only with its interval and with what the same model gets on the wrong pictures: 0.87
says little where 0.67 can be had blind. The others are named with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from remora import catalog
from remora.errors import UnknownName
from remora.evaluation.score import ScoreRecord
from remora.pipeline.origin.explanation import Explanation
from remora.pipeline.origin.model import ModelOrigin
from remora.reporting.explained import sections

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

README = "README.md"
TEMPLATE = "card.md.j2"
KEPT = ("Promoted", "Chosen", "Data", "Parts", "Use", "Not known")
"""Sections of the explanation that the card has, too; figures have a table of their own."""


def why_not(score: ScoreRecord) -> str:
    """Why a figure does not go into a model-index; empty if it does."""
    if len(score.get("ci") or ()) != 2:
        return "it has no interval"
    if score.get("blind") is None:
        return "there is no blind figure beside it"
    return ""


def model_card(found: Explanation, layout: str = "remora") -> str:
    """The text of README.md.

    Args:
        layout: Of the model's files: `llava`, which transformers loads, or `remora`.
    """
    from huggingface_hub import ModelCard, ModelCardData

    origin = found.origin
    data = ModelCardData(
        model_name=origin.name,
        pipeline_tag="image-text-to-text",
        library_name="transformers" if layout == "llava" else "remora",
        base_model=[part.hub for part in origin.parts if part.hub] or None,
        license="other",
        license_name="of its parts and data",
        license_link="README.md",
        tags=["remora", "multimodal", "vision-language"],
        metrics=sorted({s["metric"] for s in origin.scores.values() if not why_not(s)}) or None,
        eval_results=list(_results(origin)) or None,
    )
    html = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True)
    text = html.get_template(TEMPLATE).render(
        origin=origin,
        layout=layout,
        rows=[_row(score) for score in origin.scores.values()],
        sections=[s for s in sections(found, here=False) if s.title in KEPT or s.title.startswith("Stage runs")],
        digits=12,
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{text}"))


def _results(origin: ModelOrigin) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    for score in origin.scores.values():
        if why_not(score):
            continue
        low, high = score["ci"]
        beside = {"confidence_interval_95": [low, high], "blind": score["blind"], "questions": score["n"]}
        if score.get("question_only") is not None:
            beside["question_only"] = score["question_only"]
        yield EvalResult(
            task_type="image-text-to-text",
            dataset_type=score["benchmark"],
            dataset_name=title_of(score["benchmark"]),
            metric_type=score["metric"],
            metric_name=f"{score['metric']} (95% {low:.4g} to {high:.4g}, blind {score['blind']:.4g})",
            metric_value=score["accuracy"],
            metric_args=beside,
        )


def title_of(benchmark: str) -> str:
    """What a benchmark is called in papers."""
    if benchmark in catalog.PAPERS:
        return catalog.PAPERS[benchmark].title
    try:
        return catalog.benchmark(benchmark).title
    except UnknownName:  # a YAML of one's own
        return benchmark


def _row(score: ScoreRecord) -> str:
    """A row of the table of figures."""
    n = 4 if 0 <= score["accuracy"] <= 1 else 2
    ci = score.get("ci") or []
    interval = f"{ci[0]:.{n}f} to {ci[1]:.{n}f}" if len(ci) == 2 else "none"
    beside = (score.get("blind"), score.get("question_only"))
    blind, words = (f"{b:.{n}f}" if b is not None else "not measured" for b in beside)
    index = why_not(score)
    note = f"not in the model-index: {index}" if index else ""
    figure = f"{score['metric']} {score['accuracy']:.{n}f}"
    return f"| {title_of(score['benchmark'])} | {figure} | {interval} | {blind} | {words} | {score['n']:,} | {note} |"
