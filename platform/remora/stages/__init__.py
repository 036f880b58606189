"""The stage graph and the artifact store: what is trained already, and what must be."""

from remora.stages.graph import (
    StageRun,
    checked_stages,
    path,
    paths,
    read_variants,
    resolve_stages,
    union,
    variant_name,
    variants_of,
)
from remora.stages.store import Store, default_runs

__all__ = [
    "StageRun",
    "Store",
    "checked_stages",
    "default_runs",
    "path",
    "paths",
    "read_variants",
    "resolve_stages",
    "union",
    "variant_name",
    "variants_of",
]
