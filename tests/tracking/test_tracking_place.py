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
from remora.tracking import Run, Tracker, connection, fetch, register, version_info


def served(tracker, into, name="remora"):
    return fetch(tracker, version_info(tracker, name), into=into)


def made(tracker, text="one"):
    """A run with a text and a registered model of one file; its id."""
    run = Run(tracker.runs, key="variant/k", name="it", texts={"a.txt": text})
    with run:
        pass
    with publishing(tracker.runs / "bundles" / text) as tmp:
        (tmp / "weights").write_text(text)
    register(tracker, "m", run.key, tracker.runs / "bundles" / text)
    return version_info(tracker, "m")["run_id"]


def artifact(tracker, run, name="a.txt"):
    return tracker.runs / "mlruns" / run / "artifacts" / name


def test_a_copy_has_its_own_files_and_never_touches_the_first(empty_database, tmp_path):
    (tmp_path / "a").mkdir()
    shutil.copy(empty_database, tmp_path / "a" / "mlflow.db")
    first = Tracker(tmp_path / "a")
    run = made(first)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copied = Tracker(tmp_path / "b")
    place = served(copied, tmp_path / "c", "m")  # before anything was written there
    assert place.is_relative_to(tmp_path / "b") and (place / "weights").read_text() == "one"
    assert made(copied, "two") == run
    assert artifact(copied, run).read_text() == "two" and artifact(first, run).read_text() == "one"
    assert (served(first, tmp_path / "c", "m") / "weights").read_text() == "one"
    shutil.rmtree(tmp_path / "a")
    assert (served(copied, tmp_path / "c", "m") / "weights").read_text() == "two"
    # MLflow's own pages find the files, too.
    with copied.client() as client:
        assert len(client.list_artifacts(run)) == 3


def test_a_byte_is_stored_once(tracker):
    run = made(tracker)
    (registered,) = artifact(tracker, run, "").rglob("weights")
    assert registered.samefile(tracker.runs / "bundles" / "one" / "weights")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["a%b", "a%20b", "a?b", "a#b", "a b", "é", "a'b", "a;b&c"])
def test_any_name_of_the_run_folder(name, empty_database, tmp_path):
    (tmp_path / name).mkdir()
    shutil.copy(empty_database, tmp_path / name / "mlflow.db")
    tracker = Tracker(tmp_path / name)
    run = made(tracker)
    assert artifact(tracker, run).read_text() == "one"
    assert served(tracker, tmp_path / "c", "m").is_relative_to(artifact(tracker, run, ""))
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
def test_a_database_that_cannot_be_opened_is_one_line_and_stops_no_training(
    spoil, empty_database, tmp_path, capfd, runs_in
):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    spoil(tmp_path / "mlflow.db")
    notes = []
    with Tracker(tmp_path, note=notes.append), Run(tmp_path, key="variant/k", name="it") as run:
        run.note(metrics={"gqa": 1.0})
    (said,) = notes
    assert "\n" not in said and said.startswith("MLflow at sqlite:") and said.endswith("later: remora sync")
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
    assert mended.sync().written == 1 and mended.sync().written == 0
    assert runs_in(mended)["variant/k"].info.status == "FINISHED"


@pytest.mark.parametrize("spoil", ["a folder", "no right"])
def test_what_cannot_be_opened_is_known_without_mlflows_patience(spoil, tmp_path, monkeypatch):
    """MLflow tries ten times, twice as long each time: five minutes for the calls of one small run."""
    if spoil == "a folder":
        (tmp_path / "mlflow.db").mkdir()
    else:
        (tmp_path / "mlflow.db").write_text("")
        monkeypatch.setattr(connection.sqlite3, "connect", unopened)
    monkeypatch.setattr(connection, "_connect", lambda uri: pytest.fail("MLflow was asked"))
    with pytest.raises(TrackingError, match=r"MLflow at sqlite:.* mlflow\.db (is not a file|cannot be opened)"):
        Tracker(tmp_path).sync()


def unopened(*_, **__):
    raise sqlite3.OperationalError("unable to open database file")


def test_a_wrong_uri_is_one_line(tmp_path):
    for uri in ("nothing://x", "postgresql://nobody@127.0.0.1:9/x"):
        with pytest.raises(TrackingError) as e:
            Tracker(tmp_path, uri).sync()
        assert "\n" not in str(e.value)


@pytest.mark.slow
def test_a_locked_database_is_one_line_and_loses_nothing(tracker, capfd, runs_in):
    script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('BEGIN EXCLUSIVE')"
    script += "; print('locked', flush=True); input()"
    path = str(tracker.runs / "mlflow.db")
    holder = subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"locked\n"
        Run(tracker.runs, key="variant/k", name="it").keep()
        with pytest.raises(TrackingError, match="another process holds the database locked"):
            tracker.sync()
    finally:
        holder.communicate(b"\n")
    assert "Traceback" not in capfd.readouterr().err
    assert tracker.sync().written == 1 and runs_in(tracker)["variant/k"].info.status == "FINISHED"


def test_the_experiment_opens_as_model_training(tracker):
    tracker.sync()
    with tracker.client() as client:
        assert client.get_experiment_by_name("remora").tags["mlflow.experimentKind"] == "custom_model_development"
