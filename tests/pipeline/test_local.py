"""`remora train --local` and `remora evaluate --local`: the real commands, without Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from remora.cli import main
from remora.training.journal import steps_of, validations_of
from support.colours import QUESTIONS, write_colours
from support.tiny import write_records

WITHOUT_RAY = """
import sys
from remora.cli import main
main(sys.argv[1:])
assert "ray" not in sys.modules
"""
ASKED_TO_STOP = """
from remora.pipeline.local import Local
from remora.training import pausing
train = Local.train
def asked(self, feed, *where):
    *_, last = feed.left()
    pausing.ask(last.job.folder)
    train(self, feed, *where)
Local.train = asked
"""
STEPS = 8

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Records with pictures and without, and a user's benchmark."""
    root = tmp_path_factory.mktemp("local")
    write_records(root, count=12, images=".")
    write_records(root, "words.json", count=12, pictures=False)
    write_records(root, "more.json", count=20, images=".")  # 12 of them are trained on
    write_colours(root)
    return root


def spec(place, name, benchmark="colours.yaml", limit=5, **cluster):
    """A variant of `base` with a few steps a stage, the last of them validated."""
    stage = {"steps": 3, "batch": 4, "lr": 1e-3, "mixture": [{"path": str(place / "train.json")}]}
    overrides = {
        "language": stage | {"mixture": [{"path": str(place / "words.json")}]},
        "align": stage,
        "finetune": stage | {"steps": STEPS, "validate": {"mixture": [{"path": "more.json"}], "limit": limit}},
    }
    overrides["finetune"]["validate"] |= {"every": 4, "benchmark": {"name": "colours.yaml", "limit": 3}}
    parts = {"vision": "efficientnet-lite0", "connector": "mlp2x_gelu", "llm": "demo-2m", "recipe": "base"}
    rest = {"overrides": overrides, "cluster": cluster, "benchmarks": [str(place / benchmark)]}
    (place / name).write_text(yaml.safe_dump(parts | rest))
    return str(place / name)


def said(place, runs, *argv, before=""):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "REMORA_"))}
    env = kept | {"HOME": str(place), "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "127.0.0.1:1"}  # which --local ignores
    command = [sys.executable, "-c", before + WITHOUT_RAY, *argv, "--local", "--runs", str(place / runs)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def losses(place, runs):
    """Of every stage run by its name."""
    found = (place / runs / "stages").glob("*/journal.jsonl")
    return {f.parent.name: [e["loss"] for e in steps_of(f)] for f in found}


@pytest.fixture(scope="module")
def one(place):
    """What one rank in the command's own process prints after it was asked to stop and then resumed."""
    train = ("train", spec(place, "one.yaml", micro_batch=4))
    code, _, err = said(place, "one", *train, before=ASKED_TO_STOP)
    assert code == 1 and err.splitlines()[-1].startswith(
        "remora: stage 'finetune' was asked to stop and did after 4 of 8 steps, kept at a checkpoint; next: run"
    ), err
    code, out, err = said(place, "one", *train)
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


def test_what_was_predicted_of_a_stage_run_is_kept_beside_what_came(place, one):
    for record in sorted((place / "one" / "stages").glob("*/record.json")):
        found = json.loads(record.read_text())
        said, came = found["predicted"]["figures"], found["came"]
        assert 0.5 < said["memory"] / came["memory"] < 2 and said["step"] > 0 < came["step"]
        assert found["predicted"]["workers"] == 1 and 0 < found["predicted"]["tensors"] < 0.5
        stopped = found["stage"] == "finetune"  # of two attempts the time is not told
        assert (came["seconds"] is None) == stopped


def finetuned(place):
    (folder,) = (f for f in (place / "one" / "stages").glob("finetune-*") if f.is_dir())
    return folder


def validations(folder):
    return [(v.step, v.share, v.loss, v.score) for v in validations_of(folder)]


def test_a_stage_is_validated_and_asked_a_benchmark_while_it_trains(place, one):
    folder = finetuned(place)
    found = validations(folder / "journal.jsonl")
    assert [(step, share) for step, share, _, _ in found] == [(3, 0.5), (7, 1.0)]
    assert all(score in (0.0, 1 / 3, 2 / 3, 1.0) for *_, score in found)
    assert f"held-out loss {found[-1][2]:.4f} after the last step" in one
    assert "12 samples of validate.mixture are left out of it" in one and "held out are 5" in one


def test_a_stage_run_that_was_validated_otherwise_is_measured_once_and_not_trained(place, one):
    folder = finetuned(place)
    before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    first = validations(folder / "journal.jsonl")
    for limit, times in ((5, 0), (8, 1), (8, 1)):
        code, _, err = said(place, "one", "train", spec(place, "two.yaml", limit=limit, micro_batch=2))
        assert code == 0, err
        later = validations(folder.with_name(f"{folder.name}.validations.jsonl"))
        assert len(later) == times, limit
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before
    ((step, share, loss, score),) = later
    assert (step, share, score) == (7, 1.0, first[-1][3])
    assert loss != first[-1][2] and loss == pytest.approx(first[-1][2], rel=0.5)  # of 8 samples, not of 5


def test_evaluate_answers_as_the_training_did(place, one):
    (bundle,) = (place / "one" / "bundles").iterdir()
    asked = ("evaluate", str(bundle), "--benchmarks", str(place / "colours.yaml"), "--json")
    code, out, err = said(place, "other", *asked)  # a run folder that holds no answer yet
    assert code == 0, err
    (kept,) = (place / "one" / "scores").glob("*/report.json")
    assert json.loads(out)["colours"]["items"] == json.loads(kept.read_text())["items"]


def answers(runs):
    """Every line; another command writes them in another order."""
    return sorted(line for f in (runs / "scores").glob("*/asked.jsonl") for line in f.read_text().splitlines())


def test_a_moved_run_folder_trains_and_asks_nothing_again(place, one):
    """Renamed, not copied: what is still looked for at the old place is not found."""
    old, new = place / "one", place / "moved"
    (bundle,) = (old / "bundles").iterdir()
    before = {f.relative_to(old): f.stat().st_mtime_ns for f in (old / "stages").glob("*/*") if f.is_file()}
    asked = answers(old)
    old.rename(new)
    try:
        code, out, err = said(place, "moved", "train", spec(place, "one.yaml", micro_batch=4))
        assert code == 0, err
        assert out.count(" reused") == 3 and "; 0 stage runs were trained" in out
        assert {f.relative_to(new): f.stat().st_mtime_ns for f in (new / "stages").glob("*/*") if f.is_file()} == before
        assert answers(new) == asked
        colours = str(place / "colours.yaml")
        code, out, err = said(place, "moved", "evaluate", bundle.name, "--benchmarks", colours, "--json")
        assert code == 0 and json.loads(out)["colours"], err
        main(["explain", bundle.name, "--runs", str(new), "--json", "--tracking-uri", f"sqlite:///{new}/mlflow.db"])
        main(["runs", "verify", "--runs", str(new)])
        main(["runs", "gc", "--runs", str(new)])
        assert not old.exists()
    finally:
        new.rename(old)


def test_what_is_missing_is_one_line_before_anything_is_trained(place):
    (place / "gone.yaml").write_text(QUESTIONS.replace("colours.jsonl", "gone.jsonl"))
    (place / "gone.jsonl").write_text((place / "colours.jsonl").read_text().replace(".png", ".jpg"))
    code, _, err = said(place, "never", "train", spec(place, "three.yaml", "gone.yaml"))
    assert code == 1 and len(err.splitlines()) == 1
    assert f"gone.yaml: all of its pictures are missing, the first: {place}/red.jpg" in err
    assert not list((place / "never" / "stages").iterdir())
