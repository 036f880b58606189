"""A tracker on a real sqlite MLflow. Making its tables takes seconds: once a session, then copied for each test."""

from __future__ import annotations

import shutil

import pytest

from remora.tracking import Tracker


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty")
    Tracker(folder, f"sqlite:///{folder}/mlflow.db", experiment="not remora").prepare()
    return folder / "mlflow.db"


@pytest.fixture
def tracker(empty_database, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    made = Tracker(tmp_path)
    made.prepare()
    return made


@pytest.fixture
def points():
    """The (step, value) pairs that MLflow holds of a metric."""

    def read(tracker, run_id, name="loss"):
        with tracker.client() as client:
            return sorted((m.step, m.value) for m in client.get_metric_history(tracker.real(run_id), name))

    return read
