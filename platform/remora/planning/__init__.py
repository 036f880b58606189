"""Plans: which stage runs a spec needs, which exist, how long they take, and what sharing and stopping save.

`remora.planning.sizes` counts parameters, `sizing` the memory of stages on a device (by `memory` and `fitting`): they
build modules, so they import torch.
"""

from remora.planning.begun import Begun, begun
from remora.planning.compositions import compositions
from remora.planning.makespan import Forecast, Forecasts, forecasts, forecasts_of, taken_up
from remora.planning.outline import is_here
from remora.planning.plan import Plan, PlanRow, plan_of
from remora.runs.rates import Rate, rate_of

__all__ = [
    "Begun",
    "Forecast",
    "Forecasts",
    "Plan",
    "PlanRow",
    "Rate",
    "begun",
    "compositions",
    "forecasts",
    "forecasts_of",
    "is_here",
    "plan_of",
    "rate_of",
    "taken_up",
]
