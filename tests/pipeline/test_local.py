"""`remora train --local` and `remora evaluate --local`: the real commands, without Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml
from PIL import Image

from remora.training.journal import steps_of
from support.tiny import write_records

WITHOUT_RAY = """
import sys
from remora.cli import main
main(sys.argv[1:])
assert "ray" not in sys.modules
"""
QUESTIONS = "title: colours\nquestions: colours.jsonl\nimages: .\nmetric: multiple-choice\nmax_new_tokens: 8\n"
STEPS = 8

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Records with pictures and without, and a user's benchmark."""
    root = tmp_path_factory.mktemp("local")
    write_records(root, count=12, images=".")
    write_records(root, "words.json", count=12, pictures=False)
    (root / "colours.yaml").write_text(QUESTIONS)
    lines = []
    for i, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (32, 32), colour).save(root / f"{colour}.png")
        record = {"question_id": i, "image": f"{colour}.png", "text": "Which?", "answer": colour, "category": "c"}
        lines.append(json.dumps(record | {"choices": ["red", "green", "blue", "white"]}))
    (root / "colours.jsonl").write_text("\n".join(lines) + "\n")
    return root


def spec(place, name, benchmark="colours.yaml", **cluster):
    """A variant of `base` with a few steps a stage."""
    stage = {"steps": 3, "batch": 4, "lr": 1e-3, "mixture": [{"path": str(place / "train.json")}]}
    overrides = {
        "language": stage | {"mixture": [{"path": str(place / "words.json")}]},
        "align": stage,
        "finetune": stage | {"steps": STEPS},
    }
    parts = {"vision": "efficientnet-lite0", "connector": "mlp2x_gelu", "llm": "demo-2m", "recipe": "base"}
    rest = {"overrides": overrides, "cluster": cluster, "benchmarks": [str(place / benchmark)]}
    (place / name).write_text(yaml.safe_dump(parts | rest))
    return str(place / name)


def said(place, runs, *argv):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "REMORA_"))}
    env = kept | {"HOME": str(place), "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "127.0.0.1:1"}  # which --local ignores
    command = [sys.executable, "-c", WITHOUT_RAY, *argv, "--local", "--runs", str(place / runs)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def losses(place, runs):
    """Of every stage run by its name."""
    found = (place / runs / "stages").glob("*/journal.jsonl")
    return {f.parent.name: [e["loss"] for e in steps_of(f)] for f in found}


@pytest.fixture(scope="module")
def one(place):
    """What one rank in the command's own process prints."""
    code, out, err = said(place, "one", "train", spec(place, "one.yaml", micro_batch=4))
    assert code == 0, err
    return out


def test_it_trains_measures_and_records(place, one):
    from mlflow.tracking import MlflowClient

    taken = losses(place, "one")
    assert sorted(len(steps) for steps in taken.values()) == [3, 3, STEPS]
    assert "colours: accuracy " in one and "starting Ray" not in one
    client = MlflowClient(f"sqlite:///{place}/one/mlflow.db")
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert {r.info.status for r in found} == {"FINISHED"}
    stages = {r.info.run_name: r for r in found if r.data.tags["remora.kind"] == "stage"}
    assert stages.keys() == taken.keys()
    for name, run in stages.items():
        assert [m.value for m in client.get_metric_history(run.info.run_id, "loss")] == taken[name]


def test_evaluate_answers_as_the_training_did(place, one):
    (bundle,) = (place / "one" / "bundles").iterdir()
    asked = ("evaluate", str(bundle), "--benchmarks", str(place / "colours.yaml"), "--json")
    code, out, err = said(place, "other", *asked)  # a run folder that holds no answer yet
    assert code == 0, err
    (kept,) = (place / "one" / "scores").glob("*/report.json")
    assert json.loads(out)["colours"]["items"] == json.loads(kept.read_text())["items"]


def test_what_is_missing_is_one_line_before_anything_is_trained(place):
    (place / "gone.yaml").write_text(QUESTIONS.replace("colours.jsonl", "gone.jsonl"))
    (place / "gone.jsonl").write_text((place / "colours.jsonl").read_text().replace(".png", ".jpg"))
    code, _, err = said(place, "never", "train", spec(place, "three.yaml", "gone.yaml"))
    assert code == 1 and len(err.splitlines()) == 1
    assert f"gone.yaml: all of its pictures are missing, the first: {place}/red.jpg" in err
    assert not list((place / "never" / "stages").iterdir())
