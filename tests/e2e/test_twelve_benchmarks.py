"""`remora evaluate --benchmarks all`: every published benchmark from its files to its figures, with a real model and a
judge on this machine; and `remora score` of each answer file gives the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from remora.catalog import PAPERS, entries
from remora.evaluation.benchmarks import benchmark, folders
from support.eval_folder import COUNTS, write_eval_folder
from support.noise import write_noise
from support.scripted_judge import scripted

pytestmark = pytest.mark.ray


def judged(body: dict[str, Any]) -> str:
    """MM-Vet's judge completes a row; LLaVA's gives two scores."""
    return "0.5" if len(body["messages"]) == 1 else "8 6\nThe second is short."


def remora(home: Path, judge: str, *more: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "REMORA_", "OPENAI_"))}
    env = {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", "OPENAI_BASE_URL": judge}
    command = [sys.executable, "-m", "remora", *more, "--runs", str(home / "runs")]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_twelve_from_files_to_figures(tmp_path):
    data = write_eval_folder(tmp_path / "eval")
    model = write_noise(tmp_path)
    wanted = ",".join(COUNTS)
    with scripted(judged) as judge:
        asked = ["evaluate", str(model), "--benchmarks", wanted, "--data", str(data), "--local", "--json"]
        reports = json.loads(remora(tmp_path, judge.url, *asked))
        asked_of_judge = len(judge.seen)
        assert {name: r["n"] for name, r in reports.items()} == COUNTS
        for name, report in reports.items():
            assert benchmark(name).headline in report["metrics"], name
            assert not [w for w in report["warnings"] if "could not be asked" in w], report["warnings"]
            (folder,) = (tmp_path / "runs" / "scores").glob(f"noise-{name}-*")
            lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().split("\n") if line]
            assert {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"} <= lines[0].keys()
            place = next(p for p in data.iterdir() if p.name in folders(name))
            given = ["--data", str(place), "--answers", str(folder / "answers.jsonl"), "--json"]
            scored = json.loads(remora(tmp_path, judge.url, "score", name, *given))
            assert {k: scored[k] for k in ("metrics", "items")} == {k: report[k] for k in ("metrics", "items")}, name
        assert len(judge.seen) == asked_of_judge > 0, "a reply that was kept was asked for again"
    assert reports["mmvet"]["metrics"]["total"] == 50 and reports["mmvet"]["judge"] == "gpt-4-0613"
    assert reports["llava-bench"]["metrics"]["score"] == 75


def test_every_published_score_is_of_a_benchmark_that_is_measured():
    assert all(benchmark(name).name == name for name in PAPERS)
    scores = entries("scores")
    assert len(scores) >= 40
    for name, entry in scores.items():
        assert {key.partition(".")[0] for key in entry.merged} <= set(PAPERS), name
