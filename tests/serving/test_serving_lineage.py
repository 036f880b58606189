"""What the endpoint says of its model: scores with blind and question-only beside, stage runs, digests of the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from remora import tracking
from remora.errors import TrackingError
from remora.files import publishing
from remora.inference.bundle import weights_digest
from remora.serving import champion
from remora.serving.args import EndpointArgs
from remora.serving.champion import ServedModel
from remora.serving.keys import ApiKey, hash_of, new_key
from remora.serving.lineage import BenchmarkScore, Lineage, lineage
from support import serving_fake
from support.serving_fake import call

PARTS = {"connector": {"name": "x", "folder": "connector", "adapters": []}}
SAID = {"name": "mid", "parts": PARTS, "template": "brief", "aspect": "square", "seed": 0}
SCORE = {"metric": "accuracy", "accuracy": 0.75, "ci": [0.7, 0.8], "n": 100, "blind": 0.4, "question_only": 0.5}
EXPECTED = BenchmarkScore("accuracy", 0.75, (0.7, 0.8), 100, 0.4, 0.5)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run folder with a bundle, its stage runs and its scores."""
    root = tmp_path / "runs"
    with publishing(root / "bundles" / "mid-1") as folder:
        (folder / "connector").mkdir()
        (folder / "connector" / "model.safetensors").write_bytes(b"weights")
        (folder / "bundle.json").write_text(json.dumps(SAID | {"about": {"stages": ["align-1", "finetune-2"]}}))
    for stage, mixture, index in [
        ("align-1", {"dataset": "captions", "path": None}, "a"),
        ("finetune-2", {"dataset": None, "path": "data/mine.json"}, "b"),
    ]:
        job = {"stage": {"mixture": [mixture]}, "datasets": [f"data/index/{index}"]}
        (root / "stages" / stage).mkdir(parents=True)
        (root / "stages" / stage / "job.json").write_text(json.dumps(job))
        (root / "data" / "index" / index).mkdir(parents=True)
        (root / "data" / "index" / index / "index.json").write_text(json.dumps({"digest": f"digest of {index}"}))
    weights = weights_digest(root / "bundles" / "mid-1")
    for name, benchmark, of, change in [
        ("mine", "easy-vqa", weights, {}),
        ("theirs", "easy-vqa", "0" * 64, {"accuracy": 0.1}),
        ("torn", "pope", weights, {"accuracy": None}),
    ]:
        (root / "scores" / name).mkdir(parents=True)
        about = {"model": "mid", "weights": of, "benchmark": benchmark, "questions": "q"}
        (root / "scores" / name / "about.json").write_text(json.dumps(about))
        (root / "scores" / name / "score.json").write_text(json.dumps(SCORE | {"benchmark": benchmark} | change))
    return root


def test_a_run_folder_says_it_all(runs: Path) -> None:
    bundle = runs / "bundles" / "mid-1"
    found = lineage(bundle, runs, tags={"benchmark": "easy-vqa"})
    data = {"captions": "digest of a", "mine.json": "digest of b"}
    scores = {"easy-vqa": EXPECTED}
    assert found == Lineage(weights_digest(bundle), ("align-1", "finetune-2"), data, scores, "easy-vqa")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "[" * 10_000, '{"about": 3, "stage": 3}', '{"stage": {"mixture": [3]}}']
)
def test_what_is_gone_or_torn_is_left_out(runs: Path, text: str) -> None:
    for file in [*runs.rglob("job.json"), *runs.rglob("index.json"), *runs.rglob("score.json")]:
        file.write_text(text)
    found = lineage(runs / "bundles" / "mid-1", runs)
    assert (found.data, found.scores, found.stages) == ({}, {}, ("align-1", "finetune-2"))
    for file in [*runs.rglob("bundle.json"), *runs.rglob("about.json")]:
        file.write_text(text)
    assert lineage(runs / "bundles" / "mid-1", runs) == Lineage()
    assert lineage(runs / "nowhere", runs / "nowhere") == Lineage()


def test_mlflow_says_it_where_the_run_folder_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {"easy-vqa/accuracy": 0.75, "easy-vqa/accuracy_low": 0.7, "easy-vqa/accuracy_high": 0.8, "val_loss": 1.0}
    beside = {"easy-vqa/blind": 0.4, "easy-vqa/question_only": 0.5, "easy-vqa/n": 100.0, "easy-vqa/accuracy.red": 1.0}
    monkeypatch.setattr(tracking, "facts_of_run", lambda *_: (metrics | beside, {"captions": "abc"}))
    found = lineage(tmp_path, tmp_path, tracking.Tracker(tmp_path), "run-1")
    assert (found.data, found.scores) == ({"captions": "abc"}, {"easy-vqa": EXPECTED})

    def away(*_: Any) -> Any:
        raise TrackingError("MLflow does not answer")

    monkeypatch.setattr(tracking, "facts_of_run", away)
    assert lineage(tmp_path, tmp_path, tracking.Tracker(tmp_path), "run-1") == Lineage()


def test_mlflow_itself(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with data and figures, registered: what the replica finds without the run folder's other files."""
    monkeypatch.setattr("remora.inference.Answerer.load", lambda folder, cache: None)
    runs, uri = tmp_path / "runs", f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    tracker = tracking.Tracker(runs, uri)
    data = tracking.Input("captions", "abc", "here", "training", {})
    run = tracking.Run(runs, key="variant/1/alone", name="mid", inputs=[data])
    with run:
        run.note(metrics={"easy-vqa/accuracy": 0.75, "easy-vqa/accuracy_low": 0.7, "easy-vqa/accuracy_high": 0.8})
    with publishing(tmp_path / "bundle") as folder:
        (folder / "bundle.json").write_text(json.dumps(SAID | {"about": {}}))
    tracking.register(tracker, "remora", run.key, tmp_path / "bundle", tags={"benchmark": "easy-vqa"})
    found = champion.load(EndpointArgs(runs=runs, tracking_uri=uri))
    assert (found.version, found.lineage.data, found.lineage.chosen_by) == ("1", {"captions": "abc"}, "easy-vqa")
    assert found.lineage.scores == {"easy-vqa": BenchmarkScore("accuracy", 0.75, (0.7, 0.8))}
    model = tracking.find_model("remora@champion", runs, uri)
    assert champion.loader(model)(EndpointArgs(runs=runs, tracking_uri=uri)).lineage == found.lineage
    with publishing(tmp_path / "int8") as folder:
        (folder / "bundle.json").write_text(json.dumps(SAID | {"about": {}, "weights": "int8"}))
    monkeypatch.setattr(champion, "with_weights", lambda *_: tmp_path / "int8")
    for load in (champion.load, champion.loader(model)):
        own = load(EndpointArgs(runs=runs, tracking_uri=uri, weights="int8")).lineage
        assert own.weights == weights_digest(tmp_path / "int8") != found.lineage.weights
        assert (own.data, own.scores) == ({"captions": "abc"}, {}), "the scores are those of other weights"
    with pytest.raises(TrackingError, match="has no run"):
        tracking.facts_of_run(tracker, "0" * 32)


def test_the_endpoint_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Lineage("w", ("align-1",), {"captions": "abc"}, {"easy-vqa": EXPECTED}, "easy-vqa")
    plain = serving_fake.load(EndpointArgs())
    monkeypatch.setattr(serving_fake, "load", lambda _: ServedModel(plain.answerer, "3", "run-1", known))
    metadata = call("GET", "/v1/models").json()["data"][0]["metadata"]
    assert metadata["chosen_by"] == "easy-vqa"
    figures = {"metric": "accuracy", "score": 0.75, "ci": [0.7, 0.8], "n": 100, "blind": 0.4, "question_only": 0.5}
    assert metadata["scores"] == {"easy-vqa": figures}
    assert call("GET", "/version").json() == {
        "remora": "0.1.0",
        "model": "remora",
        "version": "3",
        "name": "share-Fake",
        "system_fingerprint": "remora@3",
        "key_limits_of": None,
        "lineage": {"run_id": "run-1", "weights": "w", "stages": ["align-1"], "data": {"captions": "abc"}},
        "draining": [],
        "refused": None,
    }
    key = new_key()
    keyed = EndpointArgs(keys={"alice": ApiKey(sha256=hash_of(key))})
    asked = {"headers": {"authorization": f"Bearer {key}"}}
    assert call("GET", "/version", keyed, **asked).json()["key_limits_of"] == "ingress replica"
    assert call("GET", "/readyz").json() == {"status": "ready", "model": "share-Fake", "version": "3"}
