"""What the rungs of a search compare, and between which variants that is the same thing.

A loss is comparable if it is a mean over the same tokens. So variants that are compared by it must share the tokenizer,
the template, the held-out samples, and what is cut from them. A benchmark's score is comparable if the same questions
are asked. Rates, batches, data, parts and the aspect of pictures may differ: they are what a search is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from remora import catalog
from remora.data.held_out import held_out_digest
from remora.errors import SpecError, nearest
from remora.files import digest
from remora.runs.graph import StageRun, Written, variant_name
from remora.spec import Rule, Stage, Variant, step_at

LOSS = "loss"
"""The figure that every validation logs."""


@dataclass(frozen=True)
class RungBasis:
    """What a variant's figure at a rung depends on besides the model: alike where all of these are equal."""

    aspects: Mapping[str, str]
    """Aspect -> digest."""
    shown: Mapping[str, str]
    """Aspect -> how the variant's file says it."""

    def unlike(self, other: RungBasis) -> str:
        """The first aspect in which two differ, with both values; empty if there is none."""
        found = (name for name, value in self.aspects.items() if other.aspects[name] != value)
        return next((f"{name} {self.shown[name]} and {other.shown[name]}" for name in found), "")


def figure_name(given: str) -> str:
    """What a figure is called: a benchmark's YAML, as any spec, by the file's name."""
    return Path(given).stem if given.endswith((".yaml", ".yml")) else given


def figure_of(rule: Rule) -> str:
    """What the rule compares: `loss`, or a benchmark's name."""
    return figure_name(rule.figure or LOSS)


def basis(variant: Variant, stages: Sequence[Stage], figure: str) -> RungBasis:
    """Of a variant whose last stage logs the figure; `stages` are resolved, and the last one has a `validate`."""
    last = stages[-1]
    said = last.validation
    assert said
    if figure != LOSS:
        assert said.benchmark
        asked = f"{said.benchmark.name} ({said.benchmark.limit:,} questions)"
        return RungBasis({"validate.benchmark": asked}, {"validate.benchmark": asked})
    template = catalog.template(last.template).model_dump(mode="json", exclude={"source"})
    held = said.model_dump(mode="json", include={"mixture", "share", "limit"})
    cut = {k: getattr(last, k) for k in ("over_length", "count_pictures", "past_context")}
    length = last.length(catalog.llm(variant.llm).context)
    aspects: dict[str, object] = {
        "the language model's tokenizer:": _tokenizer(variant, stages),
        "template": template,
        "validate:": held,
        "max_length": [length, cut],
    }
    shown = {
        "the language model's tokenizer:": _llm(variant, stages),
        "template": last.template,
        "validate:": _held_out(last),
        "max_length": ", ".join([f"{length:,}", *(f"{k}: {str(v).lower()}" for k, v in cut.items())]),
    }
    if said.share is not None:  # of the stage's own records, however often it reads them
        entries = [e.model_dump(mode="json", include={"dataset", "path", "skip"}) for e in last.mixture]
        aspects["validate:"] = [held, entries]
    return RungBasis({name: digest(value) for name, value in aspects.items()}, shown)


def _tokenizer(variant: Variant, stages: Sequence[Stage]) -> object:
    """Where the tokenizer comes from: the weights' repository or package, or the stage that makes both."""
    model = catalog.llm(variant.llm)
    if model.loader == "scratch":
        return [variant.llm, [e.model_dump(mode="json") for e in stages[0].mixture]]
    return model.hub or model.package or variant.llm


def _llm(variant: Variant, stages: Sequence[Stage]) -> str:
    if catalog.llm(variant.llm).loader != "scratch":
        return variant.llm
    return f"{variant.llm} from {', '.join(str(e.dataset or e.path) for e in stages[0].mixture)}"


def _held_out(stage: Stage) -> str:
    said = stage.validation
    assert said
    names = ", ".join(str(e.dataset or e.path) for e in said.mixture or stage.mixture)
    share = f"{said.share:g} of " if said.share is not None else ""
    return f"{said.limit:,} samples of {share}{names}"


def check_rule(
    rule: Rule, variants: Iterable[tuple[Variant, Sequence[Stage]]], decides: str, written: Written | None = None
) -> None:
    """Check that a space's rule has a figure to decide by, and that it is alike for variants with the same last stage.

    Args:
        variants: Each with its resolved stages.
        decides: The champion's benchmark, for advice.

    Raises:
        SpecError: a last stage is not validated, no validation logs the figure, or variants cannot be compared by it.
    """
    if rule.kind == "none":
        return
    where = f"{written.at('rule')}: " if written else ""
    figure = figure_of(rule)
    first: dict[str, tuple[Variant, RungBasis]] = {}
    for variant, stages in variants:
        last = stages[-1]
        if last.validation is None:
            raise SpecError(
                f"{where}rule {rule.kind} decides by validations of the last stage, and {last.name!r} of "
                f"{variant_name(variant)} has none; add overrides: {{{last.name}: {{validate: {{share: 0.02}}}}}}"
            )
        asked = last.validation.benchmark
        there = [LOSS, *([figure_name(asked.name)] if asked else [])]
        if figure not in there:
            name = rule.figure if rule.figure in (*catalog.PAPERS, *catalog.entries("benchmarks")) else decides
            raise SpecError(
                f"{where}rule.figure {figure!r} is logged by no validation of stage {last.name!r} of "
                f"{variant_name(variant)}{nearest(figure, there)}; there are: {', '.join(there)}; a benchmark's score "
                f"is logged with overrides: {{{last.name}: {{validate: {{benchmark: {{name: {name}}}}}}}}}"
            )
        own = basis(variant, stages, figure)
        other, known = first.setdefault(last.name, (variant, own))
        if differ := known.unlike(own):
            raise SpecError(
                f"{where}{_unlike(figure, other, variant, differ)}; "
                + _instead(figure, last.name, figure_name(asked.name) if asked else "", decides)
            )


def measured_on(rule: Rule, last: StageRun) -> str:
    """Digest of the held-out samples that a loss is of; where the rule compares scores, of which questions are asked.
    Needs the data."""
    said = last.stage.validation
    if said is None:
        return ""
    if figure_of(rule) != LOSS:
        return digest(said.benchmark and said.benchmark.model_dump(mode="json"))
    bare = last.stage.model_copy(update={"validation": said.model_copy(update={"benchmark": None})})
    return held_out_digest(bare, last.datasets, last.others) or ""


def check_rungs(rule: Rule, paths: Mapping[str, Sequence[StageRun]], lengths: Mapping[str, tuple[int, int]]) -> None:
    """What can be checked only once the data is there: a rung before the end, and the same held-out samples.

    Args:
        paths: Variant -> its stage runs.
        lengths: Stage run's id -> (steps, samples).

    Raises:
        SpecError: a last stage is too short, or losses are of other samples.
    """
    if rule.kind == "none":
        return
    figure = figure_of(rule)
    first: dict[str, tuple[str, str]] = {}
    for name, lineage in paths.items():
        last = lineage[-1]
        steps, _ = lengths[last.id]
        if step_at(rule.first, steps) >= steps:
            raise SpecError(
                f"rule.first {rule.first:g}: stage {last.stage.name!r} of {name} has {steps} "
                f"step{'s' if steps > 1 else ''}, so no rung lies before its end; lower rule.first, or leave rule out"
            )
        of = measured_on(rule, last)
        other, known = first.setdefault(last.stage.name, (name, of))
        if figure == LOSS and of != known:
            asked = last.stage.validation and last.stage.validation.benchmark
            raise SpecError(
                f"rule: the losses of {other} and {name} are means over other samples, since one trains on what the "
                "other holds out; "
                + _instead(figure, last.stage.name, figure_name(asked.name) if asked else "", "BENCHMARK")
            )


def _unlike(figure: str, one: Variant, other: Variant, differ: str) -> str:
    what = "losses" if figure == LOSS else f"scores on {figure}"
    return f"rule: the {what} of {variant_name(one)} and {variant_name(other)} are of unlike things: {differ}"


def _instead(figure: str, stage: str, asked: str, decides: str) -> str:
    if figure != LOSS:
        return "ask all variants the same questions"
    if asked:
        return f"compare a score in place of the loss: rule: {{figure: {asked}}}"
    return (
        f"compare a score in place of the loss: rule: {{figure: {figure_name(decides)}}} with overrides: "
        f"{{{stage}: {{validate: {{benchmark: {{name: {decides}}}}}}}}}"
    )
