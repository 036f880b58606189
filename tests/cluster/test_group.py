"""The actors of a worker group, and how its CPUs are freed; real Ray Train."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

import httpx
import psutil
import pytest
import ray

from remora.cluster.cleaner import NAMESPACE
from remora.cluster.session import _processes, ray_session
from remora.cluster.watch import alive
from remora.processes import Child
from support.ports import free_port
from support.waiting import PATIENCE, until

pytestmark = pytest.mark.ray
CURRENT = Path("/tmp/ray/ray_current_cluster")
"""Where `ray start` writes which cluster is this machine's."""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with ray_session(dashboard=False):
        yield


@pytest.mark.faults  # minutes, and Ray's C++ has ended the process that drives it where heads come and go
def test_another_cluster_on_the_machine_frees_nobody_and_a_dead_controller_is_noticed_without_a_dashboard(tmp_path):
    running = threading.Thread(target=ends_with_its_controller, args=(tmp_path,), daemon=True)
    running.start()
    until("the worker", (tmp_path / "began").exists)
    # One a group; a machine under load may have needed several tries to start it.
    looked = ray.get_actor(named("cleaner-")[-1]["name"], NAMESPACE).looked
    with another_cluster(tmp_path):
        before = ray.get(looked.remote())
        until("the controller to be asked", lambda: ray.get(looked.remote()) >= before + 3)
    assert (tmp_path / "began").read_text() == "once\n"

    def free():
        return ray.available_resources().get("CPU", 0) == ray.cluster_resources()["CPU"]

    assert not free()
    (controller,) = actors("TrainController")
    os.kill(controller, signal.SIGKILL)
    running.join(PATIENCE)
    until("the worker's CPU", free)
    until("the cleaner's end", lambda: not named("cleaner-"))


def test_a_session_knows_what_it_cannot_do_without():
    """Both at once: a name of Ray's that changes would leave one of them unwatched."""
    found = _processes(None)
    assert [name.rpartition(" ")[2] for name in found] == ["(GCS)", "(raylet)"]
    assert all(alive(place) for place, _ in found.values())
    assert _processes("ray://head:10001") == {}


def named(start=""):
    """Actors whose names begin with it."""
    return [a for a in ray.util.list_named_actors(all_namespaces=True) if a["name"].startswith(start)]


def actors(name):
    """Processes of this cluster's actors of a class: Ray writes the class into their title."""
    below = psutil.Process().children(recursive=True)
    return [p.pid for p in below if f"ray::{name}" in " ".join(p.cmdline())]


def ends_with_its_controller(folder):
    def work():
        with (folder / "began").open("a") as f:
            f.write("once\n")
        threading.Event().wait()

    with pytest.raises(ray.exceptions.RayActorError):
        fit(work, folder)


def fit(work, folder):
    """Run one worker that does this."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from remora.cluster.group import Group

    DataParallelTrainer(
        work,
        backend_config=Group(on_gpus=False, timeout_s=60),
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name="it", storage_path=str(folder)),
    ).fit()


@contextlib.contextmanager
def another_cluster(folder):
    """`ray start --head` as in the README, on separate ports; it is up when its dashboard answers."""
    port, dashboard, agent, client = (free_port() for _ in range(4))
    options = [f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    options += [f"--ray-client-server-port={client}", "--num-cpus=1", "--object-store-memory=100000000", "--block"]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", *options]
    node = Child(command, folder / "another.log")
    try:
        until("another cluster", lambda: not node.running or (answers(dashboard) and current().endswith(f":{port}")))
        assert node.running, node.error()
        yield
    finally:
        node.stop()
        CURRENT.unlink(missing_ok=True)


def current():
    return CURRENT.read_text().strip() if CURRENT.exists() else ""


def answers(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/version", trust_env=False, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
