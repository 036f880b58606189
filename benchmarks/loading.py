"""Cost of loading: pictures opened per second by one process, and the time that steps wait for batches.

    python benchmarks/loading.py pictures
    python benchmarks/loading.py stage RUNS [LOADERS …]     # RUNS has the demo's data: remora data demo --runs RUNS
    python benchmarks/loading.py device [LOADERS …]

`stage` trains the first steps of jobs/demo-base.yaml's alignment on two ranks, in rounds, so that a busy minute of
the machine affects every setting. `device` takes a batch of photographs every 0.3 s, as a training process with a busy
accelerator does. LOADERS are values of `cluster.loaders`.
"""

from __future__ import annotations

import io
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from remora import catalog
from remora.data.mixture import read_mixture
from remora.data.pixels import decode
from remora.model.llm import train_tokenizer
from remora.model.refs import PartRef
from remora.reading.batches import StageData
from remora.reading.images import preprocess
from remora.reading.loader import Loader
from remora.reading.prompt import Prompter
from remora.runs import Store, path
from remora.spec import Cluster, Stage, Variant, load
from remora.training.build import make_start
from remora.training.job import StageJob
from remora.training.journal import JOURNAL, steps_of

ROOT = Path(__file__).parent.parent
ROUNDS, STEPS = 3, 40
DEVICE, PHOTOGRAPHS = 0.3, 32


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def photograph(kind: str, seed: int = 0) -> bytes:
    """640 x 480 with the detail of a photograph: smooth fields under a little noise; 60 kB as JPEG, 500 kB as PNG."""
    random = np.random.default_rng(seed)
    field = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    noisy = np.asarray(field, np.int16) + random.normal(0, 4, (480, 640, 1)).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, kind, quality=90)
    return buffer.getvalue()


def pictures() -> None:
    for kind in ("JPEG", "PNG"):
        content = photograph(kind)
        image = decode(content, kind)
        row = [f"{len(content) / 1000:.0f} kB", f"decode {rate(lambda c=content: decode(c, 'it')):.0f}/s"]
        for encoder in ("clip-l-336", "siglip-so400m-384"):
            vision = catalog.vision(encoder)
            row.append(f"to {vision.input_size} {rate(lambda v=vision, i=image: preprocess(i, v)):.0f}/s")
            row.append(f"both {rate(lambda v=vision, c=content: preprocess(decode(c, 'it'), v)):.0f}/s")
        say(" | ".join([kind, *row]))


def rate(call, seconds: float = 1.0) -> float:
    """Calls per second: the best of three runs of `seconds`."""
    best = 0.0
    for _ in range(3):
        began, n = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            call()
            n += 1
        best = max(best, n / (time.perf_counter() - began))
    return best


def stage(runs: Path, loaders: list[str]) -> None:
    found: dict[str, list[dict[str, float]]] = {n: [] for n in loaders}
    with tempfile.TemporaryDirectory() as tmp:
        job = demo_job(runs)
        for round_ in range(ROUNDS):
            for n in loaders:
                found[n].append(trained(job, n, Path(tmp) / f"{n}-{round_}".replace("/", "_")))
    say(f"{STEPS} steps of 32 samples, two ranks; medians of {ROUNDS} rounds")
    for n, rounds in found.items():
        figures = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
        say(" | ".join([f"loaders {n}", *(f"{k} {v:.4g}" for k, v in figures.items())]))


def demo_job(runs: Path) -> StageJob:
    """The demo's alignment, STEPS long, of a language model that was not trained yet."""
    store = Store(runs)
    language, align, _ = path(load(Variant, ROOT / "jobs/demo-base.yaml"), store.data)
    short = align.stage.model_copy(update={"steps": STEPS, "epochs": None})
    first = store.prepare(language, Cluster())
    make_start(first)
    parts = first.parts | {"vision": PartRef("efficientnet-lite0"), "connector": PartRef("mlp2x_gelu")}
    return StageJob(short, parts, runs, align.datasets, 0, Cluster(workers=2, micro_batch=16, zero=0))


def trained(job: StageJob, loaders: str, folder: Path) -> dict[str, float]:
    """Figures of one training run. If `loaders` is a path, it is another source tree to compare with."""
    folder.mkdir()
    raw = json.loads(replace(job, folder=folder).to_json())
    env = dict(os.environ)
    if loaders.isdigit():
        raw["cluster"]["loaders"] = int(loaders)
    else:
        env["PYTHONPATH"] = loaders
        del raw["cluster"]["loaders"]
    (folder / "job.json").write_text(json.dumps(raw))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        env |= {"MASTER_PORT": str(s.getsockname()[1]), "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}
    command = [sys.executable, "-W", "ignore", "-m", "remora.training", str(folder / "job.json")]
    began, cpu = time.monotonic(), cpu_seconds()
    with (folder / "log").open("w") as log:
        ranks = [
            subprocess.Popen(command, env=env | {"RANK": r, "LOCAL_RANK": r}, stdout=log, stderr=log) for r in "01"
        ]
        if any([rank.wait() for rank in ranks]):
            sys.exit((folder / "log").read_text())
    total = time.monotonic() - began
    taken = steps_of(folder / JOURNAL)
    seconds = [e["samples"] / e["samples_per_second"] for e in taken]
    figures = {"step ms": 1000 * statistics.median(seconds), "steps s": sum(seconds), "whole run s": total}
    figures["cpu s of the ranks"] = cpu_seconds() - cpu
    if "wait_max" in taken[0]:
        figures["waited %"] = 100 * sum(e["wait_max"] for e in taken) / sum(seconds)
        figures["waited % after the first step"] = 100 * sum(e["wait_max"] for e in taken[1:]) / sum(seconds[1:])
    return figures


def cpu_seconds() -> float:
    """CPU time of ended child processes: the ranks, but not their dataloader workers, which have another parent."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def device(loaders: list[str]) -> None:
    with tempfile.TemporaryDirectory() as tmp:
        data = photographs(Path(tmp))
        for n in loaders:
            with Loader(data, (0, 1, PHOTOGRAPHS, "padded"), range(30), int(n)) as loader:
                next(loader)  # while the processes start
                waited = 0.0
                began = time.monotonic()
                for _ in range(29):
                    time.sleep(DEVICE)
                    tick = time.monotonic()
                    next(loader)
                    waited += time.monotonic() - tick
                seconds = time.monotonic() - began
            say(f"loaders {n}: step {1000 * seconds / 29:.0f} ms, waited {waited / seconds:.1%}")


def photographs(folder: Path) -> StageData:
    """A stage in which every sample has a JPEG of 640 x 480, preprocessed for CLIP at 336 pixels."""
    records = []
    for i in range(PHOTOGRAPHS):
        (folder / f"{i}.jpg").write_bytes(photograph("JPEG", i))
        turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A field."}]
        records.append({"id": str(i), "image": f"{i}.jpg", "conversations": turns})
    (folder / "train.json").write_text(json.dumps(records))
    mixture = [{"path": str(folder / "train.json")}]
    stage = Stage(name="photographs", mixture=mixture, template="brief", batch=PHOTOGRAPHS, steps=30, lr=1e-3)
    prompter = Prompter(catalog.template("brief"), train_tokenizer(["What is it? A field."] * 4, 340), 4)
    return StageData(stage, read_mixture(stage.mixture, folder), prompter, "clip-l-336", 0)


if __name__ == "__main__":
    what, *args = sys.argv[1:] or [""]
    if what == "pictures":
        pictures()
    elif what == "stage" and args:
        stage(Path(args[0]), args[1:] or ["0", "1", "2"])
    elif what == "device":
        device(args or ["0", "1", "2"])
    else:
        sys.exit(__doc__)
