"""A model explained, as lines and as a page: who chose it and why, and what it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from remora.evaluation.choice import RankedRecord
from remora.files import write_atomic
from remora.pipeline.origin.chosen import SearchDecision
from remora.pipeline.origin.explanation import CanaryDecision, Explanation
from remora.pipeline.origin.model import DataOrigin, ModelOrigin, PartOrigin
from remora.pipeline.origin.siblings import Sibling
from remora.pipeline.origin.stages import StageOrigin
from remora.pipeline.promotion import Promotion
from remora.reporting.escaped import templates
from remora.reporting.results import history_lines, score_line
from remora.training.environment import shown
from remora.training.meter import duration

TEMPLATE = "explained.html.j2"
COUNTERS = {"gpu_joules": "GPUs", "cpu_joules": "processors"}
KWH = 3.6e6
"""Joules."""
SHORT = 12
"""Digits of a digest that a line shows; the JSON has all."""


@dataclass(frozen=True)
class ExplainedSection:
    """A heading and its lines; one that begins with two blanks belongs to the line above."""

    title: str
    lines: tuple[str, ...]


def explained_lines(found: Explanation) -> Iterator[str]:
    """What `remora explain` prints."""
    for number, section in enumerate(sections(found)):
        if number:
            yield ""
        yield section.title
        yield from (f"  {line}" for line in section.lines)


def sections(found: Explanation, here: bool = True) -> list[ExplainedSection]:
    """From who serves it down to the data; sections that have nothing to say are left out.

    Args:
        here: Also say in what the versions that it was trained with differ from this machine's.
    """
    origin = found.origin
    told = [
        (_title(found), _about(found)),
        ("Promoted", _promoted(found.promotions)),
        ("Canaries", _canaries(found.canaries)),
        ("Chosen", _chosen(found.decision, origin) if found.decision else ()),
        ("Figures", map(score_line, origin.scores.values()) if origin.scores else ["measured on nothing here"]),
        ("Others in the store", map(sibling_line, found.siblings)),
        (_stage_title(origin.stages), _stages(origin.stages, here)),
        ("Data", map(_data, origin.data)),
        ("Parts", map(_part, origin.parts)),
        ("Use", use_lines(origin, found.decision)),
        ("Not known", origin.gaps),
    ]
    made = [ExplainedSection(title, tuple(lines)) for title, lines in told]
    return [section for section in made if section.lines]


def stage_lines(stages: Sequence[StageOrigin], gaps: Iterable[str]) -> Iterator[str]:
    """A stage run and those before it."""
    yield _stage_title(stages)
    yield from (f"  {line}" for line in _stages(stages, here=True))
    yield from (f"  not known: {gap}" for gap in gaps)


def write_page(found: Explanation, page: Path) -> None:
    """The explanation as one HTML file that loads nothing.

    Raises:
        OSError: it cannot be written.
    """
    settings = [(stage.name, _settings(stage)) for stage in found.origin.stages]
    template = templates(Path(__file__).parent).get_template(TEMPLATE)
    text = template.render(name=found.origin.name, sections=sections(found), settings=settings)
    write_atomic(page.absolute(), text)


def sibling_line(sibling: Sibling) -> str:
    """`with mlp2x_gelu in place of resampler: easy-vqa -0.0040 (-0.0110 to +0.0030), p 0.31; 12% fewer picture
    tokens`."""
    n = 4 if -1 <= sibling.figure <= 1 else 2
    by = f"{sibling.difference:+.{n}f} ({sibling.low:+.{n}f} to {sibling.high:+.{n}f}), p {sibling.p:.4f}"
    said = [f"with {sibling.axis} {sibling.other} in place of {sibling.this}: {sibling.benchmark} {by}"]
    for share, what in ((sibling.picture_tokens, "picture tokens"), (sibling.seconds, "time to train")):
        if share is not None and round(abs(share), 2):
            fewer, more = ("fewer", "more") if what == "picture tokens" else ("less", "more")
            said.append(f"{abs(share):.0%} {fewer if share < 0 else more} {what}")
    return "; ".join([*said, sibling.name])


def use_lines(origin: ModelOrigin, decision: SearchDecision | None = None) -> Iterator[str]:
    """What the model may be used for, and what says so."""
    found = origin.permission
    yield f"{found.words} (the catalog's facts, no legal advice)"
    yield from (f"forbids it: {line}" for line in found.forbids)
    yield from (f"condition: {line}" for line in found.conditions)
    yield from (f"open: {line}" for line in found.open)
    if decision and not found.commercial:
        best = decision.best_allowed
        yield f"the best of search {decision.search} without that: {best or 'none of its measured variants'}"


def _title(found: Explanation) -> str:
    return found.origin.name + (f", {found.version}" if found.version else "")


def _about(found: Explanation) -> Iterator[str]:
    origin = found.origin
    if served := found.served:
        yield f"served by {served.endpoint} (remora {served.remora}), fingerprint {served.fingerprint}"
        if served.note:
            yield f"  {served.note} (weights {served.weights[:SHORT]})"
    parameters = f", {origin.parameters:,} parameters" if origin.parameters else ""
    tokens = f", a picture becomes {origin.picture_tokens:,} tokens" if origin.picture_tokens else ""
    yield f"weights {origin.weights}, {origin.kind}{parameters}{tokens}"
    yield f"{origin.made}, template {origin.template}, pictures made {origin.aspect}; {origin.folder}"


def _promoted(promotions: Sequence[Promotion]) -> Iterator[str]:
    for made in promotions:
        first, *gate = history_lines([made], Path())
        yield first + (f"; by {made.by}" if made.by else "")
        yield from gate
        if made.refused:
            yield f"  the gate had refused it: {made.refused}"


def _canaries(canaries: Sequence[CanaryDecision]) -> Iterator[str]:
    for canary in canaries:
        ended = f"{canary.ended}: {canary.decision}: {canary.why}" if canary.decision else "not decided yet"
        beside = f"version {canary.candidate} beside {canary.stable} of {canary.endpoint}, since {canary.began}"
        yield f"{beside}; {ended}"
        yield f"  {canary.comparisons:,} comparisons; rule: {canary.rule}"
        yield from (f"  {figure}" for figure in canary.figures)


def _chosen(decision: SearchDecision, origin: ModelOrigin) -> Iterator[str]:
    which = "the cheapest that cannot be told from the best" if decision.prefer == "cheapest" else "the best"
    by = f"on {decision.benchmark} ({decision.n:,} questions)"
    variants = f"{decision.measured:,} measured variants" + (f", {decision.stopped:,} stopped" * bool(decision.stopped))
    if decision.is_champion:
        yield f"by search {decision.search}: {which} {by} of {variants}"
    else:
        yield f"not by search {decision.search}, whose champion is {decision.champion}: {which} {by} of {variants}"
    yield from (_ranked(row, decision) for row in decision.ranking if row["name"] in (origin.name, decision.beside))
    for rung in decision.rungs:
        at = f"at {rung.share:.0%} of the last stage: {rung.figure} {rung.value:.4f}"
        yield f"{at}, place {rung.place} of {rung.among}: {rung.decision} ({rung.rule})"
    if decision.refused:
        yield f"the alias was not moved: {decision.refused}"
    if decision.beside:
        yield f"differs from {decision.beside}" + (":" if decision.differs else " in no setting")
        yield from (f"  {d.setting}: {d.this}, there {d.other}" for d in decision.differs)


def _ranked(row: RankedRecord, decision: SearchDecision) -> str:
    n = 4 if 0 <= row["figure"] <= 1 else 2
    (low, high), (least, most) = row["ci"], row["behind_ci"]
    figure = f"{row['name']}: {decision.metric} {row['figure']:.{n}f} ({low:.{n}f} to {high:.{n}f})"
    if not row["behind"] and least == most:
        return figure
    behind = f"behind by {row['behind']:.{n}f} ({least:.{n}f} to {most:.{n}f}), p {row['p']:.4f}"
    equal = ", cannot be told from the best" if row["name"] in decision.equals else ""
    return f"{figure}, {behind}{equal}"


def _stage_title(stages: Sequence[StageOrigin]) -> str:
    said = [duration(sum(s.seconds for s in stages))] if stages else []
    if gpu := sum(s.gpu_hours for s in stages):
        said.append(f"{gpu:,.2f} GPU-hours")
        costs = [s.cost for s in stages if s.gpu_hours]
        if None not in costs:
            said.append(f"{sum(c for c in costs if c is not None):,.2f} at the spec's price")
    if energy := energy_of(stages):
        said.append(energy)
    return f"Stage runs: {', '.join(said)}"


def energy_of(stages: Sequence[StageOrigin]) -> str:
    """`0.012 kWh by the GPUs' counters`, or why that is not known; nothing of a model without stage runs."""
    told = [stage.energy for stage in stages]
    if not told:
        return ""
    if None in told:
        return "energy not recorded"
    found = joules_of(stages)
    if not found:
        return "no counter of energy could be read"
    partly = "" if all(told) else ", of some stage runs alone"
    return " and ".join(f"{kwh(j)} by the {COUNTERS[name]}' counters" for name, j in found.items()) + partly


def joules_of(stages: Sequence[StageOrigin]) -> dict[str, float]:
    """By counter, over the stage runs where it could be read."""
    told = [stage.energy for stage in stages if stage.energy]
    return {name: sum(each.get(name, 0.0) for each in told) for name in COUNTERS if any(name in each for each in told)}


def kwh(joules: float) -> str:
    return f"{joules / KWH:.3g} kWh"


def _stages(stages: Sequence[StageOrigin], here: bool) -> Iterator[str]:
    for stage in stages:
        loss = f", loss {stage.loss:.4f}" if stage.loss is not None else ""
        on = f"{stage.workers} worker" + "s" * (stage.workers != 1)
        began = f", began {stage.began}" if stage.began else ""
        trained = f"trained {', '.join(stage.trained)}" if stage.trained else "trained nothing"
        steps = f"{stage.steps:,} steps, {stage.samples:,} samples{loss}"
        yield f"{stage.name}: {trained}; {steps}; {duration(stage.seconds)} on {on}{began}"
        yield from (f"  {shown(each)}" for each in stage.environments)
        if here and stage.otherwise:
            yield f"  trained with other versions than are here: {'; '.join(stage.otherwise)}"


def _data(data: DataOrigin) -> str:
    records = f"{data.records:,} records" if data.records is not None else "records not counted"
    skipped = ", ".join(f"{n:,} {kind}" for kind, n in data.skipped.items())
    said = [f"{data.dataset}: {records}", f"left out: {skipped}" if skipped else "none left out"]
    said.append(f"digest {data.digest[:SHORT]}" if data.digest else "digest not known")
    if data.pictures and data.pictures.shown:
        seen = data.pictures
        said.append(f"{seen.shown:,} pictures, {seen.distinct:,} distinct (digest {seen.digest[:SHORT]})")
    said.append(data.licence or "no licence known")
    return "; ".join(said) + f"; read by {', '.join(data.stages)}"


def _part(part: PartOrigin) -> str:
    at = f"@{part.revision}" if part.revision else ""
    of = f"{part.hub}{at}" if part.hub else f"package {part.package}" if part.package else "made here"
    trained = f"trained by {', '.join(part.trained)}" if part.trained else "as published"
    said = [f"{part.part} {part.name}: {of}"]
    said += [f"source {part.source[:SHORT]}"] if part.source else []
    said += [f"{part.parameters:,} parameters"] if part.parameters else []
    said += [part.licence] if part.licence else []
    weights = [f"{file} {sha[:SHORT]}" for file, sha in part.files.items() if file.endswith(".safetensors")]
    return "; ".join([*said, trained, *weights])


def _settings(stage: StageOrigin) -> list[tuple[str, str]]:
    return [(key, str(value)) for key, value in stage.settings.items() if value is not None]
