"""The graph of stage runs and the store of their artifacts: what is trained, and what is missing."""

from remora.runs.graph import (
    StageRun,
    checked_stages,
    path,
    paths,
    resolve_stages,
    union,
    variant_name,
)
from remora.runs.preflight import Preflight, outlook, preflight
from remora.runs.space import (
    Survey,
    pruned,
    read_space,
    read_survey,
    read_variant,
    read_variants,
    survey,
    variant_at,
    variants_of,
)
from remora.runs.store import Store
from remora.runs.tuning_check import check_stages

__all__ = [
    "Preflight",
    "StageRun",
    "Store",
    "Survey",
    "check_stages",
    "checked_stages",
    "outlook",
    "path",
    "paths",
    "preflight",
    "pruned",
    "read_space",
    "read_survey",
    "read_variant",
    "read_variants",
    "resolve_stages",
    "survey",
    "union",
    "variant_at",
    "variant_name",
    "variants_of",
]
