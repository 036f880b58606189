"""Real faults in a stage on two workers, which must end with every step once and the same losses."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import psutil
import pytest
from scene import STEPS, Driver, Stage, actors, until

pytestmark = pytest.mark.ray


@pytest.mark.faults  # tests/e2e/test_story.py kills one as well
def test_a_killed_worker(driver, root, calm, card):
    stage = Stage(root, "killed-worker")
    driver.trains(stage)
    stage.reaches(25)
    at = time.time()
    os.kill(stage.pid(1), signal.SIGKILL)
    assert driver.says() == "trained", driver.log.read_text()[-3000:]
    lost, seconds = stage.lost_and_seconds(at)
    assert stage.losses() == pytest.approx(calm, rel=1e-6)
    assert [e["at"] > 0 for e in stage.events("started")] == [False, True]
    card("kill -9 of one of two workers", "its group starts again at the last checkpoint", lost, seconds)


def test_sigterm_makes_a_checkpoint_at_once(driver, root, calm, card):
    stage = Stage(root, "sigterm", checkpoint_every=STEPS)  # only the one in time
    driver.trains(stage)
    stage.reaches(25)
    os.kill(stage.pid(1), signal.SIGTERM)
    until("the checkpoint", lambda: stage.events("preempted"))
    at = time.time()
    os.kill(stage.pid(1), signal.SIGKILL)
    assert driver.says() == "trained", driver.log.read_text()[-3000:]
    lost, seconds = stage.lost_and_seconds(at)
    (notice,) = stage.events("preempted")
    assert stage.events("started")[1]["at"] == notice["step"] + 1
    assert stage.losses() == pytest.approx(calm, rel=1e-6)
    card("SIGTERM, then kill -9", "a checkpoint just in time; its group starts again there", lost, seconds)


@pytest.mark.faults
def test_a_killed_controller(driver, root, calm, card):
    stage = Stage(root, "killed-controller")
    driver.trains(stage)
    stage.reaches(25)
    (controller,) = actors(driver, "TrainController")
    at = time.time()
    os.kill(controller, signal.SIGKILL)
    assert driver.says() == "trained", driver.log.read_text()[-3000:]
    lost, seconds = stage.lost_and_seconds(at)
    assert stage.losses() == pytest.approx(calm, rel=1e-6)
    card("kill -9 of Ray Train's controller", "the command starts another one", lost, seconds)


@pytest.mark.faults
def test_a_stopped_worker(driver, root, calm, card):
    stage = Stage(root, "stopped-worker")
    driver.trains(stage)
    stage.reaches(25)
    stopped = stage.pid(0)
    at = time.time()
    os.kill(stopped, signal.SIGSTOP)
    try:
        assert driver.says() == "trained", driver.log.read_text()[-3000:]
        lost, seconds = stage.lost_and_seconds(at)
        assert stage.losses() == pytest.approx(calm, rel=1e-6)
        until("the stopped worker to be killed", lambda: not _lives(stopped))
    finally:
        if _lives(stopped):
            os.kill(stopped, signal.SIGKILL)
    card("SIGSTOP of a worker (hangs)", "after 30 s without an answer its group starts again", lost, seconds)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.faults
def test_a_killed_command_goes_on_when_it_is_given_again(root, calm, card):
    first = Driver(root / "runs")
    stage = Stage(root, "killed-command")
    first.trains(stage)
    stage.reaches(25)
    worker = stage.pid(0)
    at = time.time()
    first.process.kill()
    until("Ray to end with it", lambda: not _lives(worker))
    first.stop()
    again = Driver(root / "runs")
    try:
        again.trains(stage)
        assert again.says() == "trained", again.log.read_text()[-3000:]
    finally:
        again.stop()
    lost, seconds = stage.lost_and_seconds(at)
    assert stage.losses() == pytest.approx(calm, rel=1e-6)
    card("kill -9 of the command, given again", "Ray ends with it; the next one resumes", lost, seconds)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mount: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.faults
def test_a_full_disk_stops_the_run_in_one_line_and_it_can_go_on(driver, root, calm, card, small_disk):
    stage = Stage(small_disk, "full-disk", max_failures=0)
    command = Driver(small_disk / "runs")
    try:
        command.trains(stage)
        stage.reaches(25)
        until("a checkpoint", lambda: stage.events("checkpoint"))
        with (small_disk / "ballast").open("wb", buffering=0) as f, contextlib.suppress(OSError):
            while f.write(b"\0" * 4096):
                pass
        said = command.says()
        at = time.time()
        assert "the disk is full; free or choose another" in said
        (small_disk / "ballast").unlink()
        command.trains(stage)
        assert command.says() == "trained", command.log.read_text()[-3000:]
    finally:
        command.stop()
    lost, _ = stage.lost_and_seconds(at)
    assert stage.losses() == pytest.approx(calm, rel=1e-6)
    card("a full disk", "one line; the same command resumes once there is room", lost, None)
