"""An endpoint with a real, tiny model, whose steps take a while: `python serving_small.py PORT FOLDER [KEYS]`, until
SIGTERM.

Each engine replica leaves a file with its process id in FOLDER, and `cancelled-<pid>-<number>` for requests that are
cancelled; its model hangs while there is a file `hang-<pid>`.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from remora.inference import Answerer
from remora.serving.args import EndpointArgs, IngressArgs
from remora.serving.champion import ServedModel

STEP_S = 0.02
"""Longer than its steps are, so that a test's kill comes in the middle of answers."""


def small_answerer() -> Answerer:
    from remora.model.llm import train_tokenizer
    from support.small_answerers import answerer_of

    return answerer_of("smollm2-135m", train_tokenizer(["What is this? Is it blue? red"] * 50, 340))


def load(args: EndpointArgs, folder: Path) -> ServedModel:
    answerer = small_answerer()
    make = answerer.engine

    def engine(*args: Any, **options: Any) -> Any:
        made = make(*args, **options)
        step = made.step

        def slow() -> Any:
            time.sleep(STEP_S)
            while (folder / f"hang-{os.getpid()}").exists():
                time.sleep(0.1)
            return step()

        def cancel(number: int) -> None:
            (folder / f"cancelled-{os.getpid()}-{number}").touch()
            made_cancel(number)

        made_cancel = made.cancel
        made.step, made.cancel = slow, cancel  # type: ignore[method-assign]
        return made

    answerer.engine = engine  # type: ignore[method-assign]
    (folder / str(os.getpid())).touch()
    assert args.runs is not None
    return ServedModel(answerer, "3", folder=args.runs / "bundles" / "small")


if __name__ == "__main__":
    import ray

    from remora.serving.deploy import serve_forever

    def ready(url: str) -> None:
        print("METRICS", ray.nodes()[0]["MetricsExportPort"], "READY", flush=True)

    keys = Path(sys.argv[3]) if sys.argv[3:] else None
    ingress, runs = IngressArgs(min_replicas=1), Path(sys.argv[2]) / "runs"
    serve_forever(
        EndpointArgs(keys=keys, no_keys=not keys, runs=runs, max_replicas=2, stalled_seconds=2, ingress=ingress),
        port=int(sys.argv[1]),
        ready=ready,
        load=partial(load, folder=Path(sys.argv[2])),
    )
    print("STOPPED", flush=True)
