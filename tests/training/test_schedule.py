"""Rates at every step equal transformers' schedulers, which the published runs used."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_wsd_schedule,
)

from remora.errors import SpecError
from remora.spec import Stage
from remora.training.schedule import check_schedule, rate_factor


def stage(schedule: str, warmup: float, warmup_from: str = "zero") -> Stage:
    spec = {"name": "s", "mixture": ["x"], "lr": 1e-3, "steps": 1, "schedule": schedule, "warmup": warmup}
    spec["warmup_from"] = warmup_from
    return Stage.model_validate(spec)


def published(schedule: str, warmup: float, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    warm = math.ceil(steps * warmup)  # TrainingArguments.get_warmup_steps
    if schedule == "constant":
        scheduler = get_constant_schedule_with_warmup(optimizer, warm)
    elif schedule == "wsd":
        falling = min(round(0.1 * steps), steps - warm)
        scheduler = get_wsd_schedule(optimizer, warm, falling, steps, decay_type="1-sqrt")
    else:
        make = get_cosine_schedule_with_warmup if schedule == "cosine" else get_linear_schedule_with_warmup
        scheduler = make(optimizer, warm, steps)
    factors = []
    for _ in range(steps):
        factors.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.sampled(5)
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 33, 100, 173])
def test_factors_are_those_of_transformers(schedule, warmup, steps):
    ours = [rate_factor(stage(schedule, warmup), step, steps) for step in range(steps)]
    assert ours == pytest.approx(published(schedule, warmup, steps), abs=1e-12)


def test_a_rate_rises_to_its_peak_and_falls_to_nearly_nothing():
    factors = [rate_factor(stage("cosine", 0.03), step, 1000) for step in range(1000)]
    assert factors[0] == 0.0 and factors[30] == max(factors) == 1.0
    assert factors[:31] == sorted(factors[:31]) and factors[30:] == sorted(factors[30:], reverse=True)
    assert 0 < factors[-1] < 1e-5


def test_a_warmup_and_a_decay_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="more than the whole"):
        stage("wsd", 0.95)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 3, 33, 100])
def test_a_warmup_from_the_first_step_learns_at_once_and_comes_to_its_peak(schedule, warmup, steps):
    warm = math.ceil(warmup * steps)
    ours = [rate_factor(stage(schedule, warmup, "first"), step, steps) for step in range(steps)]
    theirs = [rate_factor(stage(schedule, warmup), step, steps) for step in range(steps)]
    assert ours[warm:] == theirs[warm:] and ours[: max(0, warm - 1)] == theirs[1:warm]
    assert max(ours) == 1.0 and ours[0] > 0
    assert check_schedule(stage(schedule, warmup, "first"), steps) is None


def test_a_stage_whose_every_rate_is_0_is_refused_and_one_below_its_peak_is_noted():
    assert [rate_factor(stage("cosine", 0.03), step, 1) for step in range(1)] == [0.0]
    for schedule in ("cosine", "linear", "constant", "wsd"):
        with pytest.raises(SpecError, match=r"^stage 's' has 1 step, and the rate of every one is 0 \(warmup 0"):
            check_schedule(stage(schedule, 0.03), 1)
    assert check_schedule(stage("cosine", 0.0), 1) is None
    note = check_schedule(stage("constant", 0.9), 5)
    assert note and note.startswith("stage 's' has 5 steps and warms up over 5, so its rate never comes above 80% of")
    for steps in range(2, 60):  # the rule is that of the rates themselves
        for warmup in (0.0, 0.03, 0.4, 0.9, 0.99):
            highest = max(rate_factor(stage("cosine", warmup), step, steps) for step in range(steps))
            assert (check_schedule(stage("cosine", warmup), steps) is None) == (highest == 1.0)
