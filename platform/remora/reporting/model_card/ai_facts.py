"""What a bill of materials says of a model as a model: CycloneDX's model card, and SPDX's AI profile by its names.

Only facts: what was not recorded or measured (its supplier, standards that it meets, personal information in its data)
is left out, although programs that score a bill by its fields count that as missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from remora import catalog
from remora.errors import UnknownName
from remora.pipeline.origin.model import DataOrigin, ModelOrigin
from remora.pipeline.origin.stages import StageOrigin
from remora.reporting.explained import COUNTERS, KWH, energy_of, joules_of
from remora.reporting.model_card.card import why_not

TASK = "image-text-to-text"
HYPERPARAMETERS = "genai:aibom:modelcard:hyperparameter"
"""CycloneDX has no field for them; this is the name in OWASP's taxonomy."""


def model_card_of(origin: ModelOrigin, data_ref: Callable[[DataOrigin], str]) -> dict[str, object]:
    """CycloneDX's model card.

    Args:
        data_ref: The reference of a dataset's component.
    """
    parts = {part.part: part.name for part in origin.parts}
    considerations: dict[str, object] = {
        "useCases": ["Questions about pictures, answered in text."],
        "technicalLimitations": [
            "Nothing was measured about languages other than its data's.",
            "Answers may be wrong and sound sure.",
        ],
        "ethicalConsiderations": [
            {
                "name": "Nothing was measured about safety or bias.",
                "mitigationStrategy": "Do not decide about people by its answers.",
            }
        ],
    }
    if energy := list(_energy(origin)):
        considerations["environmentalConsiderations"] = {"energyConsumptions": energy}
    told = [{"name": HYPERPARAMETERS, "value": _settings(origin)}] if origin.stages else []
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": TASK,
            "architectureFamily": "vision-language model",
            "modelArchitecture": ", ".join(f"{part} {name}" for part, name in parts.items()),
            "datasets": [{"ref": data_ref(data)} for data in origin.data],
            "inputs": [{"format": "image"}, {"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(origin))},
        "considerations": considerations,
        **({"properties": told} if told else {}),
    }


def ai_properties(origin: ModelOrigin) -> Iterator[tuple[str, str]]:
    """(Name, value) of SPDX's AI profile, as far as they are known."""
    yield "primaryPurpose", TASK
    yield "intendedUse", "questions about pictures, answered in text"
    yield "domain", "questions about pictures"
    yield "autonomyType", "no: it answers when it is asked, and acts on nothing"
    if origin.stages:
        yield "informationAboutTraining", "; ".join(map(_trained, origin.stages))
    yield "informationAboutApplication", "pictures and text in, text out; template " + origin.template
    if measured := [s for s in origin.scores.values() if not why_not(s)]:
        yield "metric", "; ".join(f"{s['metric']} on {s['benchmark']} ({s['n']:,} questions)" for s in measured)
    left = {k: n for d in origin.data for k, n in d.skipped.items()}
    yield (
        "modelDataPreprocessing",
        f"pictures made {origin.aspect}; records left out: {', '.join(left) if left else 'none'}",
    )
    if joules := _joules(origin):
        yield "energyConsumption", energy_of(origin.stages)
        yield "energyQuantity", f"{sum(joules.values()) / KWH:.6g}"
        yield "energyUnit", "kWh"


def papers_of(origin: ModelOrigin) -> list[str]:
    """Addresses of the papers that its recipe is from, as the catalog has them."""
    try:
        source = catalog.recipe(str(origin.variant.get("recipe"))).source or ""
    except UnknownName:
        return []
    return [f"https://arxiv.org/abs/{number}" for number in dict.fromkeys(re.findall(r"arXiv (\d{4}\.\d{5})", source))]


def _settings(origin: ModelOrigin) -> str:
    """Each stage as it ran, as JSON; of files the names alone, since their folders are this machine's."""
    of = {s.name: {k: v for k, v in s.settings.items() if v is not None and k != "mixture"} for s in origin.stages}
    return re.sub(r'"/[^"]*/([^"/]+)"', r'"\1"', json.dumps(of))


def _trained(stage: StageOrigin) -> str:
    return f"{stage.name}: {', '.join(stage.trained) or 'nothing'} by {stage.steps:,} steps, {stage.samples:,} samples"


def _joules(origin: ModelOrigin) -> dict[str, float]:
    """By counter, over all stage runs; empty if one of them has none."""
    return joules_of(origin.stages) if all(stage.energy for stage in origin.stages) else {}


def _energy(origin: ModelOrigin) -> Iterator[dict[str, object]]:
    """What counters counted. CycloneDX requires a provider, which counters do not tell."""
    for name, joules in _joules(origin).items():
        if not joules:
            continue
        cost = {"value": round(joules / KWH, 9), "unit": "kWh"}
        provider = {"organization": {"name": "not known"}, "energySource": "unknown", "energyProvided": cost}
        yield {
            "activity": "training",
            "energyProviders": [{**provider, "description": f"as the {COUNTERS[name]}' counters say"}],
            "activityEnergyCost": cost,
        }


def _metrics(origin: ModelOrigin) -> Iterator[dict[str, object]]:
    for score in origin.scores.values():
        if why_not(score):
            continue
        low, high = score["ci"]
        figure: dict[str, object] = {
            "type": score["metric"],
            "value": str(score["accuracy"]),
            "slice": score["benchmark"],
        }
        yield figure | {"confidenceInterval": {"lowerBound": str(low), "upperBound": str(high)}}
        beside: dict[str, object] = {"type": f"{score['metric']}, shown other pictures"}
        beside |= {"value": str(score["blind"]), "slice": score["benchmark"]}
        if blind := score.get("blind_ci"):
            beside["confidenceInterval"] = {"lowerBound": str(blind[0]), "upperBound": str(blind[1])}
        yield beside
