"""`remora doctor`: each check where it is content and where it is not; all of them are bounded in time."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from remora.cli import main
from remora.cluster import health
from remora.cluster.health import NodeFacts
from remora.commands import doctor
from remora.pipeline.checkup import machine, packages, services
from remora.pipeline.checkup.finding import examined, found
from support.ports import free_port


def test_python() -> None:
    assert packages.python().good
    assert packages.python("3.12.1", ">=3.11").good
    bad = packages.python("3.10.2", ">=3.11")
    assert not bad.good and bad.said == "3.10.2, and Remora needs >=3.11"


REQUIRES = [
    "rich>=14",
    'torch<2.14,>=2.13; extra == "model"',
    'remora[model]; extra == "train"',
    'ruff; extra == "dev"',
]


@pytest.mark.parametrize(
    ("have", "good", "said"),
    [
        ({"rich": "14.2", "torch": "2.13.0+cpu"}, True, "2 packages are of versions that were tried"),
        ({"rich": "14.2"}, True, "1 packages are of versions that were tried; extra model lacks torch"),
        ({"rich": "14.2", "torch": "2.14.1"}, False, "torch 2.14.1 (tried: <2.14,>=2.13)"),
        ({"torch": "2.13.0"}, False, "rich is not installed"),
    ],
)
def test_packages_against_what_was_tried(have: dict[str, str], good: bool, said: str) -> None:
    def version(name: str) -> str:
        if name not in have:
            raise PackageNotFoundError(name)
        return have[name]

    finding = packages.packages(REQUIRES, version)
    assert (finding.good, finding.said) == (good, said) and bool(finding.todo) != good


def test_packages_of_this_environment() -> None:
    assert packages.packages().good


def test_a_build_that_was_killed_left_its_lock(tmp_path: Path) -> None:
    """DeepSpeed waits for it for ever, without a word."""
    lock = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    assert packages.deepspeed_builds(tmp_path).good
    lock.touch()
    assert packages.deepspeed_builds(tmp_path).good  # it may be building
    os.utime(lock, (time.time() - 3600,) * 2)
    bad = packages.deepspeed_builds(tmp_path)
    assert not bad.good and bad.todo == f"rm {lock}"


@pytest.mark.parametrize(
    ("facts", "nvidia", "good", "said"),
    [
        ({"torch": "2.13+cpu", "cuda": None, "available": False}, False, True, "none; on CPUs"),
        ({"torch": "2.13+cpu", "cuda": None, "available": False}, True, False, "torch is a CPU build"),
        ({"torch": "2.13", "cuda": "13.0", "available": False}, True, False, "is built for CUDA 13.0"),
        ({"error": "ncclSystemError"}, True, False, "torch or NCCL fails: ncclSystemError"),
        (
            {"available": True, "cuda": "13.0", "nccl": "2.28.3", "gpus": ["H100"] * 2, "sums": [2.0, 2.0]},
            True, True, "2 x H100; CUDA 13.0, NCCL 2.28.3 sums over them",
        ),
        ({"available": True, "gpus": ["H100"] * 2, "sums": [1.0, 1.0]}, True, False, "NCCL sums wrongly: [1.0, 1.0]"),
    ],
)  # fmt: skip
def test_gpus(facts: packages.GpuFacts, nvidia: bool, good: bool, said: str) -> None:
    finding = packages.judged(facts, nvidia)
    assert finding.good == good and said in finding.said and bool(finding.todo) != good


def test_a_torch_that_hangs_is_left_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "PROBE", "import time; time.sleep(60)")
    assert "no answer within 0 s" in packages.gpus(0.2).said
    monkeypatch.setattr(packages, "PROBE", "raise RuntimeError('driver too old')")
    assert "driver too old" in packages.gpus().said


def test_shared_memory(tmp_path: Path) -> None:
    assert machine.shared_memory(tmp_path, memory=1e6).good
    bad = machine.shared_memory(tmp_path, memory=1e18)
    assert not bad.good and "--shm-size" in bad.todo
    assert machine.shared_memory(tmp_path / "none").good


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = {"free": 100e9}
    monkeypatch.setattr(
        "shutil.disk_usage", lambda folder: machine.shutil._ntuple_diskusage(200e9, 100e9, usage["free"])
    )
    assert machine.disk({"run folder": tmp_path / "not yet"}).said == "run folder 100.0 GB free"
    usage["free"] = 1e9
    bad = machine.disk({"run folder": tmp_path})
    assert not bad.good and str(tmp_path) in bad.said and bad.todo.startswith("remora runs gc")


def test_ports() -> None:
    port = free_port()
    assert machine.ports({port: "it"}).good
    with socket.create_server(("127.0.0.1", port)):
        bad = machine.ports({port: "remora serve; next: --port N"})
    assert not bad.good and bad.said == f"in use: {port}" and "--port N" in bad.todo


def test_write_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.write_rights(tmp_path, {"HF_HOME": tmp_path}).good
    assert machine.write_rights(tmp_path / "not" / "yet", {}).good and not (tmp_path / "not").exists()
    assert not list(tmp_path.iterdir())

    def refused(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    bad = machine.write_rights(tmp_path, {})
    assert not bad.good and bad.said == f"{tmp_path}: Operation not permitted" and not list(tmp_path.iterdir())


def test_a_read_only_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **more: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    bad = machine.write_rights(tmp_path, {})
    assert not bad.good and bad.said == f"{tmp_path}: Read-only file system" and "--runs DIR" in bad.todo
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "HF_HOME" in machine.write_rights(tmp_path, {"HF_HOME": tmp_path}).said


@pytest.fixture
def answering() -> Iterator[Callable[[int], str]]:
    """A server that answers with a status."""
    servers = []

    def serve(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_mlflow(tmp_path: Path, answering: Callable[[int], str]) -> None:
    assert services.mlflow(answering(200)).good
    assert "refuses us (401)" in services.mlflow(answering(401)).said
    assert "answers 500" in services.mlflow(answering(500)).said
    bad = services.mlflow(f"http://user:secret@127.0.0.1:{free_port()}")
    assert not bad.good and "secret" not in bad.said and "MLFLOW_TRACKING_URI" in bad.todo
    file = tmp_path / "mlflow.db"
    assert services.mlflow(f"sqlite:///{file}").good and not file.exists()
    with closing(sqlite3.connect(file)) as made:
        made.execute("CREATE TABLE alembic_version (version_num TEXT)")
        made.execute("INSERT INTO alembic_version VALUES ('abc')")
        made.commit()
    assert services.mlflow(f"sqlite:///{file}").said.endswith("can be read (schema abc)")
    file.write_bytes(b"torn" * 1000)
    bad = services.mlflow(f"sqlite:///{file}")
    assert not bad.good and "remora sync" in bad.todo


def test_a_database_that_is_in_use_is_not_moved_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has aliases and versions that the run folder does not."""
    monkeypatch.setattr(services, "SECONDS", 0.01)
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as held:
        held.execute("CREATE TABLE alembic_version (version_num)")
        held.execute("BEGIN EXCLUSIVE")
        bad = services.mlflow(f"sqlite:///{file}")
    assert not bad.good and "database is locked" in bad.said and "mv " not in bad.todo


def test_the_hub(answering: Callable[[int], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert services.hub(answering(200)).good
    assert not services.hub(answering(503)).good
    assert "HF_HUB_OFFLINE=1" in services.hub(f"http://127.0.0.1:{free_port()}").todo
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert services.hub(f"http://127.0.0.1:{free_port()}").good


def test_rays_authentication(tmp_path: Path) -> None:
    def said(**env: str) -> tuple[bool, str]:
        finding = health.authentication(env, tmp_path)
        return finding.good, finding.said

    assert said() == (True, "RAY_AUTH_MODE is not set: no token; clusters of our own on this machine use none")
    assert said(RAY_AUTH_MODE="disabled") == (True, "RAY_AUTH_MODE=disabled")
    assert said(RAY_AUTH_MODE="tokens") == (False, "RAY_AUTH_MODE is 'tokens'")
    assert said(RAY_AUTH_MODE="token") == (False, "RAY_AUTH_MODE=token, and there is no token")
    assert said(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="x") == (True, "RAY_AUTH_MODE=token, with a token")
    assert not said(RAY_AUTH_TOKEN_PATH=str(tmp_path / "gone"))[0]
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("x")
    token.chmod(0o644)
    assert said(RAY_AUTH_MODE="token") == (False, f"others can read the token in {token}")
    token.chmod(0o600)
    assert said(RAY_AUTH_MODE="token") == (True, "RAY_AUTH_MODE=token, with a token")


def test_what_dead_clusters_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert health.dead_clusters(tmp_path, {}).good
    with socket.create_server(("127.0.0.1", 0)) as head:
        here = f"127.0.0.1:{head.getsockname()[1]}"
        (tmp_path / "ray_current_cluster").write_text(here)
        raylet = {7: f"/site-packages/ray/core/src/ray/raylet/raylet --gcs-address={here}"}
        assert health.dead_clusters(tmp_path, raylet).good
    bad = health.dead_clusters(tmp_path, raylet)
    assert f"names {here}, where nothing listens; 1 processes of clusters whose head is gone" in bad.said
    assert bad.todo == f"rm {tmp_path}/ray_current_cluster; kill 7"
    (tmp_path / "ray_current_cluster").unlink()
    session = tmp_path / "session_2026-11-30_07-49-47_366376_8056"
    session.mkdir()
    (session / "log").write_bytes(bytes(100))
    assert health.dead_clusters(tmp_path, {}).good
    monkeypatch.setattr(health, "MUCH", 10)
    assert f"rm -r {session}" in health.dead_clusters(tmp_path, {}).todo
    assert health.dead_clusters(tmp_path, {8: f"gcs_server --log_dir={session}/logs"}).good


@pytest.mark.parametrize(
    ("facts", "good", "said"),
    [
        ([NodeFacts("a", 0.1, "c", True), NodeFacts("b", -0.1, "c", True)], True, "2 nodes, clocks within 0.20 s"),
        (
            [NodeFacts("a", 0.0, "c", True), NodeFacts("b", 0.0, "c", True), NodeFacts("d", 9.0, "c", True)],
            False, "clocks differ: d by +9.0 s",
        ),
        ([NodeFacts("a", 0.0, "c", True), NodeFacts("b", 0.0, "", True)], False, "another Remora, or none: b"),
        ([NodeFacts("a", 0.0, "c", True), NodeFacts("b", 0.0, "c", False)], False, "/runs is not there: b"),
        ([], False, "no node answered"),
    ],
)  # fmt: skip
def test_nodes(facts: list[NodeFacts], good: bool, said: str) -> None:
    finding = health.judged_nodes(facts, "c", Path("/runs"))
    assert finding.good == good and said in finding.said and bool(finding.todo) != good


def test_a_node_that_is_lost_while_it_is_asked_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import GetTimeoutError

    def lost(runs: Path) -> Iterator[NodeFacts]:
        raise GetTimeoutError("Get timed out: some object(s) not ready.")

    monkeypatch.setattr(health, "ray_session", lambda address: nullcontext())
    monkeypatch.setattr(health, "_asked", lost)
    bad = health.nodes("10.0.0.1:6379", tmp_path)
    assert not bad.good and bad.said.startswith("a node does not answer: ") and bad.todo.startswith("ray status")


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    bad = health.nodes(f"127.0.0.1:{free_port()}", tmp_path)
    assert not bad.good and "nothing listens there" in bad.said and "ray start --head" in bad.todo


def test_a_check_that_breaks_or_hangs_hides_no_other() -> None:
    def broken() -> None:
        raise ZeroDivisionError("x")

    over = threading.Event()
    said = examined({"breaks": broken, "hangs": over.wait, "works": lambda: found("it")}, patience=0.2)
    over.set()
    assert list(said) == ["breaks", "hangs", "works"] and said["works"].good
    assert "ZeroDivisionError: x" in said["breaks"].said and said["hangs"].said == "no answer within 0 s"


def test_the_command_prints_a_line_each_and_exits_with_1_if_one_is_bad(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    checks = {"good": lambda: found("all is well"), "bad": lambda: machine.trouble("it is not", "do this")}
    monkeypatch.setattr(doctor, "checks", lambda options: checks)
    with pytest.raises(SystemExit) as e:
        main(["doctor", "--runs", str(tmp_path)])
    assert str(e.value.code) == "remora: 1 of 2 checks failed: bad"
    assert capsys.readouterr().out.splitlines() == ["✓ good  all is well", "✗ bad   it is not", "        next: do this"]
    del checks["bad"]
    main(["doctor", "--json", "--runs", str(tmp_path)])
    (only,) = json.loads(capsys.readouterr().out)
    assert only == {"check": "good", "good": True, "said": "all is well", "todo": ""}
