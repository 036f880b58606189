"""TensorBoard's event files: what a stage run's journal says, each point once, only where somebody wants them."""

from __future__ import annotations

import math
import struct
import subprocess
import sys

import pytest

from remora.cli import main
from remora.tracking import Run, Tracker
from remora.tracking.board import FOLDER, Board
from remora.training import journal


def points(folder):
    """(tag, step, value, seconds) of all event files of a folder, in order: a length, 4 bytes, an event, 4 bytes."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.glob("events.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(v.tag, event.step, v.simple_value, event.wall_time) for v in event.summary.value]
            at += 16 + length
    return found


def step(file, number, **more):
    file.parent.mkdir(parents=True, exist_ok=True)
    journal.append(file, "step", **{"step": number, "loss": 2.0 / (number + 1), **more})


def validated(file, number, loss):
    said = {"step": number, "loss": loss, "samples_seen": 8, "share": 0.5, "of": "x"}
    journal.append(file, "validation", **said)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "stages" / "align-0123.work" / journal.JOURNAL


def test_a_journal_becomes_points_each_once_and_a_resumed_stage_repeats_none(tmp_path, file):
    (tmp_path / FOLDER).mkdir()
    step(file, 0, lr={"llm": 1e-3})
    board = Board(tmp_path)
    assert (board.write(), board.write()) == (1, 0)
    step(file, 1)
    validated(file, 1, 1.5)
    board.write()
    board.close()
    journal.take_over(file, 1)  # step 1 is taken again
    step(file, 1)
    validated(file, 1, math.nan)
    step(file, 2)
    again = Board(tmp_path)
    assert again.write() == 1
    again.close()
    said = points(tmp_path / FOLDER / "align-0123")
    assert sorted(at for tag, at, *_ in said if tag == "train/loss") == [0, 1, 2]
    assert [v for tag, _, v, _ in said if tag == "train/lr.llm"] == [pytest.approx(1e-3)]
    twice = [v for tag, at, v, _ in said if (tag, at) == ("val/loss", 1)]
    assert len(twice) == 2 and 1.5 in twice and any(map(math.isnan, twice))  # one that was made again is told again
    written = [e["time"] for e in journal.read(file) if e["event"] == "step" and e["step"] == 2]
    assert [at for tag, n, _, at in said if (tag, n) == ("train/loss", 2)] == [pytest.approx(written[0], abs=0.01)]


def test_without_the_folder_nothing_is_written_and_nothing_is_loaded(tmp_path, file):
    step(file, 0)
    code = f"""
import sys
from pathlib import Path
from remora.tracking.board import Board
assert Board(Path({str(tmp_path)!r})).write() == 0
assert "tensorboardX" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not (tmp_path / FOLDER).exists()


def test_every_command_writes_them_once_the_folder_is_there(tracker, file, capsys):
    step(file, 0)
    Run(tracker.runs, key="variant/x/alone", name="base-C-TL-mlp").keep()
    Run(tracker.runs, key="stage/x", name="align-0123", stage="align-0123", parent="variant/x/alone").keep()
    main(["sync", "--tensorboard", "--runs", str(tracker.runs)])
    assert "TensorBoard: 1 stage run brought up to date; next: tensorboard --logdir" in capsys.readouterr().out
    step(file, 1)
    Run(tracker.runs, key="variant/x/alone", name="renamed").keep()
    with Tracker(tracker.runs):
        pass
    place = tracker.runs / FOLDER / "base-C-TL-mlp" / "align-0123"  # who it was trained for, and it stays there
    assert sorted(at for tag, at, *_ in points(place) if tag == "train/loss") == [0, 1]
    assert [p.parent for p in (tracker.runs / FOLDER).rglob("written.json")] == [place]
