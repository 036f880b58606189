"""`remora evaluate`, by workers of real Ray and by one process: kills, a broken picture, MLflow, compare."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from support.noise import write_noise
from support.waiting import until

pytestmark = pytest.mark.ray

PICTURES, EACH = 40, 6
OWN = """\
title: colours
questions: colours.jsonl
images: images
metric: multiple-choice
max_new_tokens: 8
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, GQA's files for 40 pictures of which one is broken, and an own benchmark."""
    root = tmp_path_factory.mktemp("evaluate")
    for name, seed in (("one", 0), ("other", 1)):
        write_noise(root, name, seed)
    gqa = root / "eval" / "gqa"
    (gqa / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    asked = {}
    for i in range(PICTURES):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(gqa / "images" / f"n{i}.jpg")
        for j in range(EACH):
            asked[f"{i}x{j}"] = {
                "question": "What is this?" + " Is it blue?" * j,
                "imageId": f"n{i}",
                "isBalanced": True,
                "answer": ("red", "yes", "no")[j % 3],
                "types": {"structural": "query" if j % 2 else "verify", "semantic": "attr"},
            }
    (gqa / "images" / "n7.jpg").write_bytes(b"no picture")
    (gqa / "testdev_balanced_questions.json").write_text(json.dumps(asked))
    (root / "own.yaml").write_text(OWN)
    (root / "images").mkdir()
    lines = []
    for i, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (32, 32), colour).save(root / "images" / f"{colour}.png")
        record = {"question_id": i, "image": f"{colour}.png", "text": "Which?", "answer": colour, "category": "c"}
        lines.append(json.dumps(record | {"choices": ["red", "green", "blue", "white"]}))
    (root / "colours.jsonl").write_text("\n".join(lines) + "\n")
    return root


def command(place: Path, runs: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "remora", *more, "--runs", str(place / runs)]


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "REMORA_"))}
    return {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1"}


def evaluated(place: Path, runs: str, model: str = "one", *more: str) -> dict[str, Any]:
    asked = ["evaluate", str(place / model), "--benchmarks", "gqa", "--data", str(place / "eval"), "--json", *more]
    done = subprocess.run(command(place, runs, *asked), env=environment(place), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def answers(place: Path, runs: str) -> list[str]:
    (folder,) = (place / runs / "scores").glob("one-gqa-*")
    return [json.loads(line)["text"] for line in (folder / "answers.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(place: Path) -> dict[str, Any]:
    return evaluated(place, "whole", "one", "--workers", "2")["gqa"]


def test_every_question_is_asked_or_named(place, whole):
    assert whole["n"] == PICTURES * EACH and len(answers(place, "whole")) == (PICTURES - 1) * EACH
    assert len(set(answers(place, "whole"))) > 10, "the model says the same to everything"
    named = [w for w in whole["warnings"] if "could not be asked: unreadable image" in w and "n7.jpg" in w]
    assert len(named) == EACH
    assert all(i["score"] == 0 for i in whole["items"] if i["group"] == "n7")


def test_scoring_the_answer_file_gives_the_same(place, whole):
    (folder,) = (place / "whole" / "scores").glob("one-gqa-*")
    more = ["score", "gqa", "--data", str(place / "eval/gqa"), "--answers", str(folder / "answers.jsonl"), "--json"]
    done = subprocess.run(command(place, "whole", *more), env=environment(place), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scored = json.loads(done.stdout)
    assert (scored["metrics"], scored["items"]) == (whole["metrics"], whole["items"])


def test_figures_and_answers_are_in_mlflow(place, whole):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{place}/whole/mlflow.db")
    experiments = [e.experiment_id for e in client.search_experiments()]
    (run,) = client.search_runs(experiments, "tags.`remora.kind` = 'evaluation'")
    assert run.data.metrics["gqa/accuracy"] == whole["metrics"]["accuracy"]
    assert run.data.metrics["gqa/broken"] == EACH
    assert run.data.tags["remora.protocol.gqa"] == "official" and run.data.tags["remora.version.torch"]
    assert len(run.data.tags["remora.questions.gqa"]) == 64
    kept = {Path(f.path).name for f in client.list_artifacts(run.info.run_id, "benchmarks/gqa")}
    assert {"answers.jsonl", "broken.jsonl", "report.json"} <= kept


def test_a_killed_evaluation_goes_on_and_gives_the_same(place, whole):
    asked = ["evaluate", str(place / "one"), "--benchmarks", "gqa", "--data", str(place / "eval"), "--local"]
    first = subprocess.Popen(
        command(place, "killed", *asked), env=environment(place), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def lines() -> list[bytes]:
        found = list((place / "killed" / "scores").glob("one-gqa-*/asked.jsonl"))
        return found[0].read_bytes().splitlines() if found else []

    until("an answer", lambda: lines() or first.poll() is not None, 0.005)
    first.kill()
    first.wait()
    before = lines()
    assert len(before) < PICTURES * EACH, "it was over before it was killed"
    again = evaluated(place, "killed", "one", "--local")["gqa"]
    assert (again["metrics"], again["items"]) == (whole["metrics"], whole["items"])
    assert answers(place, "killed") == answers(place, "whole")  # one process and two of Ray's, whole and in pieces
    assert lines()[: len(before)] == before  # nothing was asked twice


def test_what_a_dead_worker_was_asked_is_asked_of_another(place, whole):
    asked = ["evaluate", str(place / "one"), "--benchmarks", "gqa", "--data", str(place / "eval"), "--json"]
    run = subprocess.Popen(
        command(place, "worker", *asked), env=environment(place), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )

    def asked_of() -> list[psutil.Process]:
        assert run.poll() is None
        return [p for p in psutil.Process(run.pid).children(recursive=True) if _title(p).startswith("ray::_answer")]

    until("a worker that answers", asked_of, 0.005)[0].kill()
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert out.startswith(b"{"), out[:2000]
    assert json.loads(out)["gqa"]["items"] == whole["items"]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it ended meanwhile
        return ""


def test_models_are_compared_and_an_own_benchmark_measured(place, whole):
    evaluated(place, "whole", "other", "--local")
    done = subprocess.run(
        command(place, "whole", "compare", str(place / "one"), str(place / "other"), "--json"),
        env=environment(place), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    compared = json.loads(done.stdout)["gqa"]
    assert compared["n"] == PICTURES * EACH and compared["figures"]["accuracy"]["a"] == whole["metrics"]["accuracy"]
    own = ["evaluate", str(place / "one"), "--benchmarks", str(place / "own.yaml"), "--local"]
    done = subprocess.run(command(place, "whole", *own), env=environment(place), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "own, protocol multiple-choice, 4 questions" in done.stdout


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["nobody", "--benchmarks", "gqa"], "no model 'nobody'"),
        (["one", "--benchmarks", "gqq"], "unknown benchmark 'gqq'; did you mean 'gqa'?"),
        (["one", "--benchmarks", "gqa"], "no data of benchmark 'gqa'"),
    ],
)
def test_what_is_missing_is_said_before_a_cluster_is_started(place, asked, message):
    model = str(place / asked[0]) if asked[0] == "one" else asked[0]
    done = subprocess.run(
        command(place, "empty", "evaluate", model, *asked[1:]), env=environment(place), capture_output=True, text=True
    )
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
