"""How fast a variant answers, and in how much memory: measured once, kept beside its answers.

The same way for every variant: a process of its own asks the first QUESTIONS questions of a benchmark with their
pictures, as evaluation asks them, after the first WARM_UP once. Without a GPU it has one thread, and its CPU seconds
count, so that what else the machine does changes little; on a GPU seconds are by the clock. Memory is the process's
peak (VmHWM), on a GPU torch's. A figure is of the device that it names: another machine has others.

    python -m remora.pipeline.answer_speed BUNDLE RUNS BENCHMARK DATA FILE QUESTION...
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from remora.carrier import carried
from remora.evaluation.benchmarks import benchmark
from remora.files import disk_errors, exclusive, write_json
from remora.pipeline.executor import ENVIRONMENT, AskJob, Executor
from remora.pipeline.measure import Prepared
from remora.pipeline.worker import asks_of
from remora.processes import Child, cpu_kind, peak_memory
from remora.runs import Store
from remora.spec import Cluster
from remora.versions import SPEED

FILE = "speed.json"
QUESTIONS, WARM_UP = 32, 4


class AnswerSpeed(TypedDict):
    """What was measured."""

    way: int
    answers: int
    tokens: int
    """Generated for them."""
    seconds: float
    clock: str
    """CPU or wall."""
    memory: float
    """GiB at most, with the model."""
    device: str


def figures(speed: AnswerSpeed) -> dict[str, float]:
    """As objectives and MLflow name them."""
    return {"answers_per_second": speed["answers"] / speed["seconds"], "answering_memory": speed["memory"]}


def read(folder: Path) -> AnswerSpeed | None:
    """Of the model whose answers are in that folder; None if it was not measured in this way.

    Raises:
        StoreError: the file cannot be read.
    """
    try:
        with disk_errors(folder / FILE):
            found = json.loads((folder / FILE).read_text())
    except (FileNotFoundError, ValueError):
        return None
    whole = isinstance(found, dict) and found.keys() == AnswerSpeed.__required_keys__ and found["way"] == SPEED
    speed: AnswerSpeed | None = found if whole else None
    return speed


def of(
    prepared: Prepared, folder: Path, bundle: Path, store: Store, executor: Executor, cluster: Cluster
) -> AnswerSpeed:
    """Measured unless it was; `folder` has the model's answers to that benchmark.

    Raises:
        RemoraError: what stopped it.
    """
    shown = [i for i, ask in enumerate(prepared.asks) if ask.condition == "pictures"]
    with exclusive(folder.with_name(f".{folder.name}.speed.lease")):
        if not (found := read(folder)):
            job = AskJob(bundle, store.runs, prepared.name, prepared.data, [shown[:QUESTIONS]])
            executor.time(job, folder / FILE, cluster)
            found = read(folder)
    assert found, "it was just written"
    return found


def in_a_new_process(job: AskJob, file: Path) -> None:
    """Raises:
    RemoraError: what that process met.
    """
    given = (job.bundle, job.runs, job.benchmark, job.data, file, *job.pieces[0])
    command = [sys.executable, "-m", "remora.pipeline.answer_speed", *map(str, given)]
    log = job.runs / "logs" / f"speed-{job.bundle.name}.log"
    child = Child(command, log, ENVIRONMENT | {"OMP_NUM_THREADS": "1"})
    try:
        if child.process.wait():
            raise child.error()
    finally:
        child.stop(grace=0)


def _measure(bundle: Path, runs: Path, name: str, data: Path, questions: Sequence[int]) -> AnswerSpeed:
    import torch

    from remora.evaluation.ask import ask
    from remora.inference import Answerer

    gpu = torch.cuda.is_available()
    if not gpu:
        torch.set_num_threads(1)
    asks = asks_of(benchmark(name), data)
    asked = [asks[i] for i in questions]
    answerer = Answerer.load(bundle, Store(runs).cache)
    ask(answerer, asked[:WARM_UP])
    clock = time.perf_counter if gpu else time.process_time
    began = clock()
    lines = ask(answerer, asked)  # answers are text, so nothing is left on the GPU's queue
    seconds = clock() - began
    told = [line["metadata"] for line in lines if "metadata" in line]
    tokens = sum(m["tokens"] for m in told if isinstance(m, dict))
    memory = torch.cuda.max_memory_allocated() if gpu else peak_memory()
    device = torch.cuda.get_device_name() if gpu else f"one thread of {cpu_kind()}"
    return AnswerSpeed(
        way=SPEED,
        answers=len(told),
        tokens=tokens,
        seconds=seconds,
        clock="wall" if gpu else "CPU",
        memory=memory / 2**30,
        device=device,
    )


def main() -> None:
    bundle, runs, name, data, file, *questions = sys.argv[1:]
    with carried(Path(runs) / "logs"):
        write_json(Path(file), _measure(Path(bundle), Path(runs), name, Path(data), [int(q) for q in questions]))


if __name__ == "__main__":
    main()
