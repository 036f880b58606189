"""`remora plan --calibrate` and `cluster: auto`, with the real commands on this machine's CPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.tiny import write_records

pytestmark = pytest.mark.slow


def said(place: Path, *argv: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "REMORA_"))}
    env = kept | {"HOME": str(place), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "remora", *argv, "--runs", str(place / "runs")]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_few_real_steps_tell_the_time_and_the_rehearsal_confirms_what_was_chosen(tmp_path: Path) -> None:
    write_records(tmp_path, count=12, images=".")
    write_records(tmp_path, "words.json", count=12, pictures=False)
    stage = {"steps": 6, "batch": 4, "lr": 1e-3, "mixture": [{"path": "train.json"}]}
    spec = {"vision": "efficientnet-lite0", "connector": "mlp2x_gelu", "llm": "demo-2m", "recipe": "base"}
    spec |= {"overrides": {"language": stage | {"mixture": [{"path": "words.json"}]}, "align": stage}}
    spec["overrides"]["finetune"] = stage
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec | {"cluster": {"auto": True, "workers": 1}}))

    planned = json.loads(said(tmp_path, "plan", str(tmp_path / "spec.yaml"), "--calibrate", "--json"))
    assert planned["rate"]["source"] == "measured: 3 stages that --calibrate took steps of"
    assert {row["state"] for row in planned["stage_runs"]} == {"to train"}
    assert not list((tmp_path / "runs" / "stages").glob("*/record.json"))

    told = said(tmp_path, "train", str(tmp_path / "spec.yaml"), "--local", "--plain")
    assert "cluster: auto on" in told and "workers: 1, zero: 0, micro_batch: 4, activation_checkpointing: false" in told
    records = [json.loads(f.read_text()) for f in (tmp_path / "runs" / "stages").glob("*/record.json")]
    assert len(records) == 3
    for record in records:
        assert "--calibrate" in record["predicted"]["source"] or "stage run" in record["predicted"]["source"]
        journal = tmp_path / "runs" / "stages" / f"{record['stage']}-{record['identity'][:12]}" / "journal.jsonl"
        assert '"rehearsed"' in journal.read_text()
