"""A command that Ray kills prints one line about it; one that ends by itself does not. No Ray."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest

from remora.cluster import watch
from remora.cluster.watch import LAST_WORDS, RECONNECT, patience, watched
from support.ports import free_port


@pytest.mark.parametrize("end", ["os.abort()", "os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_process_that_is_ended_at_once_has_last_words(end):
    said = ended(end)
    assert said.returncode and said.stderr.splitlines()[-1] == LAST_WORDS


@pytest.mark.parametrize("end", ["pass", "sys.exit(3)", "raise KeyboardInterrupt", "1 / 0"])
def test_one_that_ends_by_itself_has_none(end):
    assert LAST_WORDS not in ended(end).stderr


def ended(end):
    code = "import os, signal, sys\nfrom remora.cluster.watch import watched\nwith watched({}):\n    " + end
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_process_of_rays_that_died_ends_the_command_with_one_line(monkeypatch, capfd):
    monkeypatch.setattr(watch, "ASK_EVERY", 0.01)
    codes, called = [], threading.Event()

    def end(code):
        codes.append(code)
        called.set()

    with socket.create_server(("127.0.0.1", 0)) as head, socket.create_server(("127.0.0.1", 0)) as raylet:
        places = {name: f"127.0.0.1:{s.getsockname()[1]}" for name, s in (("the head", head), ("the raylet", raylet))}
        asked = []
        monkeypatch.setattr(
            watch, "alive", lambda address, slow, real=watch.alive: (asked.append(address), real(address))[1]
        )
        with watched({name: (place, 0.0) for name, place in places.items()}, end):
            while len(asked) < 6:
                assert not codes
                called.wait(0.01)
            raylet.close()
            assert called.wait(60)
    assert codes == [1]
    assert capfd.readouterr().err == f"remora: the raylet at {places['the raylet']} died; {watch.LOST}\n"


def test_a_head_may_be_away_for_a_while(monkeypatch):
    """A process that a supervisor restarts."""
    monkeypatch.setattr(watch, "ASK_EVERY", 0.01)
    asked = threading.Semaphore(0)
    monkeypatch.setattr(watch, "alive", lambda address, slow: asked.release())
    with watched({"the head": (f"127.0.0.1:{free_port()}", 1e9)}, lambda code: pytest.fail("ended")):
        assert all(asked.acquire(timeout=60) for _ in range(5))


@pytest.mark.parametrize(("said", "seconds"), [(None, 55.0), ("", 55.0), ("20", 15.0), ("3", 1.0)])
def test_patience_is_less_than_rays(said, seconds, monkeypatch):
    monkeypatch.delenv(RECONNECT, raising=False)
    if said is not None:
        monkeypatch.setenv(RECONNECT, said)
    assert patience() == seconds
