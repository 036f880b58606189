"""MLflow: a run for each stage run, variant, search and measurement, their figures, and the registry of models.

`Run` writes records into the run folder; `Tracker` brings MLflow up to date from them. `mlflow` is imported only inside
functions of this room, so that importing it stays light.
"""

from remora.tracking.metric_names import Input, compare, id_of, link
from remora.tracking.models import Model, find_model
from remora.tracking.record import Run, RunModel
from remora.tracking.registry import (
    check_alias,
    facts_of_run,
    fetch,
    promoted_version,
    register,
    standing,
    version_info,
)
from remora.tracking.tracker import Tracker

__all__ = [
    "Input",
    "Model",
    "Run",
    "RunModel",
    "Tracker",
    "check_alias",
    "compare",
    "facts_of_run",
    "fetch",
    "find_model",
    "id_of",
    "link",
    "promoted_version",
    "register",
    "standing",
    "version_info",
]
