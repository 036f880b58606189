"""A tracker on a real sqlite MLflow."""

from __future__ import annotations

import shutil

import pytest

from remora.tracking import Tracker


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
