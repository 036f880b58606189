"""MLflow's server is killed while a stage trains, and comes back: one run, every step once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from scene import Stage, until

from remora.tracking import Run, Tracker
from support.ports import free_port

pytestmark = [pytest.mark.ray, pytest.mark.faults]


class Server:
    """`mlflow server` on a database in a folder, always at the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        database = f"sqlite:///{self.folder}/mlflow.db"
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", database, "--default-artifact-root", str(self.folder / "artifacts")]
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        until("MLflow", self.answers)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as said:
                return said.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    made.start()
    yield made
    made.kill()


def test_a_dead_mlflow_server(driver, root, calm, card, server):
    stage = Stage(root, "dead-tracker")
    key = "stage/dead-tracker"
    client = MlflowClient(server.uri)
    with Tracker(stage.runs, server.uri) as tracker, Run(stage.runs, key=key, name="dead-tracker", stage=stage.name):
        driver.trains(stage)
        tracker.sync()
        (run,) = client.search_runs([tracker.server.open()])
        until("a step in MLflow", lambda: client.get_metric_history(run.info.run_id, "loss"))
        stage.reaches(25)
        began = time.time()
        server.kill()
        away = max(e["step"] for e in stage.events("step"))
        stage.reaches(away + 20)  # not waited for
        server.start()
        assert driver.says() == "trained", driver.log.read_text()[-3000:]
    assert stage.losses() == calm  # the training did not notice
    (again,) = client.search_runs([run.info.experiment_id])
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    logged = sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss"))
    assert logged == list(enumerate(stage.losses()))
    later = min(e["time"] for e in stage.events("step") if e["time"] > began)
    card(
        "kill -9 of MLflow's server, started again", "figures wait on disk; one run, every step once", 0, later - began
    )
