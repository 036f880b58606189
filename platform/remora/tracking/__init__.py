"""MLflow: one logical run a stage run, its figures, and the registry of models.

Training never stops because the tracker did: what cannot be written waits in a file and is written later. `mlflow` is
imported inside functions of this room alone, so that this import stays light.
"""

from remora.tracking.client import Tracker
from remora.tracking.figures import Input, link
from remora.tracking.mirror import Mirror
from remora.tracking.models import Model, find_model
from remora.tracking.registry import champion, fetch, register, version_info

__all__ = ["Input", "Mirror", "Model", "Tracker", "champion", "fetch", "find_model", "link", "register", "version_info"]
