"""A stage has the same losses packed and padded, on one rank and two, with and without accumulation and ZeRO."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from remora.catalog import llm
from remora.data.mixture import read_mixture
from remora.model.llm import create_from_scratch
from remora.model.parts import PartRef
from remora.spec import Cluster, Stage
from remora.training.job import StageJob
from standins import small_llm

RANKS = Path(__file__).with_name("rows_ranks.py")
STEPS, BATCH, MAX_LENGTH = 20, 8, 64


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> StageJob:
    """Pictures and text-only records of unlike lengths, one that does not fit; Phi-2's class with its own dropout."""
    root = tmp_path_factory.mktemp("rows")
    records, draw = [], random.Random(0)
    for i in range(30):
        words = " ".join(draw.choice(["red", "circle", "number", "what"]) for _ in range(draw.randint(1, 12)))
        turns = [{"from": "human", "value": f"What is {i}?"}, {"from": "gpt", "value": f"{i} {words}"}]
        record = {"id": f"s{i}", "conversations": turns}
        if i % 3 == 0:  # every third has a picture: some rows and some ranks have none
            Image.new("RGB", (24, 24), (8 * i, 255 - 8 * i, 7 * i)).save(root / f"{i}.png")
            record["image"] = f"{i}.png"
            turns[0]["value"] = "<image>\n" + turns[0]["value"]
        records.append(record)
    records[5]["conversations"][1]["value"] = "red " * 200
    (root / "records.json").write_text(json.dumps(records))
    entry = llm("demo-2m").model_copy(update={"config": small_llm(llm("phi-2")).config | {"resid_pdrop": 0.1}})
    entry.config["vocab_size"] = 320
    create_from_scratch(entry, ["USER: What is number red circle? ASSISTANT: number 1"] * 4, 0, root / "llm")
    stage = Stage(
        name="rows",
        mixture=[{"path": str(root / "records.json")}],
        template="brief",
        tune={"vision": "frozen", "connector": "full", "llm": "full"},
        batch=BATCH,
        steps=STEPS,
        max_length=MAX_LENGTH,
        lr=1e-3,
        clip=1.0,
        eps=1e-6,  # the smallest gradients are the least equal, and AdamW makes them as large as any
    )
    parts = {
        "vision": PartRef("efficientnet-lite0"),
        "connector": PartRef("linear"),
        "llm": PartRef("demo-2m", root / "llm"),
    }
    datasets = [d.folder for d in read_mixture(stage.mixture, root)]
    return StageJob(stage, parts, root / "work", datasets, 0, Cluster(checkpoint_every=1000, zero=0))


def run(job: StageJob, world: int, layouts: dict[str, dict[str, object]]) -> dict[str, list[dict[str, object]]]:
    job.folder.mkdir(exist_ok=True)
    file, out = job.folder / "job.json", job.folder / f"out-{world}.json"
    file.write_text(job.to_json())
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    env["WORLD_SIZE"] = str(world)
    command = [sys.executable, "-W", "ignore", str(RANKS), str(file), str(out), json.dumps(layouts)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    ranks = [subprocess.Popen(command, env=env | {"RANK": str(r), "LOCAL_RANK": str(r)}, **pipes) for r in range(world)]
    said = [p.communicate()[0] for p in ranks]
    assert [p.returncode for p in ranks] == [0] * world, said[0][-3000:]
    return json.loads(out.read_text())


# A step of eight samples has some 205 tokens: 1, 2 and 4 rows of 64 tokens x micro_batch, on two ranks 2 and 4.
ONE_RANK = {
    "padded-1": {"rows": "padded", "micro_batch": 8},
    "packed-1": {"rows": "packed", "micro_batch": 8},
    "packed-2": {"rows": "packed", "micro_batch": 2},
    "packed-4": {"rows": "packed", "micro_batch": 1},
    "padded-4": {"rows": "padded", "micro_batch": 2},
}
TWO_RANKS = {
    "2-packed-zero-0": {"rows": "packed", "micro_batch": 1, "zero": 0},
    "2-packed-zero-2": {"rows": "packed", "micro_batch": 1, "zero": 2},
    "2-packed-zero-2-one-pass": {"rows": "packed", "micro_batch": 8, "zero": 2},
    "2-padded-zero-2-alone": {"rows": "padded", "micro_batch": 1, "zero": 2},
}


@pytest.mark.e2e
def test_rows_change_no_loss(job) -> None:
    runs = run(job, 1, ONE_RANK) | run(job, 2, TWO_RANKS)
    steps = {name: [e for e in events if e["event"] == "step"] for name, events in runs.items()}
    expected = steps["padded-1"]
    assert len(expected) == STEPS
    for name, events in steps.items():
        for key, bound in (("loss", 1e-5), ("grad_norm", 1e-4), ("tokens", 0.0), ("samples", 0.0)):
            assert [e[key] for e in events] == pytest.approx([e[key] for e in expected], rel=bound), (name, key)
        assert [e["dropped"] for e in events] == [e["dropped"] for e in expected], name
        dropped = [e["sample"] for e in runs[name] if e["event"] == "dropped"]
        assert dropped == ["s5"] and sum(e["dropped"] for e in events) == 1, name  # named and counted once
        real = [e["real_tokens"] for e in events]
        assert min(real) == 1.0 if "packed" in name or "alone" in name else 0.3 < min(real) < max(real) < 1.0, name
