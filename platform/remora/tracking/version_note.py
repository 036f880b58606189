"""What MLflow's page of a registered version says first: the run that made it, its stages, its scores, the report."""

from __future__ import annotations

from remora.tracking.metric_names import link
from remora.tracking.record import Claim, Record

STAGE = "remora.stage."
"""How the tags begin that have a run's stages."""


def version_note(record: Record, claim: Claim) -> str:
    """Markdown, with links by the keys of runs (`metric_names.linked`)."""
    said = [f"{claim.tags.get('variant', record.name)}: what {link(record.name, record.key)} made."]
    if record.parent:
        said.append(f"Of {link('its search', record.parent)}, with {link('its report', record.parent, 'artifacts')}.")
    stages = [f"- [{tag.removeprefix(STAGE)}]({run})" for tag, run in record.tags.items() if tag.startswith(STAGE)]
    blocks = [" ".join(said)]
    blocks += ["\n".join(["Its stages:", "", *stages])] if stages else []
    blocks += ["\n".join(["Its scores, with 95 % intervals:", "", *scores])] if (scores := _scores(record)) else []
    blocks.append(f"{link('The model card and every answer', record.key, 'artifacts')}; its files: {claim.folder}.")
    return "\n\n".join(blocks)


def _scores(record: Record) -> list[str]:
    found = []
    for name, (value, _) in sorted(record.metrics.items()):
        low, high = (record.metrics.get(f"{name}_{end}") for end in ("low", "high"))
        if low and high:
            benchmark, _, metric = name.partition("/")
            asked = record.metrics.get(f"{benchmark}/n")
            of = f", {asked[0]:,.0f} questions" if asked else ""
            found.append(f"- {benchmark}: {metric} {value:.4g} ({low[0]:.4g} to {high[0]:.4g}){of}")
    return found
