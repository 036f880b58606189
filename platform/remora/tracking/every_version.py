"""Every version of every registered model: versions may need files of the run folder."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from remora.errors import TrackingError
from remora.tracking.connection import MlflowRefused
from remora.tracking.registry import DIGEST
from remora.tracking.server import KEY, pages

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from remora.tracking.tracker import Tracker


class Registered(TypedDict):
    """A version, and where its files are."""

    name: str
    version: str
    aliases: list[str]
    tags: dict[str, str]
    digest: str
    """Of its content; empty if it was not registered by Remora."""
    key: str
    """The key of its run (`record.Record`); empty if MLflow does not have it."""
    source: str
    folder: Path | None
    """Its files, if they are on this machine or a disk of it."""


def every_version(tracker: Tracker) -> list[Registered]:
    """Read-only: creates no database. Without one, nothing was registered.

    Raises:
        TrackingError: MLflow cannot be reached; or MLFLOW_REGISTRY_URI names a registry, and its versions' runs are not
            here.
    """
    if (database := tracker.server.database) and not database.exists():
        if elsewhere := os.environ.get("MLFLOW_REGISTRY_URI"):
            raise TrackingError(
                f"MLFLOW_REGISTRY_URI is {elsewhere}, and there is no {database} with the runs of its versions"
            )
        return []
    found: list[Registered] = []
    with tracker.client() as client:
        for model in pages(client.search_registered_models):
            aliases = model.aliases or {}
            for version in pages(partial(client.search_model_versions, f"name = '{model.name}'")):
                number, source = str(version.version), version.source or ""
                found.append(
                    {
                        "name": model.name,
                        "version": number,
                        "aliases": sorted(alias for alias, of in aliases.items() if str(of) == number),
                        "tags": dict(version.tags),
                        "digest": version.tags.get(DIGEST, ""),
                        "key": _key(tracker, client, version.run_id),
                        "source": source,
                        "folder": tracker.server.local(source) if source else None,
                    }
                )
    return found


def _key(tracker: Tracker, client: MlflowClient, run: str | None) -> str:
    if not run:
        return ""
    try:
        with tracker.server.answers():
            return str(client.get_run(run).data.tags.get(KEY, ""))
    except MlflowRefused:  # a person deleted it
        return ""
