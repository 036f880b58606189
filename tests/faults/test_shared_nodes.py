"""Two nodes without a common disk run the tiny demo's search through an S3 store, and the first is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from remora.files import MANIFEST, manifest
from remora.training.journal import read
from support.s3 import keys_of, make_bucket, s3_server
from support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.faults]
HERE = Path(__file__).parent
SPACE = HERE.parent / "e2e" / "tiny.yaml"
STEPS = 48
CHANGES = {"[easy-vqa-val, easy-vqa, openmoji-unseen]": "[easy-vqa-val]", "steps: 24": f"steps: {STEPS}"}
"""Fewer questions, and more steps of the last stage, so that there is time to kill it."""
AddRow = Callable[..., None]


def start(folder: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    space, text = folder.with_name("space.yaml"), SPACE.read_text()
    for old, new in CHANGES.items():
        assert old in text
        text = text.replace(old, new)
    space.write_text(text)
    command = [sys.executable, "-W", "ignore", str(HERE / "shared_node.py"), "4", "search", str(space), "--local"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "REMORA_", "MLFLOW_"))}
    with folder.with_suffix(".log").open("wb") as out:
        return subprocess.Popen(
            [*command, "--plain"], env=kept | {"OMP_NUM_THREADS": "1"} | env, stdout=out, stderr=subprocess.STDOUT
        )


def kill(node: subprocess.Popen[bytes]) -> None:
    """All of its processes at once, like a power failure."""
    for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
        process.send_signal(signal.SIGKILL)
    node.wait()


def published(runs: Path) -> dict[str, dict[str, str]]:
    """Of each stage run and bundle the digests of what was trained."""
    found = {}
    for file in sorted([*runs.glob(f"stages/*/{MANIFEST}"), *runs.glob(f"bundles/*/{MANIFEST}")]):
        files = manifest(file.parent)
        found[file.parent.name] = {name: sha for name, sha in files.items() if name.endswith(".safetensors")}
    return found


def test_a_node_goes_on_where_a_killed_one_was(tmp_path: Path, card: AddRow) -> None:
    with s3_server() as s3:
        make_bucket(s3, "cluster")
        a, b, alone = (tmp_path / name for name in ("a", "b", "alone"))
        there = {**s3, "REMORA_RUNS": "s3://cluster/runs"}

        def sent() -> list[str]:
            return [k for k in keys_of(s3, "cluster") if "/finetune-" in k and ".work/manifest-" in k]

        first = start(a, {**there, "REMORA_NODE_FOLDER": str(a)})
        until("a checkpoint at the URL", lambda: sent() or first.poll() is not None)
        assert first.poll() is None, a.with_suffix(".log").read_text()[-3000:]
        kill(first)
        killed = time.time()
        (begun,) = {Path(key).parent.name.removesuffix(".work") for key in sent()}
        last = max(int(Path(key).stem.removeprefix("manifest-")) for key in sent())
        done = {p.parent.name for p in a.glob(f"stages/*/{MANIFEST}")}
        assert done and begun not in done

        second = start(b, {**there, "REMORA_NODE_FOLDER": str(b)})
        assert second.wait(900) == 0, b.with_suffix(".log").read_text()[-3000:]
        own = start(alone, {"REMORA_RUNS": str(alone)})
        assert own.wait(900) == 0, alone.with_suffix(".log").read_text()[-3000:]

        journal = list(read(b / "stages" / begun / "journal.jsonl"))
        again = [e for e in journal if e["event"] == "started" and e["time"] > killed]
        assert [e["at"] for e in again] == [last]
        steps = [e["step"] for e in journal if e["event"] == "step"]
        assert steps == list(range(STEPS))
        for name in done:  # nothing was trained twice
            of_a, of_b = (node / "stages" / name / "journal.jsonl" for node in (a, b))
            assert of_a.read_bytes() == of_b.read_bytes()
        assert published(b) == published(alone)
        results = [json.loads((runs / "searches" / "tiny.json").read_text()) for runs in (b, alone)]
        scores = [[(v["name"], v["benchmarks"]) for v in result["variants"]] for result in results]
        assert scores[0] == scores[1] and results[0]["champion"] == results[1]["champion"]
        assert not [k for k in keys_of(s3, "cluster") if ".work/" in k]
        next_step = min(e["time"] for e in journal if e["event"] == "step" and e["time"] > killed) - killed
        card("a node without a common disk is killed", "another goes on from S3", again[0]["again"], next_step)
