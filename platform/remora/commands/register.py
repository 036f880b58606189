"""`remora register`: make a model a version of the registry, and move an alias to it."""

from __future__ import annotations

from remora.commands.options import RegisterOptions
from remora.commands.run import say
from remora.errors import TrackingError
from remora.files import MANIFEST, sha256_file, verify
from remora.tracking import Run, Tracker, find_model
from remora.tracking import register as add_version


def register(options: RegisterOptions) -> None:
    """Register what `train`, `import` or `average` made, or move an alias to an existing version.

    Raises:
        TrackingError: the alias is empty or reads as a version; there is no such model; MLflow refuses.
    """
    if not options.alias or options.alias.removeprefix("v").isdecimal():
        raise TrackingError(
            f"alias {options.alias!r} would never be found: {options.name}@{options.alias or 'N'} means a version; "
            "give a word, as in --alias champion"
        )
    model = find_model(options.model, options.runs, options.tracking_uri)
    verify(model.folder)
    identity = sha256_file(model.folder / MANIFEST)
    # A version belongs to an MLflow run; an imported or copied bundle has none.
    tags = {"mlflow.source.name": "remora register", "remora.bundle": identity, "remora.model": model.shown}
    run = Run(options.runs, key=f"registration/{identity}", name=f"{model.name} registered", tags=tags)
    run.keep()
    tracker = Tracker(options.runs, options.tracking_uri)
    version = add_version(tracker, options.name, run.key, model.folder, options.alias, tags={"variant": model.name})
    say(f"{options.name}@{options.alias}: version {version}, {model.name} ({model.folder})")
    say(f"next: remora serve {options.name}@{options.alias}")
