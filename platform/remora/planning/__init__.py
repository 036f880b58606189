"""Before anything runs: which stage runs a spec needs, which are there, what sharing saves.

How large a model is stands in `remora.planning.sizes`, which counts on modules and so loads torch.
"""

from remora.planning.compositions import compositions
from remora.planning.outline import is_here
from remora.planning.plan import Plan, PlanRow, plan_of

__all__ = ["Plan", "PlanRow", "compositions", "is_here", "plan_of"]
