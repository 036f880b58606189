"""What a user writes: variants, recipes, stages, mixtures and spaces, as strict YAML."""

from remora.spec.axes import Axis, AxisSpec, Choice, Range, When
from remora.spec.base import Spec, validate
from remora.spec.condensation import Condensation
from remora.spec.kinds import load, load_job
from remora.spec.recipe import (
    BenchmarkSample,
    Guard,
    MixtureEntry,
    Recipe,
    Skippable,
    Stage,
    Validation,
    step_at,
)
from remora.spec.search_blocks import COSTS, SPEEDS, Budget, Champion, Objective, Rule, Sampler
from remora.spec.space import Space
from remora.spec.strict_yaml import KeyLines, parse_yaml, read_yaml
from remora.spec.tuning import ALL_LINEAR, PARTS, Lora, PartTuning, Tuning
from remora.spec.variant import Cluster, Job, Precision, Rows, Variant

__all__ = [
    "ALL_LINEAR",
    "COSTS",
    "PARTS",
    "SPEEDS",
    "Axis",
    "AxisSpec",
    "BenchmarkSample",
    "Budget",
    "Champion",
    "Choice",
    "Cluster",
    "Condensation",
    "Guard",
    "Job",
    "KeyLines",
    "Lora",
    "MixtureEntry",
    "Objective",
    "PartTuning",
    "Precision",
    "Range",
    "Recipe",
    "Rows",
    "Rule",
    "Sampler",
    "Skippable",
    "Space",
    "Spec",
    "Stage",
    "Tuning",
    "Validation",
    "Variant",
    "When",
    "load",
    "load_job",
    "parse_yaml",
    "read_yaml",
    "step_at",
    "validate",
]
