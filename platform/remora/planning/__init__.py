"""Before anything runs: which stage runs a spec needs, which are there, what sharing saves, how large a model is."""

from remora.planning.compositions import compositions
from remora.planning.plan import Plan, PlanRow, plan_of
from remora.planning.sizes import Sizes, as_published, published_table, sizes

__all__ = ["Plan", "PlanRow", "Sizes", "as_published", "compositions", "plan_of", "published_table", "sizes"]
