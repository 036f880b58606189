"""Plans: which stage runs a spec needs, which exist, and what sharing saves.

`remora.planning.sizes` counts parameters; it builds modules, so it imports torch.
"""

from remora.planning.compositions import compositions
from remora.planning.outline import is_here
from remora.planning.plan import Plan, PlanRow, plan_of

__all__ = ["Plan", "PlanRow", "compositions", "is_here", "plan_of"]
