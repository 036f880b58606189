"""What a user writes: variants, recipes, stages, mixtures and spaces, as strict YAML."""

from remora.spec.base import Spec, load, parse_yaml, read_yaml, validate
from remora.spec.condensation import Condensation
from remora.spec.recipe import PARTS, Guard, Lora, MixtureEntry, PartTuning, Recipe, Skippable, Stage, Tuning
from remora.spec.variant import Champion, Cluster, Job, Precision, Rows, Space, Variant

__all__ = [
    "PARTS",
    "Champion",
    "Cluster",
    "Condensation",
    "Guard",
    "Job",
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
    "parse_yaml",
    "read_yaml",
    "validate",
]
