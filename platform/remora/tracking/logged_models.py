"""Results of stage runs and bundles as MLflow's LoggedModels: each once, without its files, which the run folder has.

A LoggedModel has a page of its own with the figures of the model by dataset, and runs say which models they read and
made. It is found by the tag `remora.key`, so that a sync that is repeated makes no second one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from remora.files import is_published
from remora.tracking import metric_names
from remora.tracking.connection import MlflowMissing, MlflowRefused
from remora.tracking.record import Record, RunModel
from remora.tracking.server import KEY, Server

EXTERNAL = "mlflow.model.isExternal"
"""MLflow's tag of a model whose files it does not have."""
STAGE, BUNDLE = "stage run", "bundle"


class Maker(NamedTuple):
    """The run that made a model."""

    run: str
    """Its id in MLflow."""
    record: Record


class LoggedModels:
    """The models of a run folder in MLflow, by their keys. Not thread-safe."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ids: dict[str, str] = {}
        self._lacks = False

    def forget(self) -> None:
        """Ask again: MLflow may have another database now."""
        self._ids.clear()
        self._lacks = False

    def link(self, record: Record, run: str, maker: Callable[[str], Maker | None]) -> dict[str, str]:
        """Say in MLflow which models a run read and made; kind -> the id of the one that its figures are of.

        A model that is not published yet, or that a server older than LoggedModels cannot hold, is left out.
        """
        found = {
            key: id
            for key, model in record.models.items()
            if is_published(self._server.runs / model.folder) and (id := self._id(key, model, maker(key)))
        }
        made = [found[key] for key, model in record.models.items() if key in found and model.made]
        read = [found[key] for key, model in record.models.items() if key in found and not model.made]
        if found:
            self._server.link_models(run, read, made)
        own = [(m.kind, found[k]) for k, m in record.models.items() if k in found and (m.made or m.kind == BUNDLE)]
        return dict(own)

    def of_folder(self, record: Record, folder: str) -> str | None:
        """The id of a run's model whose files are there."""
        return next((self._ids.get(key) for key, model in record.models.items() if model.folder == folder), None)

    def _id(self, key: str, model: RunModel, maker: Maker | None) -> str | None:
        if self._lacks:
            return None
        if key not in self._ids:
            try:
                there = self._server.find_model(key)
            except MlflowMissing:
                raise
            except MlflowRefused:  # an older server
                self._lacks = True
                return None
            self._ids[key] = there or self._make(key, model, maker)
        return self._ids[key]

    def _make(self, key: str, model: RunModel, maker: Maker | None) -> str:
        tags = {KEY: key, "remora.folder": model.folder, EXTERNAL: "true", **model.tags}
        params = maker.record.params if maker else {}
        # Names with these are refused.
        name = re.sub(r"[/:.%\"']", "_", model.name)
        return self._server.make_model(name, model.kind, maker.run if maker else None, params, metric_names.tags(tags))


def makers(records: Iterable[Record]) -> dict[str, Record]:
    """Model -> the run that made it; of several, the one that began first."""
    found: dict[str, Record] = {}
    for record in sorted(records, key=lambda r: r.began):
        for key, model in record.models.items():
            if model.made:
                found.setdefault(key, record)
    return found
