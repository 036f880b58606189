"""`remora ui` prints a clean address of one small server; start errors are one line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from remora.cli import main
from remora.commands import ui
from remora.tracking import Tracker
from support.ports import free_port


def refused(*argv: str) -> str:
    with pytest.raises(SystemExit) as e:
        main(["ui", *argv])
    assert "\n" not in str(e.value.code)
    return str(e.value.code)


@pytest.mark.slow
def test_a_run_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert "runz is not there: nothing was trained" in refused("--runs", str(tmp_path / "runz"))
    assert not (tmp_path / "runz").exists()


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """MLflow printed a trace and exited with 0."""
    (tmp_path / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
        said = refused("--runs", str(tmp_path), "--port", str(port))
    assert f"127.0.0.1:{port} cannot be used (Address already in use); next: --port {port + 1}" in said
    assert "from 1 to 65535; found 70000" in refused("--runs", str(tmp_path), "--port", "70000")


def test_tensorboard_that_is_not_there_or_has_nothing_to_show_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--tensorboard", "--runs", str(tmp_path), "--port", str(free_port()))
    monkeypatch.setattr(ui, "find_spec", lambda name: None)
    assert refused(*given).endswith("TensorBoard is not installed; next: pip install tensorboard")
    monkeypatch.setattr(ui, "find_spec", lambda name: name)
    assert "nothing was trained there; give the right run folder with --runs DIR" in refused(*given)
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.slow
def test_its_page_answers_from_one_worker(tmp_path: Path) -> None:
    Tracker(tmp_path).sync()
    port = free_port()
    command = [sys.executable, "-m", "remora", "ui", "--runs", str(tmp_path), "--port", str(port)]
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **out) as child:
        assert child.stdout
        said = [child.stdout.readline(), child.stdout.readline()]
        assert said[1].startswith(f"ready: http://127.0.0.1:{port}/#/experiments/"), said
        page = said[1].removeprefix("ready: ").partition("#")[0]
        assert httpx.get(page, trust_env=False).status_code == 200
        serving = [p for p in Path("/proc").glob("[0-9]*") if _listens(p, port)]
        child.send_signal(signal.SIGTERM)
        rest = child.stdout.read()
    assert len(serving) <= 2, "MLflow's command and one worker"
    assert "Traceback" not in rest and "Warning" not in rest


def _listens(process: Path, port: int) -> bool:
    try:
        return f"--port\0{port}\0".encode() in (process / "cmdline").read_bytes() and "remora" not in (
            process / "cmdline"
        ).read_bytes().decode().split("\0")
    except OSError:
        return False
