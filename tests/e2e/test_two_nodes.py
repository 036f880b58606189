"""Two nodes with a network between them: two network namespaces of this machine, joined by a virtual cable.

A node is a raylet of one CPU, so each has one of the two workers, and their messages cross the cable.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from remora import catalog
from remora.model.llm import create_from_scratch
from support.standins import small_llm
from support.tiny import write_records
from support.waiting import PATIENCE, until

pytestmark = pytest.mark.ray
DRIVER = Path(__file__).with_name("two_nodes.py")
HEAD, OTHER, PORT = "10.77.0.1", "10.77.0.2", 6379


def ip(*args: str) -> str:
    """What `ip` prints; the test is skipped where it may not do this."""
    try:
        return subprocess.run(["ip", *args], check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        pytest.skip("network namespaces: no `ip` here (iproute2)")
    except subprocess.CalledProcessError as e:
        pytest.skip(f"network namespaces: `ip {' '.join(args)}`: {e.stderr.strip()}")


@dataclass
class Node:
    """One end of the cable."""

    name: str
    address: str
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, command: list[str], env: dict[str, str], log: Path) -> subprocess.Popen[str]:
        with log.open("w") as out:
            inside = ["ip", "netns", "exec", self.name, *command]
            self.started.append(subprocess.Popen(inside, env=env, stdout=out, stderr=subprocess.STDOUT, text=True))
        return self.started[-1]

    def sent(self) -> int:
        """Bytes that it sent over the cable."""
        (link,) = json.loads(ip("-n", self.name, "-s", "-j", "link", "show", "eth0"))
        return link["stats64"]["tx"]["bytes"]

    def stop(self) -> None:
        """End the processes inside; nothing else ends them."""
        while pids := subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout.split():
            for pid in pids:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.1)
        for process in self.started:
            process.wait()


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    made = [Node(f"remora-{os.getpid()}-{i}", address) for i, address in enumerate((HEAD, OTHER))]
    try:
        for node in made:
            ip("netns", "add", node.name)
        ip("link", "add", "eth0", "netns", made[0].name, "type", "veth", "peer", "name", "eth0", "netns", made[1].name)
        for node in made:
            ip("-n", node.name, "address", "add", f"{node.address}/24", "dev", "eth0")
            ip("-n", node.name, "link", "set", "lo", "up")
            ip("-n", node.name, "link", "set", "eth0", "up")
        yield made[0], made[1]
    finally:
        for node in made:
            node.stop()
            subprocess.run(["ip", "netns", "delete", node.name], check=False, capture_output=True)


def prepared(root: Path) -> dict[str, str]:
    """Two run folders with the same few records, a catalog with a small language model; the environment for both."""
    own = root / "catalog"
    own.mkdir()
    llm = small_llm(catalog.llm("tinyllama-1.1b-chat"))
    create_from_scratch(llm, ["USER: What is number 1? ASSISTANT: thing 1, too"] * 4, 0, root / "llama")
    entry = {"tiny-llama": llm.model_dump(mode="json") | {"short": "tL", "hub": str(root / "llama")}}
    (own / "llm.yaml").write_text(yaml.safe_dump(entry))
    for runs in ("alone", "together"):
        for dataset in catalog.entries("datasets").values():
            write_records(root / runs / "data", dataset.path, dataset.images, count=6)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "REMORA_"))}
    return kept | {
        "REMORA_CATALOG": str(own),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "disabled",
        # By default gloo looks up the host's name, which is the same at both ends, and each would talk to itself.
        "GLOO_SOCKET_IFNAME": "eth0",
    }


def finished(process: subprocess.Popen[str], log: Path) -> list[list[list[float]]]:
    process.wait(PATIENCE)
    assert process.returncode == 0, log.read_text()[-3000:]
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("[[")]


def test_two_nodes_learn_what_one_process_does(nodes, tmp_path) -> None:
    head, other = nodes
    env = prepared(tmp_path)
    one = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "LOCAL_RANK": "0"}
    command, log = [sys.executable, "-W", "ignore", str(DRIVER)], tmp_path / "alone.log"
    alone = {k: v for k, v in env.items() if k != "GLOO_SOCKET_IFNAME"} | one | {"WORLD_SIZE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen([*command, str(tmp_path / "alone"), "alone"], env=alone, stdout=out, stderr=out)
    expected = finished(process, log)

    ray = [str(Path(sys.executable).with_name("ray")), "start", "--num-cpus=1", "--object-store-memory=100000000"]
    scratch = tempfile.mkdtemp(prefix="r2n", dir="/tmp")  # Ray's sockets: their path may have 107 letters
    first = [*ray, "--head", f"--port={PORT}", f"--temp-dir={scratch}", "--include-dashboard=false", "--block"]
    try:
        raylet = head.start([*first, f"--node-ip-address={HEAD}"], env, tmp_path / "head.log")
        ask = ["ip", "netns", "exec", head.name, "bash", "-c", f"exec 3<>/dev/tcp/{HEAD}/{PORT}"]

        def answers() -> bool:
            assert raylet.poll() is None, (tmp_path / "head.log").read_text()
            return subprocess.run(ask, capture_output=True, check=False).returncode == 0

        until("the head", answers)
        address = f"{HEAD}:{PORT}"
        other.start(
            [*ray, f"--address={address}", f"--node-ip-address={OTHER}", "--block"], env, tmp_path / "other.log"
        )
        before, log = other.sent(), tmp_path / "together.log"
        got = finished(head.start([*command, str(tmp_path / "together"), address], env, log), log)
        crossed = other.sent() - before
    finally:
        head.stop()
        other.stop()
        shutil.rmtree(scratch, ignore_errors=True)
    assert [len(stage) for stage in got] == [3, 3]
    for steps, whole in zip(got, expected, strict=True):
        for step, other_step in zip(steps, whole, strict=True):
            assert step == pytest.approx(other_step, rel=1e-5)
    # 48 MB when measured: ZeRO 3 gathers the encoder for every pass.
    assert crossed > 10e6, crossed
