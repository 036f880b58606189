"""`remora plan` and `remora render`: what a spec would run."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console

from remora import catalog as known
from remora.commands.indexes import entries_of, prepare
from remora.commands.plan_options import PlanOptions, RenderOptions
from remora.errors import SpecError
from remora.planning import Plan, begun, forecasts_of, is_here, plan_of, rate_of, taken_up
from remora.planning.limits import check_limits, price_of
from remora.processes import cpu_kind
from remora.reporting.columns import console as wide_console
from remora.reporting.columns import literal
from remora.reporting.plans import print_forecasts, print_plan, print_record
from remora.reporting.sizing import plan_as_json, print_serving, print_sizes
from remora.reporting.spaces import space_lines
from remora.runs import Store, Survey, checked_stages, read_survey, variant_name
from remora.runs.around import around
from remora.runs.predictions import checked_predictions
from remora.runs.rates import rate_on
from remora.spec import Cluster, Space, Stage, Variant

if TYPE_CHECKING:
    from remora.planning.serving import ServingFit
    from remora.planning.sizing import Sized


def plan(options: PlanOptions) -> None:
    """Print every stage run of the spec: which variants use it, whether it exists; then what the whole takes."""
    survey = read_survey(options.spec, options.smoke, options.settings)
    console = wide_console()
    _check_device(options)
    if not options.json:
        for line in space_lines(survey):
            console.print(line, highlight=False, soft_wrap=True)
    made = _planned(survey, options, literal(stderr=options.json))
    if options.json:
        sys.stdout.write(json.dumps(plan_as_json(made, options.gpu), indent=1) + "\n")
    else:
        print_plan(made, str(options.spec), Store(options.runs).data, console)
        if options.gpu:
            print_sizes(made.sizes, options.gpu, console)
        if made.forecasts:
            print_forecasts(made.forecasts, console)
        print_serving(made.serving, options.gpu or "", console)
        print_record(made.record, console)
    if options.gpu:
        from remora.planning.sizing import check_fits

        check_fits(made.sizes, options.gpu)
    if made.forecasts:
        check_limits(made.forecasts, options.max_hours, options.max_cost)


def _check_device(options: PlanOptions) -> None:
    if options.gpu is not None:
        known.device(options.gpu)
    if options.gpus is not None and (not options.gpu or options.gpus < 1):
        raise SpecError(f"--gpus {options.gpus}: give how many there are, 1 or more, with --gpu NAME")
    if options.rate is not None and not 0 < options.rate < math.inf:
        raise SpecError(f"--rate {options.rate:g}: give FLOP/s of one worker, such as 1.2e14")
    if options.price is not None and not 0 <= options.price < math.inf:
        raise SpecError(f"--price {options.price:g}: give the price of a GPU-hour, 0 or more")
    if options.calibrate and options.rate:
        raise SpecError("--rate and --calibrate: a rate that is given is taken; leave one of the two out")
    if options.prices and not options.gpu:
        raise SpecError(f"--prices {options.prices} has prices of devices; name one with --gpu, or give --price")


def planned(options: PlanOptions, console: Console) -> Plan:
    """The plan with its time and money; `console` shows progress of the indexes that it needs.

    Raises:
        RemoraError: the spec could not run, or takes more than the limits.
    """
    _check_device(options)
    made = _planned(read_survey(options.spec, options.smoke, options.settings), options, console)
    if made.forecasts:
        check_limits(made.forecasts, options.max_hours, options.max_cost)
    return made


def _planned(survey: Survey, options: PlanOptions, console: Console) -> Plan:
    """The plan; with a device its time, money and memory are those there."""
    store = Store(options.runs)
    for variant in survey.variants:
        checked_stages(variant)
    prepare([e for e in entries_of(survey.variants) if is_here(e, store.data)], options.place, console)
    said = ""
    if survey.variants[0].cluster.auto:
        from remora.commands.machine import settled_survey

        survey, said = settled_survey(survey, options.place, console, options.gpu, options.gpus)
    variants, space = survey.variants, survey.space
    cluster, price = variants[0].cluster, options.price
    if options.gpu:
        from remora.planning.sizing import on_device

        cluster = on_device(cluster, known.device(options.gpu), None if said else options.gpus)
    if options.calibrate:
        from remora.commands.calibrate import calibrate

        there = [v.model_copy(update={"cluster": cluster}) for v in variants]
        calibrate(there, options.place, lambda *lines: console.print(*lines, highlight=False, soft_wrap=True))
    made = plan_of(variants, store)
    sizes: tuple[Sized, ...] = ()
    served: tuple[ServingFit, ...] = ()
    past = begun(options.runs, space) if space else None
    drawn = taken_up(space, past) if space else None
    whole = plan_of(drawn, store) if drawn else made
    if options.gpu:
        from remora.planning.serving import serving
        from remora.planning.sizing import counted, sized

        device = known.device(options.gpu)
        served = serving(variants, device)
        sizes = sized(made, cluster, device, cluster.least_workers, store)
        made, whole = counted(made, sizes, store), counted(whole, sizes, store)
        rate = rate_on(store.runs, device, cluster, options.rate)
        price = price_of(options.prices, options.gpu) if options.prices else price
    else:
        rate = rate_of(options.runs, cluster, options.rate)
    found = forecasts_of(
        space,
        whole,
        [v.model_copy(update={"cluster": cluster}) for v in drawn or variants],
        rate,
        _slots(options, space, cluster),
        price=price,
        begun=past,
        around=around(store.runs),
    )
    gpu = known.device(options.gpu).named if options.gpu else None
    kind = cpu_kind() if gpu in (None, "cpu") and not cluster.gpus_per_worker else gpu
    notes, record = (*([said] if said else []), *made.notes), tuple(checked_predictions(store.runs, kind))
    return replace(made, forecasts=found, sizes=sizes, serving=served, record=record, notes=notes)


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
    survey = read_survey(options.spec, options.smoke, options.settings)
    if options.json:
        every = [resolved(variant, checked_stages(variant)) for variant in survey.variants]
        sys.stdout.write(json.dumps(every, indent=1) + "\n")
        return
    sys.stdout.writelines(f"# {line}\n" for line in space_lines(survey))
    for number, variant in enumerate(survey.variants):
        sys.stdout.write("---\n" * bool(number) + rendered(variant, checked_stages(variant)))


def resolved(variant: Variant, stages: Sequence[Stage]) -> dict[str, object]:
    """A variant with its stages as they act: lengths are limited by the model's context."""
    context = known.llm(variant.llm).context
    acting = [stage.model_copy(update={"max_length": stage.length(context)}) for stage in stages]
    return {
        "name": variant_name(variant),
        **variant.model_dump(mode="json", exclude={"name", "overrides"}),
        "stages": [s.model_dump(mode="json", exclude_none=True) for s in acting],
    }


def rendered(variant: Variant, stages: Sequence[Stage]) -> str:
    """A variant with its stages, as YAML. A length limited by the context is shown with the recipe's in a comment."""
    context = known.llm(variant.llm).context
    written = iter(stages)

    def told(line: re.Match[str]) -> str:
        stage = next(written)
        cut = stage.max_length > context
        why = f"  # {stage.max_length} in the recipe, and {variant.llm} has {context} positions"
        return line[0] + why * cut

    text = yaml.safe_dump(resolved(variant, stages), sort_keys=False, width=120)
    return re.sub(r"^  max_length: \d+$", told, text, flags=re.MULTILINE)
