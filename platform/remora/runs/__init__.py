"""The stage graph and the artifact store: what is trained already, and what must be."""

from remora.runs.graph import (
    StageRun,
    checked_stages,
    path,
    paths,
    read_space,
    read_variant,
    read_variants,
    resolve_stages,
    union,
    variant_name,
    variants_of,
)
from remora.runs.preflight import Preflight, outlook, preflight
from remora.runs.store import Store
from remora.runs.tuning_check import check_stages

__all__ = [
    "Preflight",
    "StageRun",
    "Store",
    "check_stages",
    "checked_stages",
    "outlook",
    "path",
    "paths",
    "preflight",
    "read_space",
    "read_variant",
    "read_variants",
    "resolve_stages",
    "union",
    "variant_name",
    "variants_of",
]
