"""Remora's calls to MLflow, all of them idempotent.

A client that timed out cannot know whether its call arrived: runs are found by their key, metrics carry their own time
(MLflow stores an equal point once), the rest overwrites.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from remora.tracking import metric_names
from remora.tracking.connection import Connection
from remora.tracking.metric_names import Input, LoggedStep

if TYPE_CHECKING:
    from mlflow.store.entities import PagedList

Entity = TypeVar("Entity")
KEY, MARK = "remora.key", "remora.synced"
"""Tags: a run's key, and how much of its record MLflow has."""
VERSIONS = "mlflow.modelVersions"
"""MLflow's tag of a LoggedModel."""
NO_STEP = -1
_BATCH = 1000  # metrics a call, MLflow's limit
_NAME, _DIGEST = 500, 36  # characters of a dataset's, MLflow's limits
_PAGE = 500  # runs a call
_PARAMS = 20  # params a call: 20 × 6000 escaped characters stay below the server's 1 MB a request


@dataclass
class Known:
    """A run in MLflow."""

    id: str
    mark: str = ""
    deleted: bool = False
    """By a person, on MLflow's pages."""
    status: str = "RUNNING"


class Server(Connection):
    """The calls, on one connection."""

    def runs_by_key(self) -> dict[str, Known]:
        """Every run of ours; if two have the same key, the older one."""
        from mlflow.entities import ViewType

        found: dict[str, Known] = {}
        with self.answers() as client:
            order, experiment = ["attributes.start_time ASC"], self.open()  # fails fast
            ask = partial(client.search_runs, [experiment], "", ViewType.ALL, _PAGE, order)
            with self.patient():
                for run in pages(ask):
                    if key := run.data.tags.get(KEY):
                        info, mark = run.info, run.data.tags.get(MARK, "")
                        known = Known(info.run_id, mark, info.lifecycle_stage == "deleted", info.status)
                        found.setdefault(key, known)
        return found

    def create(self, key: str, name: str, began: int) -> Known:
        with self.answers() as client:
            made = client.create_run(self.open(), start_time=began, tags={KEY: key}, run_name=name)
        return Known(made.info.run_id)

    def revive(self, known: Known) -> None:
        """Resume a run that ended or was deleted."""
        with self.answers() as client:
            if known.deleted:
                client.restore_run(known.id)
            client.update_run(known.id, status="RUNNING")
        known.deleted, known.status = False, "RUNNING"

    def end(self, known: Known, status: str, at: int) -> None:
        with self.answers() as client:
            client.set_terminated(known.id, status, end_time=at)
        known.status = status

    def params(self, run: str, params: Mapping[str, str]) -> None:
        """MLflow params are immutable. A run resumed with another value keeps the first and is marked."""
        with self.answers() as client:
            known = client.get_run(run).data.params
        new = [(k, v) for k, v in params.items() if k not in known]
        for i in range(0, len(new), _PARAMS):
            self.log(run, params=dict(new[i : i + _PARAMS]))
        changed = {f"remora.changed.{k}": v for k, v in params.items() if known.get(k, v) != v}
        self.log(run, tags=changed)

    def log(
        self,
        run: str,
        points: Iterable[tuple[str, float, int, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        model: str | None = None,
        datasets: Mapping[str, Input] | None = None,
    ) -> None:
        """Log metrics (name, value, milliseconds since 1970, step), params and tags.

        Args:
            model: The id of the LoggedModel that the metrics are of.
            datasets: Those that metrics were measured on, by the first piece of their names.
        """
        from mlflow.entities import Metric, Param, RunTag

        def measured_on(name: str) -> tuple[str, str] | tuple[None, None]:
            on = (datasets or {}).get(name.partition("/")[0])
            return _dataset_key(on) if on else (None, None)

        metrics = [Metric(*point, model, *measured_on(point[0])) for point in points]
        with self.answers() as client:
            for i in range(0, max(len(metrics), 1), _BATCH):
                client.log_batch(
                    run,
                    metrics[i : i + _BATCH],
                    [Param(k, v) for k, v in (params or {}).items()],
                    [RunTag(k, v) for k, v in metric_names.tags(tags or {}).items()],
                )

    def inputs(self, run: str, inputs: Iterable[Input]) -> None:
        """Record the data that the run reads; existing entries are left alone."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        made = [
            DatasetInput(
                Dataset(
                    *_dataset_key(i),
                    "local",
                    json.dumps({"uri": i.source}),
                    profile=json.dumps(dict(i.counts)),
                ),
                [InputTag("mlflow.data.context", i.context)],
            )
            for i in inputs
        ]
        if made:
            with self.answers() as client:
                client.log_inputs(run, made)

    def find_model(self, key: str) -> str | None:
        """The id of the LoggedModel with that key."""
        with self.answers() as client:
            found = client.search_logged_models([self.open()], f"tags.`{KEY}` = '{key}'", max_results=1)
        return str(found[0].model_id) if found else None

    def make_model(
        self, name: str, kind: str, run: str | None, params: Mapping[str, str], tags: Mapping[str, str]
    ) -> str:
        """A LoggedModel without files; its id."""
        with self.answers() as client:
            made = client.create_logged_model(self.open(), name, run, dict(tags), dict(params), kind)
            client.finalize_logged_model(made.model_id, "READY")
        return str(made.model_id)

    def link_models(self, run: str, read: Iterable[str], made: Iterable[str]) -> None:
        """Say which LoggedModels a run read and made; MLflow would hold the same one twice."""
        from mlflow.entities import LoggedModelInput, LoggedModelOutput

        with self.answers() as client:
            known = client.get_run(run)
            there = {m.model_id for m in known.inputs.model_inputs} if known.inputs else set()
            if new := [LoggedModelInput(id) for id in read if id not in there]:
                client.log_inputs(run, models=new)
            there = {m.model_id for m in known.outputs.model_outputs} if known.outputs else set()
            if outs := [LoggedModelOutput(id, step=0) for id in made if id not in there]:
                client.log_outputs(run, outs)

    def tell_version(self, model: str, name: str, version: str) -> None:
        """Name a version of the registry on its LoggedModel's page."""
        with self.answers() as client:
            told = json.loads(client.get_logged_model(model).tags.get(VERSIONS, "[]"))
            if (one := {"name": name, "version": version}) not in told:
                client.set_logged_model_tags(model, {VERSIONS: json.dumps([*told, one])})

    def last_step(self, run: str) -> int:
        """The last step of `loss` in MLflow, `NO_STEP` before the first."""
        with self.answers() as client:
            client.get_run(run)  # fails fast; the history of a long training takes seconds
            with self.patient():
                return max((point.step for point in client.get_metric_history(run, "loss")), default=NO_STEP)

    def steps(self, run: str, steps: Iterable[LoggedStep]) -> None:
        """Log whole steps: if a call fails, the last step in MLflow is still a whole one."""
        points: list[tuple[str, float, int, int]] = []
        for step, at, values in steps:
            if len(points) + len(values) > _BATCH:
                self.log(run, points)
                points = []
            points += [(k, v, at, step) for k, v in values.items()]
        if points:
            self.log(run, points)


class _Ask(Protocol[Entity]):
    """One of MLflow's calls that answer by pages."""

    def __call__(self, *, page_token: str | None) -> PagedList[Entity]: ...


def pages(ask: _Ask[Entity]) -> Iterator[Entity]:
    """All that MLflow has, page by page."""
    token: str | None = None
    while True:
        page = ask(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _dataset_key(data: Input) -> tuple[str, str]:
    """The name and digest by which MLflow knows a dataset."""
    return metric_names.shorten(data.name, _NAME), data.digest[:_DIGEST]
