"""The live view of a command in a child: however the child ends, its parent prints a line about it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from remora.commands import run
from remora.commands.options import Workplace
from remora.errors import WorkerError

ENDED = "(while kill -0 $$ 2>/dev/null; do :; done; sleep 0.5; echo 'remora: the head died; next: x') & "


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (ENDED + "echo '*** Stack trace'; kill -ABRT $$", "the head died; next: x"),
        (ENDED + "echo 'Failed to connect to GCS'; exit 1", "the head died; next: x"),
        ("echo working; kill -KILL $$", "ended by SIGKILL; its last line: working"),
    ],
)
def test_last_words_come_from_who_outlives_the_child(script, said, tmp_path, monkeypatch):
    """Ray's C++ ends a process without a line of ours; a shell that outlives it has one, a moment later."""
    monkeypatch.setattr(run, "remora_command", lambda *_: ["bash", "-c", script])
    with pytest.raises(WorkerError) as e:
        run.live(Workplace(tmp_path), "train", tmp_path / "x.yaml", "single", ["x"], Console(file=io.StringIO()))
    assert str(e.value).startswith(f"{said} (log: {tmp_path}/logs/train-")
