"""`remora register`: make a model a version of the registry, and move an alias to it."""

from __future__ import annotations

from remora.commands.options import RegisterOptions
from remora.commands.saying import say
from remora.pipeline.promotion import add_version
from remora.tracking import Tracker, check_alias, find_model


def register(options: RegisterOptions) -> None:
    """Register what `train`, `import` or `average` made, or move an alias to an existing version.

    Raises:
        TrackingError: the alias is empty or reads as a version; there is no such model; MLflow refuses.
    """
    check_alias(options.name, options.alias)
    model = find_model(options.model, options.runs, options.tracking_uri)
    tracker = Tracker(options.runs, options.tracking_uri)
    version = add_version(model, options.runs, tracker, options.name, options.alias, "remora register")
    say(f"{options.name}@{options.alias}: version {version}, {model.name} ({model.folder})")
    say(f"next: remora serve {options.name}@{options.alias}")
