"""The calls that Remora makes to MLflow.

Every call may be repeated without harm, since a client that timed out cannot know whether its call arrived: runs are
found by their key, metrics carry their own time (MLflow stores an equal point once), the rest overwrites.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from remora.tracking import figures
from remora.tracking.backlog import locked
from remora.tracking.connection import Connection, Missing, Refused

KEY = "remora.key"
NO_STEP = -1
_BATCH = 1000  # metrics a call, MLflow's limit
_NAME, _DIGEST = 500, 36  # characters of a dataset's, MLflow's limits
_PARAMS = 20  # params a call: 20 × 6000 escaped characters stay below the server's 1 MB a request


class Server(Connection):
    """The calls, on one connection."""

    def __init__(self, runs: Path, uri: str, experiment: str) -> None:
        super().__init__(runs, uri, experiment)
        self._last_steps: dict[str, int] = {}

    def find(self, key: str, status: str | None = None) -> str | None:
        """The run that carries `key` (and has that status), the oldest if two processes made one at the same moment."""
        experiment = self.open()
        with self.answers() as client:
            quote = '"' if "'" in key else "'"
            where = f"tags.`{KEY}` = {quote}{key}{quote}" + (f" and attributes.status = '{status}'" if status else "")
            found = client.search_runs([experiment], where, max_results=1, order_by=["attributes.start_time ASC"])
        return found[0].info.run_id if found else None

    def has(self, run: str) -> bool:
        """Whether MLflow holds the run."""
        try:
            with self.answers() as client:
                client.get_run(run)
        except Missing:
            return False
        return True

    def start(self, r: dict[str, Any], parent: str | None) -> str:
        """The run of `r["key"]`, running: the one that exists, else a new one."""
        tags = self._tags(r["tags"]) | {KEY: r["key"]} | ({"mlflow.parentRunId": parent} if parent else {})
        with locked(self.runs / ".tracking-start.lock"):
            run = self.find(r["key"])
            with self.answers() as client:
                if run is None:
                    made = client.create_run(self.open(), start_time=r["at"], tags=tags, run_name=r["name"])
                    run, known = made.info.run_id, {}
                else:
                    known = client.get_run(run).data.params
                    client.update_run(run, status="RUNNING")
                    self._log(run, tags=tags)
                self._params(run, known, figures.params(r["params"]))
        return run

    def _params(self, run: str, known: dict[str, str], params: dict[str, str]) -> None:
        # MLflow never changes a param. A run resumed with another value keeps the first and is marked.
        new = [(k, v) for k, v in params.items() if k not in known]
        for i in range(0, len(new), _PARAMS):
            self._log(run, params=dict(new[i : i + _PARAMS]))
        changed = {f"remora.changed.{k}": v for k, v in params.items() if known.get(k, v) != v}
        self._log(run, tags=figures.tags(changed))

    def _log(
        self,
        run: str,
        points: list[tuple[str, float, int, int]] | None = None,
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(*point) for point in points or []]
        with self.answers() as client:
            for i in range(0, max(len(metrics), 1), _BATCH):
                client.log_batch(
                    run,
                    metrics[i : i + _BATCH],
                    [Param(k, v) for k, v in (params or {}).items()],
                    [RunTag(k, v) for k, v in (tags or {}).items()],
                )

    def last_step(self, run: str) -> int:
        """The last step of `loss` in MLflow, `NO_STEP` before the first; asked anew."""
        with self.answers() as client:
            client.get_run(run)  # fails fast; the history of a long training takes seconds
            with self.patient():
                history = client.get_metric_history(run, "loss")
        self._last_steps[run] = max((point.step for point in history), default=NO_STEP)
        return self._last_steps[run]

    def write(self, run: str, r: dict[str, Any]) -> None:
        """Make the call that record `r` describes."""
        match r["do"]:
            case "metrics":
                self._log(run, [(k, v, r["at"], r["step"]) for k, v in r["metrics"].items()])
            case "steps":
                self._steps(run, r["steps"])
            case "tag":
                self._log(run, tags=self._tags({r["key"]: r["value"]}))
            case "inputs":
                self._inputs(run, r["inputs"])
            case "text":
                self.write_text(run, r["text"], r["file"])
            case "artifacts":
                folder = self.runs / r["folder"]
                if not folder.is_dir():  # MLflow would upload nothing and be content
                    raise Refused(f"{folder} is gone, it cannot be uploaded")
                self.upload(run, folder, r["path"])
            case "finish":
                with self.answers() as client:
                    client.set_terminated(run, r["status"], end_time=r["at"])

    def _tags(self, given: dict[str, str]) -> dict[str, str]:
        return figures.tags({key: figures.linked(value, self._page) for key, value in given.items()})

    def _page(self, key: str) -> str | None:
        """The address of a run's page within MLflow's."""
        run = self.find(key)
        return f"#/experiments/{self.open()}/runs/{run}" if run else None

    def _inputs(self, run: str, inputs: list[dict[str, Any]]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        made = [
            DatasetInput(
                Dataset(
                    figures.shorten(i["name"], _NAME),
                    i["digest"][:_DIGEST],
                    "local",
                    json.dumps({"uri": i["source"]}),
                    profile=json.dumps(i["counts"]),
                ),
                [InputTag("mlflow.data.context", i["context"])],
            )
            for i in inputs
        ]
        with self.answers() as client:
            client.log_inputs(run, made)

    def _steps(self, run: str, steps: list[tuple[int, int, dict[str, float]]]) -> None:
        """Log whole steps, each once: a resumed training repeats steps, a repeated call repeats them too."""
        last = self._last_steps.get(run)
        if last is None:
            last = self.last_step(run)
        del self._last_steps[run]  # if a call below fails, nobody knows which steps arrived: ask again
        points: list[tuple[str, float, int, int]] = []
        for step, at, figures_ in steps:
            if step <= last:
                continue
            last = step
            if len(points) + len(figures_) > _BATCH:
                self._log(run, points)
                points = []
            points += [(k, v, at, step) for k, v in figures_.items()]
        self._log(run, points)
        self._last_steps[run] = last
