"""Leftovers of killed commands are distinguished from work in progress, and swept by the next user or `remora runs
gc`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from remora.cli import main
from remora.files import copy, exclusive, publishing, scratch
from remora.runs.leftovers import attempt, delete, leftovers


@pytest.fixture
def killed():
    """Run a script in another process until it says it is at work, then kill it."""

    def run(script, *args):
        command = [sys.executable, "-c", script + "\nprint('at work', flush=True); input()", *map(str, args)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"at work\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()

    return run


HALF = """
import sys
from pathlib import Path
from remora.files import publishing
half = publishing(Path(sys.argv[1]))
(half.__enter__() / "weights").write_text("half")
"""


def test_a_writer_that_lives_is_left_alone_and_a_killed_one_is_swept_by_the_next(tmp_path, killed):
    (tmp_path / "bundles").mkdir()
    with scratch(tmp_path / "bundles" / "mine") as mine:
        killed(HALF, tmp_path / "bundles" / "it")
        (found,) = leftovers(tmp_path)
        assert found.path.name.startswith(".it.") and found.bytes == 4
        with publishing(tmp_path / "bundles" / "it") as tmp:
            (tmp / "weights").write_text("whole")
        assert sorted(p.name for p in (tmp_path / "bundles").iterdir()) == sorted([mine.name, "it"])


def test_an_old_one_goes_back_where_nothing_took_its_place(tmp_path):
    old = tmp_path / "stages" / ".it.old-0123abcd"
    old.mkdir(parents=True)
    (found,) = leftovers(tmp_path)
    delete(found)
    assert (tmp_path / "stages" / "it").is_dir() and not list(leftovers(tmp_path))


@pytest.mark.parametrize("place", ["data/index/words-1/abc", "cache/weights/it-int8", "cards/it", "scores/it"])
def test_a_deletion_that_was_killed_is_ended_wherever_it_was(tmp_path, place):
    half = tmp_path / place
    half = half.with_name(f".{half.name}.0123abcd")
    half.mkdir(parents=True)
    (found,) = leftovers(tmp_path)
    delete(found)
    assert found.path == half and not half.exists()


def test_what_is_not_ours_is_not_swept(tmp_path):
    for name in (".git", ".it.backup", "it.0123abcd", ".tracking-start.lock"):
        (tmp_path / "stages" / name).mkdir(parents=True)
    (tmp_path / "stages" / "it.work").mkdir()  # not published: a resume needs it
    assert not list(leftovers(tmp_path))


def test_gc_names_what_it_would_delete_then_deletes_it(tmp_path, capsys):
    with publishing(tmp_path / "stages" / "it") as tmp:
        (tmp / "weights").write_text("whole")
    for name in ("stages/it.work", "stages/it.torn-1", "ray/it-0123abcd", "bundles/.it.0123abcd"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(bytes(1_000_000))
    copy(tmp_path / "stages" / "it" / "weights", tmp_path / "stages" / "it.work" / "weights")
    gc = ["runs", "gc", "--leftovers", "--runs", str(tmp_path)]
    main(gc)
    said = capsys.readouterr().out
    assert "4 things, would free 4.0 MB" in said and str(tmp_path / "ray/it-0123abcd") in said
    assert (tmp_path / "stages/it.work").exists()
    main([*gc, "--yes"])
    assert "4 things, freed 4.0 MB" in capsys.readouterr().out
    main(gc)
    assert "nothing to delete" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "stages").iterdir()] == ["it"]


def test_the_work_of_a_run_that_is_held_stays(tmp_path):
    with publishing(tmp_path / "stages" / "it"):
        pass
    (tmp_path / "stages" / "it.work").mkdir()
    with exclusive(tmp_path / "stages" / "it.lease"):
        assert not list(leftovers(tmp_path))
    assert len(list(leftovers(tmp_path))) == 1


def test_rays_folder_of_an_attempt_goes_when_it_ends_well_else_with_the_next_one(tmp_path):
    with pytest.raises(ZeroDivisionError), attempt(tmp_path, "first") as folder:
        folder.mkdir()
        raise ZeroDivisionError
    assert folder.is_dir()
    with attempt(tmp_path, "second") as second:
        assert not folder.exists()
        second.mkdir()
        with attempt(tmp_path, "third"):
            assert second.is_dir()  # at work
    assert list((tmp_path / "ray").iterdir()) == []


def test_a_missing_run_folder_is_not_made(tmp_path):
    with pytest.raises(SystemExit, match="there is no run folder"):
        main(["runs", "gc", "--runs", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()
