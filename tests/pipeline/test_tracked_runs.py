"""MLflow's runs of searches, variants and measurements: one each even after kills, with data and links.

Real sqlite, no Ray: a stage trains by writing its files.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from remora.demo import build_demo
from remora.evaluation.measured import Measured
from remora.evaluation.report import Report, ScoredAnswer
from remora.evaluation.score import Score
from remora.files import digest, is_published, publishing, sha256_file, write_json
from remora.pipeline import suite, tracked_runs, variant
from remora.pipeline.search import perform, search
from remora.pipeline.search.crew import OneByOne
from remora.runs import Store
from remora.spec import Cluster, Space, load
from remora.tracking import Run, Tracker
from remora.training import journal

SPACE = Path(__file__).parents[1] / "e2e" / "tiny.yaml"
OWN = {"title": "t", "questions": "q.jsonl", "images": ".", "metric": "exact-match", "max_new_tokens": 4}


class Killed(BaseException):
    """As by kill -9: nothing more is written."""


class Work:
    """An executor, and what a variant is measured by; `left` counts down to the call in which it is killed."""

    def __init__(self):
        self.left = {"train": 0, "measure": 0}

    def _call(self, what):
        self.left[what] -= 1
        if self.left[what] == 0:
            raise Killed

    def train(self, feed, cluster, runs):
        for task in feed.left():
            self._call("train")
            for part in task.record["trained"]:
                (task.job.folder / "parts" / part).mkdir(parents=True)
                (task.job.folder / "parts" / part / "model.safetensors").write_text(part)
            journal.append(task.job.folder / journal.JOURNAL, "step", step=0, loss=1.0)
            Store(runs).publish(task.name, task.record)
            feed.end("trained")

    def measure(self, prepared, bundle, store, executor, cluster, **_):
        self._call("measure")
        name = prepared.name
        folder = store.runs / "scores" / name
        folder.mkdir(parents=True, exist_ok=True)
        items = [ScoredAnswer(i, "x", "x", float(i < 2)) for i in range(4)]
        write_json(folder / "report.json", Report(name, "own", {}, {}, items, [], own=OWN).as_json())
        return Measured(name, folder, None, Score(name, 4, "accuracy", 0.5, (0.2, 0.8)), questions="5" * 64)


@dataclass
class Asked:
    """A benchmark as `prepare` gives it."""

    name: str
    data: Path = Path("questions")


def bundled(folder, bundle, about):
    with publishing(folder) as tmp:
        (tmp / "name").write_text(bundle.name)


@pytest.fixture
def work(monkeypatch):
    made = Work()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(variant, "write_bundle", bundled)
    monkeypatch.setattr(tracked_runs, "weights_digest", lambda bundle: digest(bundle.name))
    monkeypatch.setattr(tracked_runs, "bundle_name", lambda bundle: bundle.name)
    monkeypatch.setattr(perform, "prepare", lambda name, store: Asked(name))
    monkeypatch.setattr(variant, "measure", made.measure)
    return made


@pytest.fixture
def runs(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


def recorded(runs):
    """Every run by its key."""
    tracker = Tracker(runs)
    with tracker.client() as client:
        return {r.data.tags["remora.key"]: r for r in client.search_runs([tracker.server.open()])}


def of_kind(found, kind):
    return [run for run in found.values() if run.data.tags["remora.kind"] == kind]


def killed(space, runs, work, monkeypatch, **left):
    work.left |= left
    with monkeypatch.context() as then, pytest.raises(Killed):
        then.setattr(Run, "__exit__", lambda run, *_: run._held.close())  # the lock ends, nothing more is written
        searched(space, runs, work)


def searched(space, runs, work):
    with Tracker(runs) as tracker:
        return search.search(space, runs, tracker, search.Here(partial(OneByOne, work)))


def logged(runs):
    tracker = Tracker(runs)
    with tracker.client() as client:
        return client.search_logged_models([tracker.server.open()])


def whole(runs, run):
    """A run with its models, which a search of MLflow's leaves out."""
    with Tracker(runs).client() as client:
        return client.get_run(run.info.run_id)


def published(runs, run):
    return is_published(runs / "stages" / run.info.run_name)


def history(runs, run):
    with Tracker(runs).client() as client:
        return client.get_metric_history(run.info.run_id, "loss")


def note(run):
    return run.data.tags["mlflow.note.content"]


def page(run):
    return f"(#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?workflowType=machine_learning)"


@pytest.mark.slow
def test_a_search_that_was_killed_twice_is_one_run_with_links_and_datasets(runs, work, monkeypatch):
    build_demo(runs / "data" / "demo", limit=3)
    space = load(Space, SPACE)
    killed(space, runs, work, monkeypatch, train=5)  # in the second variant
    first = recorded(runs)
    assert {r.info.status for r in first.values() if not published(runs, r)} == {"KILLED"}
    assert {r.info.status for r in first.values() if published(runs, r)} == {"FINISHED"}
    assert len(of_kind(first, "search")) == 1 and len(of_kind(first, "variant")) == 2
    killed(space, runs, work, monkeypatch, measure=4)
    searched(space, runs, work)
    found = recorded(runs)
    assert {r.info.status for r in found.values()} == {"FINISHED"}
    assert all(found[key].info.run_id == run.info.run_id for key, run in first.items())
    (parent,), variants, stages = (of_kind(found, kind) for kind in ("search", "variant", "stage"))
    assert len(variants) == 2 and len(found) == 3 + len(stages)
    assert {r.data.tags["mlflow.parentRunId"] for r in variants} == {parent.info.run_id}
    assert {r.data.tags["mlflow.parentRunId"] for r in stages} <= {r.info.run_id for r in variants}
    for run in stages:
        assert [m.step for m in history(runs, run)] == [0]
        (weights,) = (runs / "mlruns" / run.info.run_id / "artifacts").glob("parts.json")
        kept = json.loads(weights.read_text())
        assert kept["folder"] == f"stages/{run.info.run_name}"
        assert all(sha256_file(runs / kept["folder"] / name) == f["sha256"] for name, f in kept["files"].items())

    # From each run a person gets to those that it is made of.
    assert all(page(run) in note(parent) for run in variants)
    for each in variants:
        own = {value for key, value in each.data.tags.items() if key.startswith("remora.stage.")}
        assert len(own) >= 3 and all(page(run) in note(each) for run in stages if run.info.run_id in own)
    by_name = {run.info.run_name: run for run in stages}
    after = [(by_name[name], run) for run in stages if (name := run.data.tags["remora.parent_stage"])]
    assert after and all(page(first) in note(then) for first, then in after)

    # And what it read: each dataset once, by its content, however often the run was taken up.
    for each in (*variants, *stages):
        assert len({i.dataset.name for i in each.inputs.dataset_inputs}) == len(each.inputs.dataset_inputs) > 0
        read = [i for i in each.inputs.dataset_inputs if i.tags[0].value == "training"]
        assert all(json.loads(i.dataset.profile)["records"] > 0 for i in read)
        assert all(len(i.dataset.digest) == 36 for i in each.inputs.dataset_inputs)
    names = {(i.dataset.name, i.tags[0].value) for each in variants for i in each.inputs.dataset_inputs}
    assert {name for name, context in names if context == "training"} == {
        "demo-language", "demo-captions", "demo-finetune"
    }  # fmt: skip
    assert {name for name, context in names if context == "evaluation"} == set(space.benchmarks)

    # Every result is a model, once; runs say which they read and made, and a figure knows its model and its questions.
    models = {m.model_id: m for m in logged(runs)}
    assert sorted(m.model_type for m in models.values()) == ["bundle"] * 2 + ["stage run"] * len(stages)
    linked = {key: whole(runs, run) for key, run in found.items()}
    made = {run.info.run_id: [o.model_id for o in run.outputs.model_outputs] for run in linked.values() if run.outputs}
    for id, model in models.items():
        assert made[model.source_run_id] == [id] and (runs / model.tags["remora.folder"]).is_dir()
        (maker,) = (run for run in found.values() if run.info.run_id == model.source_run_id)
        assert model.params == maker.data.params
    for run in linked.values():
        if run.data.tags["remora.kind"] != "search":
            before = run.data.tags.get("remora.parent_stage")
            read = [models[i.model_id].name for i in run.inputs.model_inputs]
            assert read == ([before] if before else []) if run in of_kind(linked, "stage") else len(read) == 1
    for model in models.values():
        if model.model_type == "bundle":
            by = {(m.key, m.dataset_name, m.dataset_digest) for m in model.metrics}
            assert {(f"{b}/accuracy_low", b, "5" * 36) for b in space.benchmarks} <= by


def cut(database):
    database.write_bytes(b"no database" * 100)


def folder(database):
    database.unlink()
    database.mkdir()


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [cut, folder])
def test_figures_come_although_mlflow_cannot_be_opened(spoil, runs, work, empty_database, monkeypatch):
    spoil(runs / "mlflow.db")
    monkeypatch.setattr(suite, "measure", work.measure)
    monkeypatch.setattr(suite, "bundle_name", lambda bundle: "model")
    monkeypatch.setattr(suite, "weights_digest", lambda bundle: "ab")

    class Prepared:
        name, data = "gqa", runs / "data"

    notes = []
    (found,) = suite.evaluate(runs / "b", [Prepared()], Store(runs), work, Cluster(), note=notes.append)
    assert found.score.accuracy == 0.5
    (said,) = notes
    assert said.startswith("MLflow at sqlite:") and said.endswith(f"its record is kept in {runs}; later: remora sync")
    (shutil.rmtree if (runs / "mlflow.db").is_dir() else Path.unlink)(runs / "mlflow.db")
    shutil.copy(empty_database, runs / "mlflow.db")
    assert Tracker(runs).sync().refused == []
    (kept,) = recorded(runs).values()
    assert kept.info.status == "FINISHED"
    (asked,) = kept.inputs.dataset_inputs
    assert asked.dataset.name == "gqa" and asked.dataset.digest == "5" * 36 and asked.tags[0].value == "evaluation"
