"""A child is stopped with all its descendants, even those that left its session or ignore signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import count
from types import SimpleNamespace

import pytest

from remora import processes
from remora.carrier import pack
from remora.errors import DataError, WorkerError
from remora.processes import MARK, Child, marked, meanwhile, remora_command
from support.waiting import until


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a shell script and wait until it says `ready`. It counts polls, not seconds."""
    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=count(step=0.5).__next__, sleep=time.sleep))
    children = []

    def start(script: str, **env: str) -> Child:
        child = Child(["sh", "-c", script], tmp_path / "logs" / "child.log", env)
        children.append(child)
        until("`ready`", lambda: "ready" in child.log.read_text(errors="replace") or not child.running, 0.01)
        return child

    yield start
    for child in children:
        child.stop(grace=0)


def test_a_child_ends_at_a_polite_word(start):
    child = start('trap "echo interrupted; exit 0" INT; echo ready; while :; do sleep 0.05; done')
    assert child.running
    child.stop()
    assert not child.running and child.process.returncode == 0
    assert child.log.read_text().splitlines()[-1] == "interrupted"


@pytest.mark.slow
def test_a_grandchild_that_left_its_session_is_stopped_too(start):
    child = start("setsid sh -c 'setsid sleep 600 & echo ready; wait' & wait")
    # Its own session, and two that leave it.
    until("three sessions", lambda: len({os.getsid(pid) for pid in marked(child.mark)}) == 3, 0.01)
    child.stop()
    assert marked(child.mark) == [] and not child.running


@pytest.mark.slow
def test_who_ignores_every_polite_word_is_killed(start):
    child = start("trap '' INT TERM; setsid sh -c 'echo ready; while :; do sleep 0.05; done' & wait; sleep 600")
    stubborn = marked(child.mark)
    child.process.wait = lambda patience=None, wait=child.process.wait: wait(None if patience is None else 0.05)
    child.stop(grace=0.05)
    assert child.process.returncode == -signal.SIGKILL
    assert stubborn and marked(child.mark) == []


@pytest.mark.slow
def test_a_family_outlives_its_parent_until_it_is_stopped(start):
    child = start("setsid sleep 600 & echo ready")
    child.process.wait(20)
    assert len(marked(child.mark)) == 1
    child.stop()
    assert marked(child.mark) == []


def test_nobody_else_is_touched(start):
    child, other = start("echo ready; exec sleep 600"), start("echo ready; exec sleep 600")
    child.stop()
    assert other.running
    child.stop()  # a second time changes nothing
    assert os.environ.get(MARK) is None


def test_ctrl_c_reaches_only_the_parent(start):
    child = start("echo ready; exec sleep 600")
    assert os.getsid(child.process.pid) == child.process.pid != os.getsid(0)


def test_the_environment_is_ours_and_what_was_given(start, monkeypatch):
    monkeypatch.setenv("OURS", "1")
    child = start('echo "$OURS $GIVEN"; echo ready', GIVEN="2")
    assert child.log.read_text().startswith("1 2\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (f"echo remora: the rule; echo '{pack(DataError('the rule'))}'; echo noise", DataError("the rule")),
        ("echo one; echo two >&2", WorkerError("two (log: {log})")),
        ("true", WorkerError("it printed nothing (log: {log})")),
        (r"printf '\377\n'", WorkerError("\ufffd (log: {log})")),
        ("echo working; kill -9 $$", WorkerError("ended by SIGKILL; its last line: working (log: {log})")),
    ],
)
def test_its_last_words_are_its_error(script, said, start):
    child = start(script)
    child.process.wait(20)
    error = child.error()
    assert type(error) is type(said) and str(error) == str(said).format(log=child.log)


def test_another_remora_runs_in_the_same_environment():
    assert remora_command("plan", "x.yaml") == [sys.executable, "-m", "remora", "plan", "x.yaml"]


def test_a_peak_is_counted_anew_after_it_is_forgotten():
    code = (
        "from remora.processes import forget_peak, peak_memory\n"
        "held = bytearray(300 << 20); before = peak_memory(); del held\n"
        "forget_peak(); print(before - peak_memory() > 200 << 20)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_look_is_repeated_until_it_returns_true():
    looks: list[bool] = []

    def look() -> bool:
        looks.append(True)
        return len(looks) == 3

    with meanwhile(look, 0.001, "looks"):
        until("the thread ends", lambda: not named("looks"))
    assert len(looks) == 3


def test_looks_end_with_the_block_even_if_it_raises():
    looks: list[bool] = []
    with pytest.raises(KeyError), meanwhile(lambda: looks.append(True), 0.001, "looks"):
        until("two looks", lambda: len(looks) > 1)
        raise KeyError
    assert not named("looks")


def named(thread: str) -> bool:
    return any(each.name == thread for each in threading.enumerate())
