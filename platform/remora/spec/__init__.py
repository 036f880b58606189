"""What a user writes: variants, recipes, stages, mixtures and spaces, as strict YAML."""

from remora.spec.base import Spec, validate
from remora.spec.condensation import Condensation
from remora.spec.kinds import load, load_job
from remora.spec.recipe import (
    ALL_LINEAR,
    PARTS,
    Guard,
    Lora,
    MixtureEntry,
    PartTuning,
    Recipe,
    Skippable,
    Stage,
    Tuning,
)
from remora.spec.strict_yaml import KeyLines, parse_yaml, read_yaml
from remora.spec.variant import Champion, Cluster, Job, Precision, Rows, Space, Variant

__all__ = [
    "ALL_LINEAR",
    "PARTS",
    "Champion",
    "Cluster",
    "Condensation",
    "Guard",
    "Job",
    "KeyLines",
    "Lora",
    "MixtureEntry",
    "PartTuning",
    "Precision",
    "Recipe",
    "Rows",
    "Skippable",
    "Space",
    "Spec",
    "Stage",
    "Tuning",
    "Variant",
    "load",
    "load_job",
    "parse_yaml",
    "read_yaml",
    "validate",
]
