"""What a run folder records arrives in a real sqlite MLflow, whole and once, whatever happened on the way."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from remora.cli import main
from remora.errors import TrackingError
from remora.files import publishing
from remora.tracking import Input, Run, RunModel, Tracker, compare, id_of, link, metric_names, register, version_info
from remora.tracking import tracker as tracker_module
from remora.tracking.connection import MlflowRefused, MlflowUnreachable
from remora.training import journal
from support.ports import free_port
from support.waiting import PATIENCE, until


def work(runs, name="one"):
    folder = runs / "stages" / f"{name}.work"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / journal.JOURNAL


def step(path, first, last=None, **more):
    for number in range(first, (first if last is None else last) + 1):
        journal.append(path, "step", **{"step": number, "loss": 1 / (number + 1), **more})


def publish(runs, name="one"):
    with publishing(runs / "stages" / name) as tmp:
        (tmp / "parts" / "llm").mkdir(parents=True)
        (tmp / "parts" / "llm" / "weights").write_text(name)
        shutil.copy2(work(runs, name), tmp / journal.JOURNAL)
    shutil.rmtree(work(runs, name).parent)


TRAINING = "workflowType=machine_learning"
"""MLflow's pages as those of training; others are of traces."""
MODEL = RunModel("one", "stage run", "stages/one", True, {"remora.identity": "1"})


def stage(runs, **more):
    return Run(runs, key="stage/one", name="one", stage="one", models={"stage/one": MODEL}, **more)


TRAINED = {"part": "llm", "mode": "full", "parameters": 9, "trained": 9, "lr": 0.1}
READ = {"dataset": "demo", "records": 5, "skipped": {"torn": 1}}


@pytest.mark.slow
def test_a_validation_stands_beside_the_loss_of_its_step(tracker, points):
    def validated(path, number, loss):
        said = {"step": number, "loss": loss, "samples_seen": 4, "share": 0.5, "of": "x", "seconds": 0.5}
        journal.append(path, "validation", **said)

    runs = tracker.runs
    with stage(runs):
        step(work(runs), 0, 1)
        tracker.sync()  # the step is there before its validation is
        validated(work(runs), 1, 2.5)
        step(work(runs), 2, 3)
        tracker.sync()
        validated(work(runs), 3, 1.5)
        publish(runs)
    for _ in range(2):
        tracker.sync()
        assert points(tracker, "stage/one", "val_loss") == [(1, 2.5), (3, 1.5)]
    Tracker(runs).sync()  # who knows nothing of what MLflow was told
    assert points(tracker, "stage/one", "val_loss") == [(1, 2.5), (3, 1.5)]
    assert points(tracker, "stage/one", "val_seconds") == [(1, 0.5), (3, 0.5)]
    validated(runs / "stages" / "one.validations.jsonl", 3, 1.25)  # of other samples, made later
    tracker.sync()
    assert points(tracker, "stage/one", "val_loss") == [(1, 2.5), (3, 1.25), (3, 1.5)]
    assert len(points(tracker, "stage/one")) == 4


def story(runs):
    """A search, a variant in it, a trained stage run and a measurement, as commands record them."""
    with Run(
        runs,
        key="search/x",
        name="x",
        tags={"note": f"{link('files', 'search/x', 'artifacts')}, {link('v', 'variant/v')}"},
        params={"n": 2},
    ) as search:
        read = [Input("demo", "d" * 64, "data/x.json", "training", {"records": 5})]
        with Run(runs, key="variant/v", name="v", parent=search.key, inputs=read, texts={"v.json": "{}"}) as variant:
            with stage(runs, parent=variant.key, params={"lr": {"llm": 1e-3}}):
                journal.append(work(runs), "started", table=[TRAINED], data=[READ])
                step(work(runs), 0, 4, lr={"llm": 1e-3})
                journal.append(work(runs), "noted", text="it is warm")
                publish(runs)
            (runs / "scores").mkdir()
            (runs / "scores" / "report.json").write_text("[]")
            variant.note(tags={"remora.stage.one": id_of("stage/one")}, metrics={"gqa": {"accuracy": 0.5}})
            variant.note(files={"benchmarks/gqa": runs / "scores"})
            with publishing(runs / "bundles" / "v.0") as tmp:
                (tmp / "weights").write_text("v")
            asked = Input("gqa", "q" * 64, "gqa", "evaluation", {"questions": 4})
            models = {
                "stage/one": replace(MODEL, made=False),
                "bundle/7": RunModel("v.0", "bundle", "bundles/v.0", True),
            }
            variant.note(models=models, metrics={"gqa/accuracy": 0.25}, inputs=[asked])
            variant.note(models={"stage/two": RunModel("two", "stage run", "stages/two", False)})  # not there


def held(tracker, runs_in):
    """All that MLflow holds, without what differs between two databases."""
    found, names = {}, {}
    for key, run in runs_in(tracker).items():
        names[run.info.run_id] = key
    with tracker.client() as client:

        def named(id):
            return client.get_logged_model(id).name

        for key, run in runs_in(tracker).items():
            tags = {k: v for k, v in run.data.tags.items() if k != "remora.synced"}
            for id, name in names.items():
                tags = {k: v.replace(id, name) for k, v in tags.items()}
            steps = {
                m: [(p.step, p.value, p.timestamp) for p in client.get_metric_history(run.info.run_id, m)]
                for m in run.data.metrics
            }
            inputs = [(i.dataset.name, i.dataset.digest, i.dataset.profile) for i in run.inputs.dataset_inputs]
            place = tracker.runs / "mlruns" / run.info.run_id / "artifacts"
            files = {str(p.relative_to(place)): p.read_text() for p in sorted(place.rglob("*")) if p.is_file()}
            whole = client.get_run(run.info.run_id)  # a search of MLflow's leaves models out
            read = [named(m.model_id) for m in whole.inputs.model_inputs]
            made = [named(m.model_id) for m in whole.outputs.model_outputs] if whole.outputs else []
            info = (read, made, run.info.run_name, run.info.status, run.info.start_time, run.info.end_time)
            found[key] = (info, tags, run.data.params, steps, inputs, files)
        models = []
        for model in client.search_logged_models([tracker.server.open()]):
            figures = sorted((m.key, m.value, m.dataset_name, m.dataset_digest) for m in model.metrics or ())
            models.append(
                (model.name, model.model_type, model.status, names[model.source_run_id], model.params, figures)
            )
        versions = [(v.version, names[v.run_id], v.aliases) for v in client.search_model_versions()]
    return found, sorted(versions, key=str), sorted(models)


def test_a_search_links_to_a_comparison_of_its_variants(tracker, runs_in):
    runs = tracker.runs
    keys = [f"variant/{i}" for i in range(50)]
    note = f"{compare('All', keys)} and {compare('none', keys[49:])}"
    with Run(runs, key="search/x", name="x", tags={"note": note}):
        tracker.sync()
        assert runs_in(tracker)["search/x"].data.tags["note"] == "All and none"  # none of them has begun
        for key in (*keys[:3], keys[45]):
            with Run(runs, key=key, name=key, parent="search/x"):
                pass
    tracker.sync()
    found = runs_in(tracker)
    ids = [found[key].info.run_id for key in keys[:3]]  # the 46th is one too many for an address
    exp = found["search/x"].info.experiment_id
    asked = f"runs={quote(json.dumps(ids, separators=(',', ':')))}&experiments={quote(json.dumps([exp]))}"
    assert found["search/x"].data.tags["note"] == f"[All](#/compare-runs?{asked}&{TRAINING}) and none"


def test_importing_the_room_does_not_import_mlflow():
    code = "import sys, remora.tracking; sys.exit('mlflow' in sys.modules or 'sqlalchemy' in sys.modules)"
    source = str(Path(__file__).parents[2] / "platform")
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": source}).returncode == 0


def test_all_that_was_recorded_arrives(tracker, runs_in, tmp_path, monkeypatch):
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    story(tmp_path)
    assert tracker.sync().written == 3
    found, _, models = held(tracker, runs_in)
    assert [info[3] for info, *_ in found.values()] == ["FINISHED"] * 3
    _, tags, params, _, _, _ = found["search/x"]
    page = f"#/experiments/{runs_in(tracker)['search/x'].info.experiment_id}/runs"
    files, variant = f"{page}/search/x/artifacts?{TRAINING}", f"{page}/variant/v?{TRAINING}"
    assert params == {"n": "2"} and tags["note"] == f"[files]({files}), [v]({variant})"
    assert tags["mlflow.user"] and tags["mlflow.source.name"] == "remora" and tags["remora.kind"] == "search"
    _, tags, _, steps, inputs, files = found["variant/v"]
    assert tags["mlflow.parentRunId"] == "search/x" and tags["remora.stage.one"] == "stage/one"
    assert [value for _, value, _ in steps["gqa.accuracy"]] == [0.5]
    assert inputs == [("demo", "d" * 36, '{"records": 5}'), ("gqa", "q" * 36, '{"questions": 4}')]
    assert files == {"v.json": "{}", "benchmarks/gqa/report.json": "[]"}
    _, tags, params, steps, _, files = found["stage/one"]
    # Results are models, by what they were measured on, and the runs are linked by them.
    assert [found[key][0][:2] for key in ("stage/one", "variant/v")] == [([], ["one"]), (["one"], ["v_0"])]
    (one, bundle) = models
    assert one[:5] == ("one", "stage run", "READY", "stage/one", {"lr.llm": "0.001"})
    assert [figure[0] for figure in one[5]] == ["loss"] and one[5][0][1] == 1 / 5
    asked = ("gqa", "q" * 36)
    assert bundle[:4] == ("v_0", "bundle", "READY", "variant/v")
    assert bundle[5] == [("gqa.accuracy", 0.5, None, None), ("gqa/accuracy", 0.25, *asked)]
    assert tags["mlflow.parentRunId"] == "variant/v" and tags["remora.notes"] == "it is warm"
    assert params == {"lr.llm": "0.001"} and [s for s, _, _ in steps["loss"]] == list(range(5))
    assert steps["data/demo/skipped.torn"][0][1] == 1 and set(files) == {"tuning.md", "parts.json"}
    (weights,) = json.loads(files["parts.json"])["files"].values()  # where they are, not they themselves
    assert weights["bytes"] == 3 and len(weights["sha256"]) == 64
    assert not list(elsewhere.iterdir())
    assert Tracker(tmp_path).sync().written == 0


class Outage:
    """MLflow's client of which one call fails, before or after it arrived, and all that follow."""

    def __init__(self, client, left, arrives):
        self.client, self.left, self.arrives = client, left, arrives

    def __getattr__(self, name):
        from mlflow.exceptions import MlflowException

        def call(*args, **kwargs):
            self.left -= 1
            if self.left > 0 or (self.left == 0 and self.arrives):
                answer = getattr(self.client, name)(*args, **kwargs)
            if self.left <= 0:
                raise MlflowException("API request failed with exception [Errno 111] Connection refused")
            return answer

        return call


@pytest.mark.slow
@pytest.mark.parametrize("arrives", [False, True])
def test_a_sync_that_fails_at_any_call_is_completed_by_the_next(arrives, empty_database, tmp_path, runs_in):
    """Nothing is lost and nothing doubled, wherever the server went away."""
    runs = tmp_path / "whole"
    runs.mkdir()
    shutil.copy(empty_database, runs / "mlflow.db")
    story(runs)
    with publishing(runs / "bundles" / "v") as tmp:
        (tmp / "weights").write_text("v")
    whole = Tracker(runs)
    register(whole, "remora", "variant/v", runs / "bundles" / "v")
    expected = held(whole, runs_in)
    for call in range(1, 80, 11):
        other = tmp_path / f"{call}"
        shutil.copytree(runs, other, ignore=shutil.ignore_patterns("mlruns", "mlflow.db"))
        shutil.copy(empty_database, other / "mlflow.db")
        tracker = Tracker(other)
        with tracker.client():
            pass
        real = tracker.server._client
        tracker.server._client = Outage(real, call, arrives)
        failed = False
        try:
            tracker.sync()
        except TrackingError:
            failed = True
        tracker.server._client = real
        tracker.sync()
        assert held(tracker, runs_in) == expected, call
        if not failed:
            assert call > 40
            return
    raise AssertionError("it never went through")


@pytest.mark.slow
def test_a_server_that_forgot_everything_is_told_again(tracker, empty_database, runs_in, tmp_path):
    with tracker:
        story(tmp_path)
        for name in ("a", "b"):
            with publishing(tmp_path / "bundles" / name) as tmp:
                (tmp / "weights").write_text(name)
            register(tracker, "remora", "variant/v", tmp_path / "bundles" / name)
        before = held(tracker, runs_in)
        shutil.rmtree(tmp_path / "mlruns")
        shutil.copy(empty_database, tmp_path / "mlflow.db")
        tracker.server._client = None  # a new connection, as to a server that was started again
    assert held(tracker, runs_in) == before
    assert version_info(tracker, "remora")["version"] == "2"


def test_one_run_a_key(tracker, runs_in, points):
    with pytest.raises(ZeroDivisionError), stage(tracker.runs, params={"lr": 1, "n": 2}, tags={"host": "a"}):
        step(work(tracker.runs), 0, 3)
        raise ZeroDivisionError
    tracker.sync()
    first = runs_in(tracker)["stage/one"].info
    assert first.status == "FAILED"
    with stage(tracker.runs, params={"lr": 3, "n": 2, "new": None}, tags={"host": "b"}):
        tracker.sync()
        again = runs_in(tracker)["stage/one"]
        assert (again.info.run_id, again.info.status) == (first.run_id, "RUNNING")
        journal.take_over(work(tracker.runs), 2)
        step(work(tracker.runs), 2, 5, loss=7.0)
    tracker.sync()
    data = runs_in(tracker)["stage/one"].data
    assert data.params == {"lr": "1", "n": "2", "new": "None"} and data.tags["remora.changed.lr"] == "3"
    assert data.tags["host"] == "b" and "remora.changed.n" not in data.tags
    # The training repeats steps; those that MLflow holds are left out.
    assert points(tracker, "stage/one") == [(s, 1 / (s + 1)) for s in range(4)] + [(4, 7.0), (5, 7.0)]


def test_steps_of_a_lost_attempt_and_torn_lines_are_left_out(tracker, points):
    with stage(tracker.runs):
        path = work(tracker.runs)
        first = journal.take_over(path, 0)
        step(path, 0, attempt=first)
        second = journal.take_over(path, 1)
        step(path, 1, attempt=first, loss=9.0)  # by a process that was thought dead
        with path.open("a") as f:
            f.write('{"event": "step", "st\nnull\n{"event": "step", "step": true}\n')
        step(path, 1, attempt=second, note="x", ok=True, grad_norm=math.inf)
        with path.open("a") as f:
            f.write('{"event": "step"')  # in the middle of a line
        tracker.sync()
    assert points(tracker, "stage/one") == [(0, 1.0), (1, 0.5)]
    assert [s for s, _ in points(tracker, "stage/one", "grad_norm")] == [1]
    assert points(tracker, "stage/one", "attempt") == points(tracker, "stage/one", "ok") == []


def test_many_steps_go_in_few_calls_of_whole_steps(tracker, points, monkeypatch):
    calls = []
    with tracker.client() as client:
        real = client.log_batch
    monkeypatch.setattr(client, "log_batch", lambda run, metrics, *a: (calls.append(metrics), real(run, metrics, *a)))
    with stage(tracker.runs):
        lines = [{"event": "step", "time": 1.0, "step": s, "loss": 1.0, "a": 2.0, "b": 3.0} for s in range(1200)]
        work(tracker.runs).write_text("".join(json.dumps(line) + "\n" for line in lines))
        tracker.sync()
    assert len(points(tracker, "stage/one")) == len(points(tracker, "stage/one", "b")) == 1200
    steps = [metrics for metrics in calls if metrics]
    assert len(steps) == 4 and max(map(len, steps)) <= 1000
    for metrics in steps:  # a crash between two calls leaves no half step
        assert {m.key for m in metrics if m.step == metrics[-1].step} == {"loss", "a", "b"}


@pytest.mark.slow
def test_figures_arrive_while_the_training_runs(tracker, points, monkeypatch):
    monkeypatch.setattr(tracker_module, "INTERVAL", 0.02)

    def is_there(expected):
        with tracker._lock:
            return points(tracker, "stage/one") == expected

    tracker.sync()
    with tracker, stage(tracker.runs):
        tracker.sync()
        step(work(tracker.runs), 0)
        until("the first step", lambda: is_there([(0, 1.0)]))
        step(work(tracker.runs), 1)
        until("the second step", lambda: is_there([(0, 1.0), (1, 0.5)]))


SLEEPER = """
import sys, time
from pathlib import Path
from urllib.parse import quote
from remora.tracking import Run
runs = Path(sys.argv[1])
with Run(runs, key="search/x", name="x"), Run(runs, key="variant/v", name="v", parent="search/x"):
    print("works", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_runs_of_a_killed_command_are_ended_by_the_next_sync(tracker, runs_in, capsys):
    command = [sys.executable, "-c", SLEEPER, str(tracker.runs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"works\n"
            tracker.sync()
            assert {r.info.status for r in runs_in(tracker).values()} == {"RUNNING"}
        finally:
            process.kill()
    main(["sync", "--runs", str(tracker.runs)])
    assert capsys.readouterr().out == f"MLflow at {tracker.uri}: 2 runs, 2 brought up to date\n"
    assert {r.info.status for r in runs_in(tracker).values()} == {"KILLED"}
    assert all(r.info.end_time >= r.info.start_time for r in runs_in(tracker).values())
    with Run(tracker.runs, key="search/x", name="x"):
        pass
    tracker.sync()
    assert {k: r.info.status for k, r in runs_in(tracker).items()} == {"search/x": "FINISHED", "variant/v": "KILLED"}


def test_a_stage_run_that_was_published_ended_well_whoever_was_killed(tracker, runs_in, points):
    with pytest.raises(KeyboardInterrupt), stage(tracker.runs):
        step(work(tracker.runs), 0, 1)
        publish(tracker.runs)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), Run(tracker.runs, key="variant/v", name="v"):
        raise KeyboardInterrupt
    tracker.sync()
    found = {key: run.info.status for key, run in runs_in(tracker).items()}
    assert found == {"stage/one": "FINISHED", "variant/v": "KILLED"} and len(points(tracker, "stage/one")) == 2


def test_two_processes_that_work_at_one_run_end_it_once(tracker, runs_in):
    with Run(tracker.runs, key="variant/v", name="v"):
        with Run(tracker.runs, key="variant/v", name="v"):
            pass
        assert (next((tracker.runs / "tracking").glob("*.json")).with_suffix(".lock")).exists()
    assert not list((tracker.runs / "tracking").glob("variant-*.lock"))


def test_what_a_person_deleted_stays_deleted_until_it_is_worked_at(tracker, runs_in):
    Run(tracker.runs, key="variant/v", name="v").keep()
    tracker.sync()
    with tracker.client() as client:
        client.delete_run(runs_in(tracker)["variant/v"].info.run_id)
    Run.again(tracker.runs, "variant/v").note(metrics={"gqa": 1.0})
    tracker.sync()
    assert runs_in(tracker) == {}
    with Run(tracker.runs, key="variant/v", name="v"):
        tracker.sync()
    assert tracker.sync().refused == []
    assert runs_in(tracker)["variant/v"].data.metrics == {"gqa": 1.0}


def test_an_alias_that_was_moved_by_hand_stays(tracker, tmp_path):
    Run(tmp_path, key="variant/v", name="v").keep()
    for name in ("a", "b"):
        with publishing(tmp_path / "bundles" / name) as tmp:
            (tmp / "weights").write_text(name)
        register(tracker, "remora", "variant/v", tmp_path / "bundles" / name)
    with tracker.client() as client:
        client.set_registered_model_alias("remora", "champion", "1")
    Run.again(tmp_path, "variant/v").note(metrics={"gqa": 1.0})
    assert Tracker(tmp_path).sync().written == 1
    assert version_info(tracker, "remora")["version"] == "1"
    register(tracker, "remora", "variant/v", tmp_path / "bundles" / "b")
    assert version_info(tracker, "remora")["version"] == "2"


def test_a_registration_waits_for_mlflow(tracker, tmp_path, monkeypatch, caplog):
    Run(tmp_path, key="variant/v", name="v").keep()
    with publishing(tmp_path / "bundles" / "a") as tmp:
        (tmp / "weights").write_text("a")
    with pytest.raises(TrackingError, match="Connection refused"):
        register(Tracker(tmp_path, "http://127.0.0.1:9"), "remora", "variant/v", tmp_path / "bundles" / "a")
    tracker.sync()
    assert version_info(tracker, "remora")["version"] == "1"
    with pytest.raises(TrackingError, match="a/b: MLflow at ") as e:
        register(tracker, "a/b", "variant/v", tmp_path / "bundles" / "a")
    assert "\n" not in str(e.value) and tracker.sync().refused == []  # a name that it never takes


def test_names_and_values_that_mlflow_refuses_are_made_acceptable(tracker, runs_in):
    long = "k" * 300
    params = {"x" * 7000: 1, long + "a": 1, long + "b": 2, "../a//b": "v" * 7000, "läuft?": [1, {"a": None}], "e": {}}
    params |= {f"p{i}": "ü" * 7000 for i in range(60)}
    figured = {"ok": True, "text": "x", "bad:name//": 1, "nan": math.nan}
    for _ in range(2):  # a cut value is compared as it was cut
        with Run(tracker.runs, key="variant/it's (1)", name="many", params=params) as run:
            run.note(metrics=figured, tags={"note": "x" * 9000}, inputs=[Input("n" * 600, "d" * 64, "x", "training")])
        assert tracker.sync().refused == []
    data = runs_in(tracker)[run.key].data
    assert len(data.params) == len(params) and data.params["läuft_"] == '[1, {"a": null}]'
    assert len(data.params["a/b"]) == metric_names.PARAM_LIMIT and len(data.tags["note"]) == metric_names.TAG_LIMIT
    assert math.isnan(data.metrics.pop("nan")) and data.metrics == {"bad_name": 1.0}
    assert not [tag for tag in data.tags if tag.startswith("remora.changed")]
    assert metric_names.shorten("a" * 20 + "1", 18) != metric_names.shorten("a" * 20 + "2", 18)


def test_what_is_spoilt_or_gone_blocks_nothing(tracker, runs_in, caplog, capsys):
    with Run(tracker.runs, key="variant/a", name="a") as run:
        run.note(files={"out": tracker.runs / "gone"})
    (tracker.runs / "tracking" / "variant-0.json").write_text("{")
    Run(tracker.runs, key="variant/z", name="z").keep()
    with pytest.raises(SystemExit) as e:
        main(["sync", "--runs", str(tracker.runs)])
    assert "1 of 3 runs are refused; the first: " in str(e.value.code) and "variant-0.json: " in str(e.value.code)
    assert "2 brought up to date" in capsys.readouterr().out and "\n" not in str(e.value.code)
    assert set(runs_in(tracker)) == {"variant/a", "variant/z"} and "gone is gone" in caplog.text


def test_what_mlflow_refuses_is_a_line_and_blocks_nothing(tracker, runs_in, monkeypatch):
    for name in ("a", "b"):
        Run(tracker.runs, key=f"variant/{name}", name=name, params={"n": name}).keep()
    with tracker.client() as client:
        real = client.set_terminated
    left = [lambda *a, **k: 1 / 0, real]
    with monkeypatch.context() as then:
        then.setattr(client, "set_terminated", lambda *a, **k: left.pop(0)(*a, **k))
        report = tracker.sync()
    assert report.written == 1 and "ZeroDivisionError" in report.refused[0]
    assert tracker.sync().written == 1


def test_a_record_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    (tmp_path / "tracking").write_text("a file where the folder belongs")
    with caplog.at_level(logging.ERROR), Run(tmp_path, key="variant/v", name="v") as run:
        run.note(metrics={"gqa": 1.0})
    assert "variant/v cannot be recorded" in caplog.text


def test_a_missing_right_waits_and_a_wrong_call_does_not(tracker):
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED

    for code, kind in ((PERMISSION_DENIED, MlflowUnreachable), (INVALID_PARAMETER_VALUE, MlflowRefused)):
        with pytest.raises(kind), tracker.server.answers():
            raise MlflowException("no", error_code=code)


def test_a_relative_sqlite_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Tracker(tmp_path, "sqlite:///a.db").uri == f"sqlite:///{tmp_path}/a.db"
    assert Tracker(Path("runs"), "http://there:5000").runs == tmp_path / "runs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    assert Tracker(tmp_path).uri == "http://there:5000"


def test_a_server_that_is_not_there_is_one_line(tmp_path):
    port = free_port()
    with pytest.raises(TrackingError) as e:
        Tracker(tmp_path, f"http://me:secret@127.0.0.1:{port}").sync()
    assert str(e.value) == (
        f"MLflow at http://…@127.0.0.1:{port}: Connection refused; "
        "start it with `mlflow server`, or unset MLFLOW_TRACKING_URI"
    )


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(8)  # takes connections, says nothing
        with pytest.raises(TrackingError, match=r"timed out.*unset MLFLOW_TRACKING_URI$"):
            Tracker(tmp_path, f"http://127.0.0.1:{s.getsockname()[1]}").sync()


def test_a_deleted_experiment_says_how_to_bring_it_back(tracker):
    tracker.sync()
    with tracker.client() as client:
        client.delete_experiment(tracker.server.open())
    with pytest.raises(TrackingError, match=r"sqlite:\S+mlflow.db mlflow experiments restore -x 2`$"):
        Tracker(tracker.runs).sync()


def test_long_answers_are_waited_for_and_dead_servers_are_not(tracker, monkeypatch):
    waits = {}
    with stage(tracker.runs):
        step(work(tracker.runs), 0)
        tracker.sync()
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
        with tracker.client() as client:
            names = ("get_experiment_by_name", "search_runs", "get_metric_history", "log_batch")
            for name, real in [(name, getattr(client, name)) for name in names]:

                def call(*args, name=name, real=real, **kwargs):
                    waits[name] = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
                    return real(*args, **kwargs)

                monkeypatch.setattr(client, name, call)
        step(work(tracker.runs), 1)
        tracker.sync()
        assert waits == dict(zip(names, ("2", "120", "120", "2"), strict=True))
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")  # a user's choice is kept
        tracker.sync()
    assert waits["search_runs"] == "7"


def _sync(runs, gate):
    gate.wait()
    Tracker(runs).sync()


@pytest.mark.slow
def test_processes_that_sync_together_make_each_run_once(tmp_path, monkeypatch, runs_in, points):
    """On a folder without a database, too: two that create one at the same moment break each other."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    story(tmp_path)
    spawn = multiprocessing.get_context("spawn")
    gate = spawn.Event()
    workers = [spawn.Process(target=_sync, args=(tmp_path, gate)) for _ in range(2)]
    for w in workers:
        w.start()
    gate.set()
    for w in workers:
        w.join(PATIENCE)
        assert w.exitcode == 0
    tracker = Tracker(tmp_path)
    assert tracker.sync().written == 0
    assert len(runs_in(tracker)) == 3 and len(points(tracker, "stage/one")) == 5
