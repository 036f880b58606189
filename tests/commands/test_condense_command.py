"""`remora data condense` from a spec to a dataset ready for training, without Ray; and its errors, one line each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from remora import tracking
from remora.cli import main
from remora.condense.vectors import Vectors
from remora.data.mixture import read_mixture
from remora.spec import MixtureEntry
from support.condense_reference import coreset, unit
from support.dual_encoders import write_encoder, write_pictures

pytestmark = pytest.mark.slow
COPIES = {i: i - 20 for i in range(30, 40)}
RANKS = {"text_rank": [0.2, 0.8], "centroid_rank": [0.1, 0.7], "duplicate": 0.993}


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """Forty pictures, ten of them near-copies of ten others, one torn."""
    write_encoder(tmp_path / "clip")
    write_pictures(tmp_path, 40, COPIES)
    (tmp_path / "images" / "7.png").write_bytes(b"torn")
    return write_spec(tmp_path)


def write_spec(folder: Path, **changes: object) -> Path:
    source = {"path": str(folder / "train.json"), "images": str(folder / "images")}
    encoder = {"model": str(folder / "clip"), "batch": 8, "part": 16}
    facts = {"name": "tiny", "source": source, "encoder": encoder, "clusters": {"count": 4}, **RANKS, **changes}
    (folder / "condense.yaml").write_text(yaml.safe_dump({k: v for k, v in facts.items() if v is not None}))
    return folder / "condense.yaml"


def condense(spec: Path, *more: str) -> Path:
    main(["data", "condense", str(spec), "--runs", str(spec.parent / "runs"), *more])
    return spec.parent / "runs" / "condensed" / "tiny"


def test_the_kept_set_is_brute_forces_and_it_trains(spec, capsys):
    out = condense(spec)
    said = capsys.readouterr().out
    (embeddings,) = (out / "steps").glob("embeddings-*")
    images, texts = (
        Vectors([p / f"{kind}.npy" for p in sorted(embeddings.iterdir())]).take(np.arange(40))
        for kind in ("images", "texts")
    )
    (clusters,) = (out / "steps").glob("clusters-*")
    labels, centroids = np.load(clusters / "labels.npy"), np.load(clusters / "centroids.npy")
    assert labels[7] == -1
    images[7] = 1  # without a length; no cluster has it
    wanted = coreset(images, texts, labels, centroids, 0.993, (0.2, 0.8), (0.1, 0.7))
    kept = np.load(out / "dataset" / "rows.npy").tolist()
    assert kept == wanted[2] and len(wanted[0]) == 29  # 40 without the torn one and ten copies
    x = unit(images)
    assert all(x[i] @ x[j] > 0.993 for i, j in COPIES.items())

    record = json.loads((out / "dataset" / "condensation.json").read_text())
    assert [s["step"] for s in record["steps"]] == ["clusters", "duplicates", "text-rank", "centroid-rank"]
    assert [s["counts"]["kept"] for s in record["steps"]] == [39, *map(len, wanted)]
    assert record["left_out"]["counts"] == {"corrupt-image": 1} and record["left_out"]["examples"][0]["row"] == 7
    assert "left out: 1 corrupt-image" in said and f"kept: {len(kept)} " in said

    (entry,) = yaml.safe_load(said.partition("in a stage's mixture:\n")[2])
    samples = read_mixture([MixtureEntry.model_validate(entry)], spec.parent)[0]
    assert [s.id for s in samples] == [f"r{row}" for row in kept]
    assert all(Path(s.images[0].location).exists() for s in samples)
    source = json.loads((spec.parent / "train.json").read_text())
    lines = (out / "dataset" / "kept.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [source[row] for row in kept]
    assert capsys.readouterr().out == "" and check(out / "dataset" / "kept.jsonl", spec.parent / "images") is None


def check(file: Path, images: Path) -> None:
    main(["data", "check", str(file), "--images", str(images)])


def test_again_and_changed(spec, capsys):
    out = condense(spec)
    first = {p.name: p.read_bytes() for p in (out / "dataset").iterdir()}
    capsys.readouterr()
    condense(spec)
    said = capsys.readouterr().out
    assert said.count("(was there)") == 4 and "0 of 3 parts to make, 16 samples each" in said
    assert {p.name: p.read_bytes() for p in (out / "dataset").iterdir()} == first
    condense(write_spec(spec.parent, sample=3, centroid_rank=[0.0, 1.0]))
    said = capsys.readouterr().out
    assert said.count("(was there)") == 3 and "sample: from" in said
    assert len(np.load(out / "dataset" / "rows.npy")) == 3


def test_mlflow_has_the_counts_of_each_step(spec):
    out = condense(spec)
    runs = spec.parent / "runs"
    record = json.loads((out / "dataset" / "condensation.json").read_text())
    with tracking.Tracker(runs).client() as client:
        (experiment,) = [e for e in client.search_experiments() if e.name == "remora"]
        (run,) = client.search_runs([experiment.experiment_id])
        for step in record["steps"]:
            for name, value in step["counts"].items():
                assert run.data.metrics[f"{step['step']}.{name}"] == pytest.approx(value), step
        assert run.info.run_name == "condense" and run.info.status == "FINISHED"
        assert run.data.params["duplicate"] == "0.993" and run.data.params["clusters.count"] == "4"
        artifact = client.download_artifacts(run.info.run_id, "manifest.json", str(spec.parent))
    assert json.loads(Path(artifact).read_text()) == record


def test_embeddings_that_are_there_already(tmp_path):
    """Published embeddings condense without pictures or records: row numbers come out."""
    g = np.random.default_rng(0)
    for kind in ("img_emb", "text_emb"):
        (tmp_path / kind).mkdir()
        for i in range(2):
            np.save(tmp_path / kind / f"{kind}_{i:04d}.npy", g.standard_normal((300, 12)).astype(np.float16))
    given = {"images": str(tmp_path / "img_emb"), "texts": str(tmp_path / "text_emb")}
    out = condense(write_spec(tmp_path, source=None, encoder=None, embeddings=given)) / "dataset"
    record = json.loads((out / "condensation.json").read_text())
    assert sorted(p.name for p in out.iterdir()) == ["condensation.json", "left-out.jsonl", "manifest.json", "rows.npy"]
    assert 0 < record["kept"] == len(np.load(out / "rows.npy")) and "mixture" not in record


def failed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as e:
        main(list(argv))
    message = str(e.value.code)
    assert message.startswith("remora: ") and "\n" not in message
    assert "Traceback" not in "".join(capsys.readouterr())
    return message


def test_errors_are_one_line(spec, capsys):
    runs = ("--runs", str(spec.parent / "runs"))
    g = spec.parent / "given"
    g.mkdir()
    np.save(g / "a.npy", np.eye(5))
    given = {"images": str(g), "texts": str(g)}
    write_spec(spec.parent, encoder=None, embeddings=given)
    assert "40 records but 5 embeddings" in failed(capsys, "data", "condense", str(spec), *runs)
    write_spec(spec.parent, clusters={"count": 50})
    assert "50 clusters for 39 embeddings" in failed(capsys, "data", "condense", str(spec), *runs)
    write_spec(spec.parent, encoder=str(spec.parent / "nowhere"))
    assert "no folder" in failed(capsys, "data", "condense", str(spec), *runs)
    write_spec(spec.parent, source={"path": str(spec.parent / "no.json")})
    assert "missing dataset file" in failed(capsys, "data", "condense", str(spec), *runs)
    with tracking.Tracker(spec.parent / "runs").client() as client:
        (experiment,) = [e for e in client.search_experiments() if e.name == "remora"]
        assert {r.info.status for r in client.search_runs([experiment.experiment_id])} == {"FAILED"}
