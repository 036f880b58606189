"""Learning rates as a pure function of the step."""

from __future__ import annotations

import math

from remora.spec import Stage


def rate_factor(stage: Stage, step: int, steps: int) -> float:
    """What the peak rate is multiplied by at `step` of `steps`, both counted from 0.

    Linear warm-up over ceil(warmup * steps) steps from 0, then cosine to 0, linear to 0, constant, or constant with
    1 - sqrt to 0 over the last round(decay * steps) steps (Hägele et al., arXiv 2405.18392): the values of
    transformers' schedulers (optimization.py), which the published runs used.
    """
    warm = math.ceil(stage.warmup * steps)
    if step < warm:
        return step / max(1, warm)
    if stage.schedule == "constant":
        return 1.0
    if stage.schedule == "wsd":
        falling = min(round(stage.decay * steps), steps - warm)
        return 1.0 - math.sqrt(max(0, step - (steps - falling)) / max(1, falling))
    done = (step - warm) / max(1, steps - warm)
    return 0.5 * (1 + math.cos(math.pi * done)) if stage.schedule == "cosine" else 1.0 - done
