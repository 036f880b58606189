"""`remora plan` and `remora render`: what a spec would run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from rich.console import Console

from remora import catalog as known
from remora.commands.indexes import entries_of, prepare
from remora.commands.options import PlanOptions, RenderOptions
from remora.errors import SpecError
from remora.planning import Plan, begun, forecasts, is_here, plan_of, rate_of, taken_up
from remora.reporting.columns import console as wide_console
from remora.reporting.columns import literal
from remora.reporting.plans import print_forecasts, print_plan
from remora.reporting.spaces import space_lines
from remora.runs import Store, Survey, checked_stages, read_survey, variant_name
from remora.spec import Cluster, Space, Stage, Variant


def plan(options: PlanOptions) -> None:
    """Print every stage run of the spec: which variants use it, whether it exists; then what the whole takes."""
    survey = read_survey(options.spec, options.smoke)
    console = wide_console()
    for line in space_lines(survey):
        console.print(line, highlight=False, soft_wrap=True)
    made = _planned(survey, options, literal())
    print_plan(made, str(options.spec), Store(options.runs).data, console)
    if made.forecasts:
        print_forecasts(made.forecasts, console)


def planned(options: PlanOptions, console: Console) -> Plan:
    """The plan with its time and money; `console` shows progress of the indexes that it needs.

    Raises:
        RemoraError: the spec could not run.
    """
    return _planned(read_survey(options.spec, options.smoke), options, console)


def _planned(survey: Survey, options: PlanOptions, console: Console) -> Plan:
    variants, space, store = survey.variants, survey.space, Store(options.runs)
    for variant in variants:
        checked_stages(variant)
    prepare([e for e in entries_of(variants) if is_here(e, store.data)], options.place, console)
    made = plan_of(variants, store)
    past = begun(options.runs, space) if space else None
    drawn = taken_up(space, past) if space else None
    cluster = variants[0].cluster
    found = forecasts(
        plan_of(drawn, store) if drawn else made,
        drawn or variants,
        rate_of(options.runs, cluster, options.rate),
        _slots(options, space, cluster),
        space.rule if space else None,
        space.sampler if space else None,
        options.price,
        space.budget if space else None,
        past,
    )
    return replace(made, forecasts=found)


def _slots(options: PlanOptions, space: Space | None, cluster: Cluster) -> int:
    """How many groups of workers train at once; at least one, or there is no plan."""
    if options.slots is not None:
        if options.slots < 1:
            raise SpecError(f"--slots {options.slots}: at least one group of workers has to train")
        return options.slots
    if space is None:
        return 1
    if space.concurrent:
        return space.concurrent
    if options.address:
        from remora.cluster.session import cpus_and_gpus
        from remora.commands.run import session

        with session(options.place, lambda *lines: None, dashboard=False):
            return max(1, cluster.groups(*cpus_and_gpus()))
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return max(1, cluster.groups(os.cpu_count() or 1, gpus))


def render(options: RenderOptions) -> None:
    """Print every variant with its stages as they will run; of a space, its axes first."""
    survey = read_survey(options.spec, options.smoke)
    sys.stdout.writelines(f"# {line}\n" for line in space_lines(survey))
    for number, variant in enumerate(survey.variants):
        sys.stdout.write("---\n" * bool(number) + rendered(variant, checked_stages(variant)))


def rendered(variant: Variant, stages: Sequence[Stage]) -> str:
    """A variant with its stages, as YAML. A length limited by the context is shown with the recipe's in a comment."""
    context = known.llm(variant.llm).context
    acting = [stage.model_copy(update={"max_length": stage.length(context)}) for stage in stages]
    shown = {
        "name": variant_name(variant),
        **variant.model_dump(mode="json", exclude={"name", "overrides"}),
        "stages": [s.model_dump(mode="json", exclude_none=True) for s in acting],
    }
    written = iter(stages)

    def told(line: re.Match[str]) -> str:
        stage = next(written)
        cut = stage.max_length > context
        why = f"  # {stage.max_length} in the recipe, and {variant.llm} has {context} positions"
        return line[0] + why * cut

    text = yaml.safe_dump(shown, sort_keys=False, width=120)
    return re.sub(r"^  max_length: \d+$", told, text, flags=re.MULTILINE)
