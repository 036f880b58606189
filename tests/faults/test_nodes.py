"""Nodes that join and leave an elastic worker group: two local raylets of one CPU each."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from scene import Driver, Stage, until

from support.ports import free_port

pytestmark = [pytest.mark.ray, pytest.mark.faults]
RAY = str(Path(sys.executable).with_name("ray"))
STEPS = 20_000  # not waited for: nodes come and go meanwhile


class Nodes:
    """A head and those that joined it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.scratch = folder, tempfile.mkdtemp(prefix="rf", dir="/tmp")  # sockets: 107 letters at most
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.env = {**kept, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        self.address = f"127.0.0.1:{free_port()}"
        self.started: list[subprocess.Popen[bytes]] = []
        self.start("--head", f"--port={self.address.split(':')[1]}", f"--temp-dir={self.scratch}",
                   "--include-dashboard=false")  # fmt: skip
        until("the head", self.answers)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        command = [RAY, "start", "--num-cpus=1", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1"]
        with self.log(len(self.started)).open("w") as out:
            node = subprocess.Popen([*command, *options, "--block"], env=self.env, stdout=out, stderr=out)
        self.started.append(node)
        return node

    def log(self, number: int) -> Path:
        """The output file of the first, second, … node that was started."""
        return self.folder / f"node-{number}.log"

    def join(self) -> subprocess.Popen[bytes]:
        return self.start(f"--address={self.address}")

    def answers(self) -> bool:
        host, port = self.address.split(":")
        with socket.socket() as s:
            return s.connect_ex((host, int(port))) == 0

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """Kill all processes of a node at once, like a power failure."""
        if node.poll() is None:
            below = psutil.Process(node.pid).children(recursive=True)
            for process in [psutil.Process(node.pid), *below]:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
        node.wait()

    def stop(self) -> None:
        for node in reversed(self.started):
            self.kill(node)
        shutil.rmtree(self.scratch, ignore_errors=True)


@pytest.fixture
def nodes(tmp_path):
    made = Nodes(tmp_path)
    yield made
    made.stop()


def node_of(pid: int, nodes: Nodes) -> subprocess.Popen[bytes]:
    """The node that a process runs on."""
    return next(n for n in nodes.started if pid in [p.pid for p in psutil.Process(n.pid).children(recursive=True)])


def test_a_node_is_announced_lost_and_replaced(nodes, root, tmp_path, card):
    other = nodes.join()
    until("the second node", lambda: "Ray runtime started" in nodes.log(1).read_text())
    driver = Driver(tmp_path / "runs", nodes.address)
    try:
        stage = Stage(tmp_path, "elastic", STEPS, workers=[1, 2], checkpoint_every=50)
        driver.trains(stage)
        stage.reaches(60)
        assert stage.events("started")[0]["workers"] == 2
        drain = [RAY, "drain-node", f"--address={nodes.address}", f"--node-id={node_id(driver, nodes, other)}"]
        why = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=test", "--deadline-remaining-seconds=8"]
        subprocess.run([*drain, *why], env=nodes.env, check=True, capture_output=True)
        until("the checkpoint in time", lambda: stage.events("preempted"))
        at = time.time()
        nodes.kill(other)
        until("one worker", lambda: [e["workers"] for e in stage.events("started")][-1] == 1)
        until("its first step", lambda: stage.events("step")[-1]["time"] > stage.events("started")[-1]["time"])
        lost, seconds = stage.lost_and_seconds(at)
        card("a node of two is drained, then killed", "a checkpoint just in time; on with one worker", lost, seconds)
        at = time.time()
        nodes.join()
        until("two workers", lambda: [e["workers"] for e in stage.events("started")] == [2, 1, 2])
        until("their first step", lambda: stage.events("step")[-1]["time"] > stage.events("started")[-1]["time"])
        lost, seconds = stage.lost_and_seconds(at)
        card("a node comes back", "from its start on: the group is two workers again", lost, seconds)
        stage.reaches(stage.events("started")[-1]["at"] + 20)
    finally:
        driver.end()
    losses = [e["loss"] for e in stage.events("step")]
    assert [e["step"] for e in stage.events("step")] == list(range(len(losses)))
    calm = Driver(tmp_path / "runs")
    try:
        undisturbed = Stage(tmp_path, "undisturbed", STEPS, workers=1)
        calm.trains(undisturbed)
        undisturbed.reaches(len(losses))
    finally:
        calm.end()
    assert [e["loss"] for e in undisturbed.events("step")][: len(losses)] == pytest.approx(losses, rel=1e-5)


def node_id(driver: Driver, nodes: Nodes, other: subprocess.Popen[bytes]) -> str:
    """Ray's name for a node, from the command line of its raylet."""
    for process in psutil.Process(other.pid).children(recursive=True):
        for word in process.cmdline():
            if word.startswith("--node_id=") or word.startswith("--node-id="):
                return word.partition("=")[2]
    raise AssertionError("no raylet below the node")
