"""A tracker on a real sqlite MLflow, and its content."""

from __future__ import annotations

import shutil

import pytest

from remora.tracking import Run, Tracker


@pytest.fixture
def tracker(empty_database, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Tracker(tmp_path)


@pytest.fixture
def named(tracker):
    """Records a finished run of that name; its key."""

    def make(name):
        Run(tracker.runs, key=f"variant/{name}", name=name).keep()
        return f"variant/{name}"

    return make


@pytest.fixture
def runs_in():
    """Every run in MLflow, by its key, which must be unique."""

    def read(tracker):
        with tracker.client() as client:
            found = client.search_runs([tracker.server.open()])
        by_key = {run.data.tags["remora.key"]: run for run in found}
        assert len(by_key) == len(found)
        return by_key

    return read


@pytest.fixture
def points(runs_in):
    """The (step, value) pairs of a metric in MLflow, for the run with that key."""

    def read(tracker, key, name="loss"):
        run = runs_in(tracker)[key].info.run_id
        with tracker.client() as client:
            return sorted((m.step, m.value) for m in client.get_metric_history(run, name))

    return read
