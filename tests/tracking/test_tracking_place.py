"""A run folder that is moved, copied, oddly named, locked or spoilt: its record follows it, a failure is one line."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from remora.errors import TrackingError
from remora.files import publishing
from remora.tracking import Tracker, champion, connection, register
from remora.training import journal


def made(tracker, text="one"):
    """A run with a text and a registered model of one file."""
    run = tracker.start("it", key="k")
    tracker.text(run, text, "a.txt")
    with publishing(tracker.runs / "bundles" / text) as tmp:
        (tmp / "weights").write_text(text)
    register(tracker, "m", run, tracker.runs / "bundles" / text)
    return tracker.real(run)


def artifact(tracker, run, name="a.txt"):
    return tracker.runs / "mlruns" / run / "artifacts" / name


def test_a_copy_has_its_own_files_and_never_touches_the_first(empty_database, tmp_path):
    (tmp_path / "a").mkdir()
    shutil.copy(empty_database, tmp_path / "a" / "mlflow.db")
    first = Tracker(tmp_path / "a")
    run = made(first)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copied = Tracker(tmp_path / "b")
    place = champion(copied, "m", into=tmp_path / "c")  # before anything was written there
    assert place.is_relative_to(tmp_path / "b") and (place / "weights").read_text() == "one"
    copied.text(run, "two", "a.txt")
    copied.artifacts(run, tmp_path / "b" / "bundles" / "one", "again")
    with publishing(tmp_path / "b" / "bundles" / "two") as tmp:
        (tmp / "weights").write_text("two")
    register(copied, "m", run, tmp_path / "b" / "bundles" / "two")
    assert artifact(copied, run).read_text() == "two" and artifact(first, run).read_text() == "one"
    assert champion(first, "m", into=tmp_path / "c") == artifact(first, run, "model")
    assert not artifact(first, run, "again").exists()
    shutil.rmtree(tmp_path / "a")
    assert (champion(copied, "m", into=tmp_path / "c") / "weights").read_text() == "two"
    # MLflow's own pages find the files, too.
    with copied.client() as client:
        assert {f.path for f in client.list_artifacts(run)} >= {"a.txt", "again", "model"}


def test_a_byte_is_stored_once(tracker):
    run = made(tracker)
    files = [tracker.runs / "bundles" / "one" / "weights", artifact(tracker, run, "model/weights")]
    assert files[0].samefile(files[1])
    tracker.artifacts(run, files[0].parent, "model")  # again, over itself
    assert files[1].read_text() == "one"


@pytest.mark.parametrize("name", ["a%b", "a%20b", "a?b", "a#b", "a b", "é", "a'b", "a;b&c"])
def test_any_name_of_the_run_folder(name, empty_database, tmp_path):
    (tmp_path / name).mkdir()
    shutil.copy(empty_database, tmp_path / name / "mlflow.db")
    tracker = Tracker(tmp_path / name)
    run = made(tracker)
    assert artifact(tracker, run).read_text() == "one"
    assert champion(tracker, "m", into=tmp_path / "c") == artifact(tracker, run, "model")
    assert [p.name for p in tmp_path.iterdir()] == [name]  # nothing beside it


SPOILT = {
    "no database": lambda path: path.write_bytes(b"no database" * 100),
    "cut": lambda path: os.truncate(path, 5000),
    "newer": lambda path: version(path, "ffffffffffff"),
    "older": lambda path: version(path, "451aebb31d03"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


def version(path, name):
    with sqlite3.connect(path) as asked:
        asked.execute("UPDATE alembic_version SET version_num = ?", (name,))
    asked.close()


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_database_that_cannot_be_opened_is_one_line_and_stops_no_training(spoil, empty_database, tmp_path, capfd):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    spoil(tmp_path / "mlflow.db")
    with pytest.raises(TrackingError) as e:
        Tracker(tmp_path).prepare()
    assert "\n" not in str(e.value) and "MLflow at sqlite:" in str(e.value)
    tracker = Tracker(tmp_path)
    run = tracker.start("it", key="k")
    tracker.steps(run, [(0, 0, {"loss": 1.0})])
    tracker.finish(run)
    assert len((tmp_path / "tracking-backlog.jsonl").read_text().splitlines()) == 3
    assert not (tmp_path / "tracking-rejected.jsonl").exists()
    assert "Traceback" not in capfd.readouterr().err
    # Mended, all of it is written.
    with sqlite3.connect(empty_database) as asked:
        (right,) = asked.execute("SELECT version_num FROM alembic_version").fetchone()
    asked.close()
    if spoil in (SPOILT["newer"], SPOILT["older"]):
        version(tmp_path / "mlflow.db", right)
    else:
        (shutil.rmtree if (tmp_path / "mlflow.db").is_dir() else os.unlink)(tmp_path / "mlflow.db")
        shutil.copy(empty_database, tmp_path / "mlflow.db")
    mended = Tracker(tmp_path)
    mended.prepare()
    assert mended.last_step(run) == 0 and mended.finished("k")


@pytest.mark.parametrize("spoil", ["a folder", "no right"])
def test_what_cannot_be_opened_is_known_without_mlflows_patience(spoil, tmp_path, monkeypatch):
    """MLflow tries ten times, twice as long each time: five minutes for the calls of one small run."""
    if spoil == "a folder":
        (tmp_path / "mlflow.db").mkdir()
    else:
        (tmp_path / "mlflow.db").write_text("")
        monkeypatch.setattr(connection.sqlite3, "connect", unopened)
    monkeypatch.setattr(connection, "_connect", lambda uri: pytest.fail("MLflow was asked"))
    with pytest.raises(TrackingError, match=r"MLflow at sqlite:.* mlflow\.db (is no file|cannot be opened)"):
        Tracker(tmp_path).prepare()


def unopened(*_, **__):
    raise sqlite3.OperationalError("unable to open database file")


def test_a_wrong_uri_is_one_line(tmp_path):
    for uri in ("nothing://x", "postgresql://nobody@127.0.0.1:9/x"):
        with pytest.raises(TrackingError) as e:
            Tracker(tmp_path, uri).prepare()
        assert "\n" not in str(e.value)
        Tracker(tmp_path, uri).start("it", key=uri)
    assert len((tmp_path / "tracking-backlog.jsonl").read_text().splitlines()) == 2


def test_a_locked_database_costs_seconds_says_one_line_and_loses_nothing(tracker, capfd):
    script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('BEGIN EXCLUSIVE')"
    script += "; print('locked', flush=True); input()"
    path = str(tracker.runs / "mlflow.db")
    holder = subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"locked\n"
        other = Tracker(tracker.runs)
        with pytest.raises(TrackingError, match="another process holds the database locked"):
            other.prepare()
        run = other.start("it", key="k")
        other.metrics(run, {"loss": 1.0})
        other.finish(run)
        assert run.startswith("pending-")
    finally:
        holder.communicate(b"\n")
    assert "Traceback" not in capfd.readouterr().err
    assert other.replay() == 0 and other.finished("k")


def test_a_server_that_forgot_everything_is_told_again(tracker, empty_database, points):
    work = tracker.runs / "stages" / "one-0123.work"
    work.mkdir(parents=True)
    for step in range(3):
        journal.append(work / journal.JOURNAL, "step", step=step, loss=1.0 / (step + 1))
    parent = tracker.start("search", key="p")
    run = tracker.start("one-0123", key="s", parent=parent, tags={"remora.kind": "stage"}, params={"lr": 1})
    tracker.text(run, "hello", "a.txt")
    tracker.steps(run, [(s, 0, {"loss": 1.0 / (s + 1)}) for s in range(3)])
    shutil.copy(empty_database, tracker.runs / "mlflow.db")
    tracker.server._client = None  # a new connection, as to a server that was started again
    tracker.metrics(run, {"score": 0.5})
    tracker.finish(run)
    again = Tracker(tracker.runs)
    again.prepare()
    new = again.finished("s")
    assert new and new != run
    assert points(again, new) == [(0, 1.0), (1, 0.5), (2, 1 / 3)] and points(again, new, "score") == [(0, 0.5)]
    with again.client() as client:
        data = client.get_run(new).data
        assert (
            data.params == {"lr": "1"} and (again.runs / "mlruns" / new / "artifacts" / "a.txt").read_text() == "hello"
        )
        mother = client.get_run(data.tags["mlflow.parentRunId"])
    assert mother.data.tags["remora.key"] == "p"
    assert not (tracker.runs / "tracking-rejected.jsonl").exists()


def test_the_experiment_opens_as_model_training(tracker):
    with tracker.client() as client:
        assert client.get_experiment_by_name("remora").tags["mlflow.experimentKind"] == "custom_model_development"
