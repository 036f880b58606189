"""Before anything runs: which stage runs a spec needs, which are there, and what sharing saves."""

from remora.planning.plan import Plan, PlanRow, plan_of

__all__ = ["Plan", "PlanRow", "plan_of"]
