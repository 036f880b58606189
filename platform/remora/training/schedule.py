"""Learning rates as a pure function of the step."""

from __future__ import annotations

import math

from remora.errors import SpecError
from remora.spec import Stage


def rate_factor(stage: Stage, step: int, steps: int) -> float:
    """Factor on the peak rate at `step` (from 0) of `steps`.

    Linear warm-up over ceil(warmup * steps) steps, then cosine to 0, linear to 0, constant, or constant with 1 - sqrt
    to 0 over the last round(decay * steps) steps (Hägele et al., arXiv 2405.18392): the values of transformers'
    schedulers (optimization.py), which the published runs used. Theirs begin at rate 0 (`warmup_from: zero`), so the
    first step learns nothing; with `first`, each warm-up step has the rate of their next one.
    """
    warm = math.ceil(stage.warmup * steps)
    if step < warm:
        return (step + (stage.warmup_from == "first")) / warm
    if stage.schedule == "constant":
        return 1.0
    if stage.schedule == "wsd":
        falling = min(round(stage.decay * steps), steps - warm)
        return 1.0 - math.sqrt(max(0, step - (steps - falling)) / max(1, falling))
    done = (step - warm) / max(1, steps - warm)
    return 0.5 * (1 + math.cos(math.pi * done)) if stage.schedule == "cosine" else 1.0 - done


def check_schedule(stage: Stage, steps: int) -> str | None:
    """A note if the rate of a stage with so many steps never reaches its peak, else None.

    Raises:
        SpecError: every rate is 0, so nothing would be learned.
    """
    warm = math.ceil(stage.warmup * steps)
    highest = max(rate_factor(stage, step, steps) for step in {0, max(0, warm - 1), min(warm, steps - 1), steps - 1})
    of = f"stage {stage.name!r} has {steps:,} step{'s' * (steps > 1)}"
    more = "more steps (epochs, or a smaller batch)"
    if highest == 0:
        raise SpecError(
            f"{of}, and the rate of every one is 0 (warmup {stage.warmup:g} from zero), so it would learn nothing; set "
            f"overrides: {{{stage.name}: {{warmup_from: first}}}}, or give it {more}"
        )
    if highest < 1:
        return (
            f"{of} and warms up over {warm:,}, so its rate never comes above {highest:.0%} of its peak; lower warmup "
            f"({stage.warmup:g}), set warmup_from: first, or give it {more}"
        )
    return None
