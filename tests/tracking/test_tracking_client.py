"""Runs, figures and files reach a real sqlite MLflow; what cannot reach a server waits and arrives once."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ports import free_port
from remora.errors import TrackingError
from remora.tracking import Input, Mirror, Tracker, champion, figures, link, register
from remora.tracking.backlog import BACKLOG, REJECTED
from remora.tracking.connection import Refused, Unreachable


def run_of(tracker, run_id):
    with tracker.client() as client:
        return client.get_run(tracker.real(run_id))


def all_runs(tracker):
    with tracker.client() as client:
        return client.search_runs([tracker.server.open()])


class Outage:
    """MLflow's client while the server is away: calls fail, or only calls of one name, or their answers are lost."""

    def __init__(self, client, only=None, arrives=False):
        self.client, self.only, self.arrives, self.calls = client, only, arrives, 0

    def __getattr__(self, name):
        from mlflow.exceptions import MlflowException

        def call(*args, **kwargs):
            self.calls += 1
            if self.arrives:
                getattr(self.client, name)(*args, **kwargs)
            raise MlflowException("API request failed with exception [Errno 111] Connection refused")

        return call if self.only in (None, name) else getattr(self.client, name)


@pytest.fixture
def outage(tracker):
    """Call it to take the server away, call what it returns to bring it back."""

    def begin(**kwargs):
        real = tracker.server._client
        tracker.server._client = Outage(real, **kwargs)

        def end():
            tracker.server._client = real
            tracker._delivery._rest_until = 0.0

        return end

    return begin


def test_importing_the_room_does_not_import_mlflow():
    code = "import sys, remora.tracking; sys.exit('mlflow' in sys.modules or 'sqlalchemy' in sys.modules)"
    source = str(Path(__file__).parents[2] / "platform")
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": source}).returncode == 0


def test_everything_stays_in_the_run_folder(tracker, tmp_path, monkeypatch):
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    other = pickle.loads(pickle.dumps(tracker))  # as a Ray worker gets it
    run = other.start("a", key="k")
    other.text(run, "hello", "notes/a.txt")
    assert (other.uri, other.runs) == (tracker.uri, tracker.runs)
    assert not list(elsewhere.iterdir())
    assert (tmp_path / "mlruns" / run / "artifacts/notes/a.txt").read_text() == "hello"


def test_a_relative_sqlite_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Tracker(tmp_path, "sqlite:///a.db").uri == f"sqlite:///{tmp_path}/a.db"
    assert Tracker(Path("runs"), "http://there:5000").runs == tmp_path / "runs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    assert Tracker(tmp_path).uri == "http://there:5000"


def test_one_run_a_key(tracker):
    parent = tracker.start("search")
    run = tracker.start("share", parent=parent, key="it's 1", tags={"host": "a"}, params={"lr": {"llm": 1e-3}, "n": 2})
    tracker.finish(run, "FAILED")
    assert run_of(tracker, run).info.status == "FAILED"
    again = pickle.loads(pickle.dumps(tracker)).start(
        "share", parent=parent, key="it's 1", tags={"host": "b"}, params={"lr": {"llm": 2e-3}, "n": 2, "new": None}
    )
    found = run_of(tracker, run)
    assert again == run
    assert found.info.status == "RUNNING"
    assert found.data.params == {"lr.llm": "0.001", "n": "2", "new": "None"}
    assert found.data.tags["remora.changed.lr.llm"] == "0.002"
    assert "remora.changed.n" not in found.data.tags
    assert found.data.tags["host"] == "b"
    assert found.data.tags["mlflow.parentRunId"] == parent
    assert tracker.start("share", key="other") != run
    assert len({tracker.start("no key"), tracker.start("no key")}) == 2


def test_finished_names_only_a_run_that_ended_well(tracker, outage):
    assert tracker.finished("k") is None
    run = tracker.start("a", key="k")
    assert tracker.finished("k") is None
    tracker.finish(run, "FAILED")
    assert tracker.finished("k") is None
    tracker.finish(run)
    assert tracker.finished("k") == run
    outage()
    assert tracker.finished("k") is None


def test_figures_files_and_tags(tracker, tmp_path, points):
    run = tracker.start("a")
    tracker.metrics(run, {"gqa": {"accuracy": 0.5}, "n": 3, "ok": True, "text": "x", "bad:name//": 1, "nan": math.nan})
    tracker.metrics(run, {"loss": 2.0}, step=7)
    folder = tmp_path / "folder"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "a.txt").write_text("A")
    tracker.artifacts(run, folder, "out")
    tracker.tag(run, "remora.note", "x" * 9000)
    tracker.finish(run)
    found = run_of(tracker, run)
    values = found.data.metrics
    assert math.isnan(values.pop("nan"))
    assert values == {"gqa.accuracy": 0.5, "n": 3.0, "bad_name": 1.0, "loss": 2.0}
    assert points(tracker, run) == [(7, 2.0)]
    assert len(found.data.tags["remora.note"]) == figures.TAG_LIMIT
    assert found.info.status == "FINISHED"
    assert (tmp_path / "mlruns" / run / "artifacts/out/in/a.txt").read_text() == "A"
    assert not (tmp_path / BACKLOG).exists()


def test_links_name_runs_by_their_keys_and_wait_with_them(tracker, outage):
    run = tracker.start("a", key="k")
    end = outage()
    other = tracker.start("b", key="search/it's (1)/x y", tags={"note": f"after {link('a', 'k')}"})
    tracker.tag(run, "note", f"{link('b', 'search/it' + chr(39) + 's (1)/x y')}, {link('nobody', 'none')} and [c](d)")
    end()
    assert tracker.replay() == 0
    first, second = run_of(tracker, run), run_of(tracker, other)
    pages = f"#/experiments/{first.info.experiment_id}/runs"
    assert first.data.tags["note"] == f"[b]({pages}/{second.info.run_id}), nobody and [c](d)"
    assert second.data.tags["note"] == f"after [a]({pages}/{run})"


def test_what_a_run_reads_is_named_once(tracker, outage):
    run = tracker.start("a", key="k")
    read = Input("n" * 600, "d" * 64, "data/x.json", "training", {"records": 5})
    tracker.inputs(run, [read])
    end = outage()
    tracker.inputs(run, [read, Input("other", "e" * 64, "https://x/y.tar", "training")])
    end()
    assert tracker.replay() == 0
    found = {i.dataset.name: i for i in run_of(tracker, run).inputs.dataset_inputs}
    assert len(found) == 2 and len(run_of(tracker, run).inputs.dataset_inputs) == 2
    (long,) = (i for name, i in found.items() if name != "other")
    assert (long.dataset.digest, long.dataset.profile) == ("d" * 36, '{"records": 5}')
    assert json.loads(long.dataset.source) == {"uri": "data/x.json"} and long.tags[0].value == "training"
    tracker.inputs(run, [])
    assert not (tracker.runs / REJECTED).exists()


def test_names_and_values_that_mlflow_refuses_are_made_acceptable(tracker):
    long = "k" * 300
    params = {"x" * 7000: 1, long + "a": 1, long + "b": 2, "../a//b": "v" * 7000, "läuft?": [1, {"a": None}], "e": {}}
    params |= {f"p{i}": "ü" * 7000 for i in range(60)}
    run = tracker.start("many", params=params)
    logged = run_of(tracker, run).data.params
    assert len(logged) == len(params)
    assert logged["läuft_"] == '[1, {"a": null}]'
    assert logged["a/b"].startswith("vvv")
    assert len(logged["a/b"]) == figures.PARAM_LIMIT
    assert figures.shorten("a" * 20 + "1", 18) != figures.shorten("a" * 20 + "2", 18)
    # A cut value is compared as it was cut.
    tracker.start("many", key=run_of(tracker, run).data.tags["remora.key"], params=params)
    assert not [t for t in run_of(tracker, run).data.tags if t.startswith("remora.changed")]


def test_a_server_that_is_not_there_is_one_line_at_once(tmp_path):
    port = free_port()
    began = time.monotonic()
    with pytest.raises(TrackingError) as e:
        Tracker(tmp_path, f"http://me:secret@127.0.0.1:{port}").prepare()
    assert time.monotonic() - began < 5
    assert str(e.value) == (
        f"MLflow at http://…@127.0.0.1:{port}: Connection refused; "
        "start it with `mlflow server`, or unset MLFLOW_TRACKING_URI"
    )


def test_a_server_that_does_not_answer_is_one_line_soon(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(8)  # takes connections, says nothing
        began = time.monotonic()
        with pytest.raises(TrackingError, match=r"timed out.*unset MLFLOW_TRACKING_URI$"):
            Tracker(tmp_path, f"http://127.0.0.1:{s.getsockname()[1]}").prepare()
        assert time.monotonic() - began < 8


def test_a_deleted_experiment_says_how_to_bring_it_back(tracker):
    with tracker.client() as client:
        client.delete_experiment(tracker.server.open())
    with pytest.raises(TrackingError, match=r"sqlite:\S+mlflow.db mlflow experiments restore -x 2`$"):
        Tracker(tracker.runs).prepare()


def test_calls_wait_in_order_and_arrive_once(tracker, outage, tmp_path, caplog, points):
    run = tracker.start("before", key="before")
    tracker.metrics(run, {"loss": 9.0}, step=1)
    end = outage()
    with caplog.at_level(logging.WARNING):
        tracker.metrics(run, {"loss": 8.0}, step=2)
        tracker.tag(run, "note", "old")
        tracker.tag(run, "note", "new")
        child = tracker.start("during", key="during", parent=run, params={"a": {"b": 1}})
        tracker.metrics(child, {"loss": math.inf}, step=1)
        tracker.text(child, "hello", "a.txt")
        tracker.finish(child, "KILLED")
    assert child == "pending-during"
    assert tracker.start("during", key="during", parent=run) == child
    assert [r.levelname for r in caplog.records] == ["WARNING"]  # once, not once a call
    assert "Connection refused" in caplog.text
    assert tracker.replay() == 8
    waiting = [json.loads(line)["do"] for line in (tmp_path / BACKLOG).read_text().splitlines()]
    assert waiting == ["metrics", "tag", "tag", "start", "metrics", "text", "finish", "start"]

    end()
    other = Tracker(tmp_path)  # another process may be the one that writes it
    assert other.replay() == 0
    assert not (tmp_path / BACKLOG).exists()
    assert points(other, run) == [(1, 9.0), (2, 8.0)]
    found = run_of(other, run)
    assert found.data.tags["note"] == "new"
    made = run_of(other, child)
    assert made.data.tags["mlflow.parentRunId"] == run
    assert made.data.params == {"a.b": "1"}
    assert made.info.status == "RUNNING"  # it was started again after its end
    assert len(all_runs(other)) == 2

    tracker.metrics(child, {"loss": 1.0}, step=2)  # the pending id stays good
    assert [s for s, _ in points(tracker, child)] == [1, 2]
    assert tracker.start("during", key="during") == made.info.run_id
    assert tracker.replay() == 0


def test_the_next_write_delivers_what_waits(tracker, outage, tmp_path, caplog, points):
    run = tracker.start("a")
    end = outage()
    tracker.metrics(run, {"loss": 1.0}, step=1)
    end()
    tracker.metrics(run, {"loss": 2.0}, step=2)
    assert points(tracker, run) == [(1, 1.0), (2, 2.0)]
    assert "answers again" in caplog.text


def test_finish_asks_even_while_calls_rest(tracker, outage, points):
    run = tracker.start("a")
    end = outage()
    tracker.metrics(run, {"loss": 1.0}, step=1)
    end()
    tracker._delivery._rest_until = time.monotonic() + 1000
    tracker.metrics(run, {"loss": 2.0}, step=2)
    assert points(tracker, run) == []
    tracker.finish(run)
    assert points(tracker, run) == [(1, 1.0), (2, 2.0)]
    assert run_of(tracker, run).info.status == "FINISHED"


def test_a_dead_server_is_not_asked_at_every_call(tracker, outage):
    run = tracker.start("a")
    outage()
    for step in range(50):
        tracker.metrics(run, {"loss": 1.0}, step=step)
    assert tracker.server._client.calls == 1


@pytest.mark.parametrize("call", ["create_run", "log_batch"])
def test_a_call_that_arrived_although_it_failed_is_not_made_twice(tracker, outage, call, points):
    run = None if call == "create_run" else tracker.start("a")
    end = outage(only=call, arrives=True)
    run = run or tracker.start("a")
    tracker.metrics(run, {"loss": 1.0}, step=1)
    tracker.steps(run, [(2, 2000, {"loss": 0.5})])
    end()
    assert tracker.replay() == 0
    assert len(all_runs(tracker)) == 1
    assert points(tracker, run) == [(1, 1.0), (2, 0.5)]


def test_steps_that_arrived_although_their_call_failed_are_not_sent_again(tracker, outage, monkeypatch):
    run = tracker.start("a")
    tracker.steps(run, [(1, 1000, {"loss": 1.0})])
    end = outage(only="log_batch", arrives=True)
    tracker.steps(run, [(2, 2000, {"loss": 0.5})])
    end()
    sent = []
    with tracker.client() as client:
        monkeypatch.setattr(client, "log_batch", lambda run, metrics, *rest: sent.extend(metrics))
    assert tracker.replay() == 0
    assert sent == []


def test_a_run_keeps_its_times_when_it_is_written_late(tracker, outage, monkeypatch):
    end = outage()
    for call, now in ((lambda: tracker.start("a", key="a"), 5000), (lambda: tracker.finish("pending-a"), 9000)):
        monkeypatch.setattr("remora.tracking.client._now", lambda now=now: now)
        call()
    end()
    assert tracker.replay() == 0
    info = run_of(tracker, "pending-a").info
    assert (info.start_time, info.end_time) == (5000, 9000)


def test_long_answers_are_waited_for_and_dead_servers_are_not(tracker, tmp_path, monkeypatch):
    waits = {}
    run = tracker.start("a")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with tracker.client() as client:
        names = ("get_run", "get_metric_history", "log_artifacts", "log_batch")
        for name, real in [(name, getattr(client, name)) for name in names]:

            def call(*args, name=name, real=real):
                waits[name] = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
                return real(*args)

            monkeypatch.setattr(client, name, call)
    tracker.steps(run, [(1, 1000, {"loss": 1.0})])
    (tmp_path / "folder").mkdir()
    tracker.artifacts(run, tmp_path / "folder")
    assert waits == {"get_run": "2", "get_metric_history": "120", "log_artifacts": "120", "log_batch": "2"}
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")  # a user's choice is kept
    tracker.last_step(run)
    assert waits["get_metric_history"] == "7"


def test_two_starts_of_one_key_at_one_moment_give_one_run(tracker, monkeypatch):
    both = [tracker, Tracker(tracker.runs)]
    for t in both:
        find = t.server.find
        monkeypatch.setattr(t.server, "find", lambda key, find=find: (find(key), time.sleep(0.3))[0])
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda t: t.start("a", key="same"), both)
    assert first == second


def test_a_replay_that_is_killed_is_repeated_without_harm(tracker, outage, tmp_path, points):
    run = tracker.start("a")
    end = outage()
    tracker.metrics(run, {"loss": 1.0}, step=1)
    pending = tracker.start("b")
    tracker.steps(run, [(2, 2000, {"loss": 0.5})])
    saved = (tmp_path / BACKLOG).read_bytes()
    end()
    tracker.replay()
    (tmp_path / BACKLOG).write_bytes(saved)  # as if it had been killed before it forgot the lines
    assert Tracker(tmp_path).replay() == 0
    assert points(tracker, run) == [(1, 1.0), (2, 0.5)]
    assert len(all_runs(tracker)) == 2
    assert tracker.real(pending) != run


def test_what_mlflow_refuses_is_put_aside_and_blocks_nothing(tracker, outage, tmp_path, caplog, points):
    run = tracker.start("a")
    end = outage()
    tracker.metrics("0" * 32, {"loss": 1.0})
    tracker.artifacts(run, tmp_path / "gone")
    tracker.metrics("pending-never", {"loss": 1.0})
    orphan = tracker.start("orphan", parent="pending-never")
    with (tmp_path / BACKLOG).open("a") as f:
        f.write('{"do": "metr')  # a process died here
    tracker.metrics(run, {"loss": 2.0})
    end()
    assert tracker.replay() == 0
    assert points(tracker, run) == [(0, 2.0)]
    assert "mlflow.parentRunId" not in run_of(tracker, orphan).data.tags
    tracker.tag("f" * 32, "a", "b")  # refused at once
    aside = [json.loads(line) for line in (tmp_path / REJECTED).read_text().splitlines()]
    reasons = "\n".join(a["reason"] for a in aside)
    assert len(aside) == 5
    for part in ("0" * 32, "gone", "pending-never", "half a line", "f" * 32):
        assert part in reasons


def test_a_failure_that_nobody_foresaw_is_put_aside(tracker, tmp_path, monkeypatch):
    run = tracker.start("a")
    monkeypatch.setattr(tracker.server._client, "set_terminated", lambda *a, **k: 1 / 0)
    tracker.finish(run)
    assert "ZeroDivisionError" in (tmp_path / REJECTED).read_text()


def test_a_missing_right_waits_and_a_wrong_call_does_not(tracker):
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED

    for code, kind in ((PERMISSION_DENIED, Unreachable), (INVALID_PARAMETER_VALUE, Refused)):
        with pytest.raises(kind), tracker.server.answers():
            raise MlflowException("no", error_code=code)


def test_a_backlog_that_cannot_be_written_stops_nothing(tracker, outage, tmp_path, caplog):
    run = tracker.start("a")
    outage()
    (tmp_path / BACKLOG).mkdir()  # no file can be written there
    tracker.metrics(run, {"loss": 1.0})
    assert "is lost" in caplog.text


def _write(tracker, key, gate):
    gate.wait()
    tracker.prepare()
    run = tracker.start(key, key=key)
    for step in range(5):
        tracker.metrics(run, {"loss": 1.0}, step=step)
    tracker.finish(run)


def test_processes_that_start_together_share_one_database(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spawn = multiprocessing.get_context("spawn")
    gate = spawn.Event()
    tracker = Tracker(tmp_path)
    workers = [spawn.Process(target=_write, args=(tracker, key, gate)) for key in ("same", "same", "other")]
    for w in workers:
        w.start()
    gate.set()
    for w in workers:
        w.join(120)
        assert w.exitcode == 0
    tracker.prepare()
    assert sorted(r.data.tags["remora.key"] for r in all_runs(tracker)) == ["other", "same"]


def _server(folder, port):
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process
        except OSError:
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.1)
    raise AssertionError("mlflow server did not start")


def _kill(process):
    os.killpg(process.pid, signal.SIGKILL)  # the session that `_server` made: the server and its workers
    process.wait()


@pytest.mark.e2e
def test_a_server_that_dies_and_comes_back_costs_nothing(tmp_path, monkeypatch, points):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    home, runs, journal = tmp_path / "server", tmp_path / "runs", tmp_path / "journal.jsonl"
    home.mkdir()
    port = free_port()
    tracker = Tracker(runs, f"http://127.0.0.1:{port}")

    def train(first, last):
        with journal.open("a") as f:
            for step in range(first, last + 1):
                f.write(json.dumps({"event": "step", "step": step, "loss": 1 / step, "time": float(step)}) + "\n")

    server = _server(home, port)
    try:
        tracker.prepare()
        run = tracker.start("share", key="digest", params={"lr": 1e-3})
        with Mirror(tracker, run, journal, interval=0.1):
            train(1, 20)
            until = time.monotonic() + 30
            while tracker.last_step(run) < 20 and time.monotonic() < until:
                time.sleep(0.1)
            assert tracker.last_step(run) == 20
            _kill(server)
            train(21, 30)
            began = time.monotonic()
            while not (runs / BACKLOG).exists() and time.monotonic() < began + 30:
                time.sleep(0.1)
            child = tracker.start("evaluation", parent=run)
            tracker.metrics(child, {"gqa": 0.6})
            (tmp_path / "model").mkdir()
            (tmp_path / "model" / "weights.bin").write_bytes(b"w" * 3_000_000)
            tracker.artifacts(child, tmp_path / "model", "out")
            assert time.monotonic() - began < 35
            assert child.startswith("pending-")
            # The training restarts as well, while the server is away: its mirror cannot ask how far MLflow is.
            with Mirror(Tracker(runs, tracker.uri), "pending-digest", journal, interval=0.1):
                train(31, 40)
        assert (runs / BACKLOG).exists()
        server = _server(home, port)
        tracker.finish(child)
        tracker.finish(run)
        assert tracker.replay() == 0
        assert not (runs / REJECTED).exists()
        assert points(tracker, run) == [(s, 1 / s) for s in range(1, 41)]
        assert tracker.start("share", key="digest") == run
        assert len(all_runs(tracker)) == 2
        assert run_of(tracker, child).data.tags["mlflow.parentRunId"] == run
        assert run_of(tracker, child).info.status == "FINISHED"
        # The registry through the same server: upload, version, alias, download.
        assert register(tracker, "remora", child, tmp_path / "model") == "1"
        local = champion(tracker, into=tmp_path / "cache")
        assert (local / "weights.bin").read_bytes() == b"w" * 3_000_000
        assert champion(Tracker(runs, tracker.uri), into=tmp_path / "cache") == local
        assert len(list((tmp_path / "cache").iterdir())) == 1
    finally:
        if server.poll() is None:
            _kill(server)
