"""MLflow: a run for each stage run, variant, search and measurement, their figures, and the registry of models.

`Run` records in the run folder what MLflow shall hold; `Tracker` brings MLflow up to date from there. `mlflow` is
imported inside functions of this room only, so that this import stays light.
"""

from remora.tracking.metric_names import Input, id_of, link
from remora.tracking.models import Model, find_model
from remora.tracking.record import Run
from remora.tracking.registry import check_alias, fetch, register, standing, version_info
from remora.tracking.tracker import Tracker

__all__ = [
    "Input",
    "Model",
    "Run",
    "Tracker",
    "check_alias",
    "fetch",
    "find_model",
    "id_of",
    "link",
    "register",
    "standing",
    "version_info",
]
