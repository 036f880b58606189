"""A wish to stop: it ends what a search's own process is at, and nothing once the search is over."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from remora.pipeline.search.stopping import stop_file, stoppable


@pytest.mark.parametrize("background", [False, True])
def test_it_ends_what_the_process_is_at(tmp_path: Path, background: bool) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if background else None  # as a shell's `&` does
    try:
        with pytest.raises(KeyboardInterrupt), stoppable(tmp_path):
            stop_file(tmp_path).touch()
            threading.Event().wait(60)
    finally:
        if before:
            signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_afterwards_nobody_is_interrupted(tmp_path: Path) -> None:
    with stoppable(tmp_path):
        pass
    stop_file(tmp_path).touch()
    assert not any(thread.name == "stop" for thread in threading.enumerate())


def test_in_another_thread_the_search_looks_itself(tmp_path: Path) -> None:
    met: list[BaseException] = []

    def work() -> None:
        try:
            with stoppable(tmp_path):
                stop_file(tmp_path).touch()
        except BaseException as e:  # noqa: BLE001
            met.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert not thread.is_alive() and not met
