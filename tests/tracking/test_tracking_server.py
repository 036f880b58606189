"""A real MLflow server that answers 500, dies, and comes back with an empty database; a reader on another machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from remora.errors import TrackingError
from remora.files import publishing, verify
from remora.tracking import Run, RunModel, Tracker, find_model, register, version_info
from remora.tracking.lookup import find_version, run_tag
from remora.training import journal
from support.ports import free_port

pytestmark = pytest.mark.ray
PARTS = {part: {"name": "x", "folder": None, "adapters": []} for part in ("vision", "connector", "llm")}


def serve(folder, port):
    folder.mkdir(exist_ok=True)
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    for _ in range(1200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process
        except OSError:
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.1)
    raise AssertionError("mlflow server did not start")


def kill(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)  # the session that `serve` made: the server and its workers
        process.wait()


class Broken(BaseHTTPRequestHandler):
    def answer(self):
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


def bundle(folder):
    with publishing(folder) as tmp:
        said = {"name": "one", "parts": PARTS, "template": "brief", "aspect": "square", "seed": 0, "about": {}}
        (tmp / "bundle.json").write_text(json.dumps(said))
        (tmp / "weights.bin").write_bytes(b"w" * 3_000_000)
    return folder


def test_a_server_that_fails_dies_and_forgets_costs_nothing(tmp_path, monkeypatch, points, runs_in):
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    port = free_port()
    runs, notes = tmp_path / "runs", []
    tracker = Tracker(runs, f"http://127.0.0.1:{port}", note=notes.append)
    path = runs / "stages" / "one.work" / journal.JOURNAL
    path.parent.mkdir(parents=True)

    def train(first, last):
        for step in range(first, last + 1):
            journal.append(path, "step", step=step, loss=1 / (step + 1))

    broken = HTTPServer(("127.0.0.1", port), Broken)
    threading.Thread(target=broken.serve_forever, daemon=True).start()
    train(0, 10)
    server = None
    model = bundle(runs / "bundles" / "one")
    models = {"bundle/1": RunModel("one", "bundle", "bundles/one", True)}
    try:
        with tracker, Run(runs, key="variant/v", name="v", models=models) as variant:
            with Run(runs, key="stage/one", name="one", parent="variant/v", stage="one"):
                with pytest.raises(TrackingError, match=r"MLflow at http://127\.0\.0\.1:\d+: too many 500 error"):
                    tracker.sync()
                broken.shutdown()
                broken.server_close()
                server = serve(tmp_path / "first", port)
                tracker.sync()
                assert points(tracker, "stage/one") == [(s, 1 / (s + 1)) for s in range(11)]
                kill(server)
                train(11, 20)
                # Reset or closed: a process that was killed may take seconds to be gone on a busy machine.
                gone = "Connection (refused|reset by peer)|Remote end closed connection|timed out"
                with pytest.raises(TrackingError, match=f"MLflow at [^ ]*: ({gone})[^()]*; start it"):
                    tracker.sync()
                server = serve(tmp_path / "second", port)  # and nothing is in it
                train(21, 30)
            variant.note(metrics={"gqa": 0.6})
        assert [n for n in notes if "\n" in n or not n.endswith(f"is kept in {runs}; later: remora sync")] == []
        assert notes
        assert points(tracker, "stage/one") == [(s, 1 / (s + 1)) for s in range(31)]
        found = runs_in(tracker)
        assert {key: run.info.status for key, run in found.items()} == {
            "variant/v": "FINISHED",
            "stage/one": "FINISHED",
        }
        assert found["stage/one"].data.tags["mlflow.parentRunId"] == found["variant/v"].info.run_id
        assert Tracker(runs, tracker.uri).sync().written == 0

        # The server's store is not a path, so a version is uploaded, and readers need no run folder.
        assert register(tracker, "remora", "variant/v", model) == register(tracker, "remora", "variant/v", model) == "1"
        with tracker.client() as client:
            (logged,) = client.search_logged_models([tracker.server.open()])
        assert logged.source_run_id == found["variant/v"].info.run_id and "gqa" in [m.key for m in logged.metrics]
        assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": "remora", "version": "1"}]
        elsewhere = tmp_path / "elsewhere"
        model = find_model("remora@champion", elsewhere, tracker.uri)
        assert model.version == "1" and model.folder.is_relative_to(elsewhere)
        verify(model.folder)
        assert find_model("remora@1", elsewhere, tracker.uri).folder == model.folder
        found_at, asked = find_version(tracker.uri, "remora", "champion"), version_info(tracker, "remora")
        assert found_at == {k: asked[k] for k in ("version", "run_id", "tags", "source")}
        assert run_tag(tracker.uri, asked["run_id"], "remora.key") == "variant/v"
        assert len(list((elsewhere / "cache" / "champions").iterdir())) == 1
    finally:
        broken.server_close()
        if server:
            kill(server)
