"""Verbs that only read and count import no torch, Ray or MLflow, which would take 4 s before the first line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.eval_folder import write_eval_folder
from support.tiny import write_records

HEAVY = ("torch", "ray", "mlflow", "transformers", "deepspeed", "scipy")
FOREIGN = ("httpx", "openpyxl", "pyarrow")
"""What only a judge, a workbook or a hub's table needs: not the score of a JSON file."""
BANNED = """
import json, sys
from importlib.abc import MetaPathFinder

class Ban(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in json.loads(sys.argv[2]):
            raise ImportError(f"a light verb loads {name}")

sys.meta_path.insert(0, Ban())
from remora.cli import main
for argv in json.loads(sys.argv[1]):
    print("##", *argv, flush=True)
    main(argv)
"""
VARIANT = """
vision: efficientnet-lite0
connector: mlp2x_gelu
llm: demo-2m
recipe: base
overrides:
  language: {{steps: 4, mixture: [{{path: {words}}}]}}
  align: {{steps: 4, mixture: [{{path: {path}}}]}}
  finetune: {{steps: 4, mixture: [{{path: {path}}}]}}
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every light verb, in processes that may import nothing heavy: what each printed, by its words."""
    root = tmp_path_factory.mktemp("light")
    records = write_records(root, images=".", pictures=True)
    words = write_records(root, "words.json", pictures=False)
    spec = root / "spec.yaml"
    spec.write_text(VARIANT.format(path=records, words=words))
    eval_data = write_eval_folder(root / "eval")
    questions = json.loads(next((eval_data / "gqa").rglob("*questions*.json")).read_text())
    answers, others = root / "answers.jsonl", root / "others.jsonl"
    answers.write_text("".join(json.dumps({"question_id": i, "text": "yes"}) + "\n" for i in questions))
    others.write_text("".join(json.dumps({"question_id": i, "text": "red"}) + "\n" for i in questions))
    runs = ["--runs", str(root / "runs")]
    score = ["score", "gqa", "--data", str(eval_data / "gqa"), *runs, "--answers"]
    verbs = [
        ["catalog"],
        ["catalog", "benchmarks"],
        ["catalog", "llm", "phi-2"],
        ["catalog", "datasets", "demo-captions"],
        ["catalog", "check"],
        ["render", "tune/demo.yaml"],
        ["plan", str(spec), *runs],
        ["data", "check", str(words), *runs],
        ["data", "check", str(spec), *runs],
        ["data", "index", str(records), *runs],
        ["data", "convert", str(records), str(root / "out.jsonl"), *runs],
    ]
    scores = [[*score, str(answers)], [*score, str(answers), "--json"], [*score, str(others), "--json"]]
    found = run(scores, *HEAVY, *FOREIGN)
    reports = [root / "a" / "report.json", root / "b" / "report.json"]
    for file, scored in zip(reports, (answers, others), strict=True):
        file.parent.mkdir()
        file.write_text(found[" ".join([*score, str(scored), "--json"])])
    return found | run([*verbs, ["compare", *map(str, reports), *runs]], *HEAVY)


def run(verbs: list[list[str]], *banned: str) -> dict[str, str]:
    """Run verbs in one process that must not import any of `banned`; returns each one's output."""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", BANNED, json.dumps(verbs), json.dumps(banned)],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    return {k.splitlines()[0]: k.partition("\n")[2] for k in done.stdout.split("## ")[1:]}


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["catalog", "catalog check", "render", "plan", "score", "data check", "compare"])
def test_a_light_verb_loads_nothing_heavy(verb: str, said: dict[str, str]) -> None:
    printed = [text for words, text in said.items() if words.startswith(verb)]
    assert printed and all(text.strip() for text in printed)
