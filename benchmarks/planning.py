"""Predicted and measured peak memory of stages on a CPU, with DeepSpeed's and accelerate's estimates beside them.

    python benchmarks/planning.py            # minutes on two cores; writes benchmarks/results/planning.md

Each configuration is a process of its own: a training step (two passes) of a real engine with random weights. Measured
are the bytes of all tensors, by a hook on torch's dispatch, and the process's resident memory. DeepSpeed's estimate is
`estimate_zero2/3_model_states_mem_needs`, accelerate's the total of `estimate_training_usage`; both count weights,
gradients and optimiser states of a model that trains whole, and no activations.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import TypedDict

MIB = 1 << 20
ALIGN = {"vision": "frozen", "connector": "full", "llm": "frozen"}
TUNE = {"vision": "frozen", "connector": "full", "llm": "full"}
LORA = {"vision": "frozen", "connector": "full", "llm": {"lora": {"r": 16}}}
LAST = {"vision": {"last": 4}, "connector": "full", "llm": {"last": 2}}
SMALL = {"vision": "efficientnet-lite0", "connector": "mlp2x_gelu", "llm": "demo-2m"}
LARGER = {"vision": "siglip2-base-224", "connector": "mlp2x_gelu", "llm": "smollm2-135m"}


class Case(TypedDict):
    """A stage and a cluster."""

    parts: dict[str, str]
    tune: dict[str, object]
    cluster: dict[str, object]
    passed: tuple[int, int, int, int]


class Found(TypedDict):
    """What came of a case, in bytes."""

    predicted: int
    measured: int
    resident: int
    before: int
    deepspeed: float
    accelerate: float


def case(parts: dict[str, str], tune: dict[str, object], **cluster: object) -> Case:
    passed = (4, 128, 4, 512) if parts["llm"] == "demo-2m" else (2, 256, 1, 512)
    return {"parts": parts, "tune": tune, "cluster": cluster, "passed": passed}


CASES: dict[str, Case] = {
    f"2M, fine-tuning, ZeRO {z}, {p}": case(SMALL, TUNE, zero=z, precision=p)
    for z, p in product((0, 1, 2, 3), ("fp32", "bf16"))
}
CASES |= {
    "2M, alignment": case(SMALL, ALIGN, zero=0),
    "2M, alignment, padded": case(SMALL, ALIGN, zero=0, rows="padded"),
    "2M, fine-tuning, padded, bf16": case(SMALL, TUNE, zero=0, rows="padded", precision="bf16"),
    "2M, checkpointing": case(SMALL, TUNE, zero=0, activation_checkpointing=True),
    "2M, checkpointing, bf16, ZeRO 2": case(SMALL, TUNE, zero=2, activation_checkpointing=True, precision="bf16"),
    "2M, LoRA": case(SMALL, LORA, zero=0),
    "2M, LoRA, bf16": case(SMALL, LORA, zero=0, precision="bf16"),
    "2M, LoRA, bf16, ZeRO 2": case(SMALL, LORA, zero=2, precision="bf16"),
    "2M, last blocks of both": case(SMALL, LAST, zero=0),
    "2M, offload: optimizer": case(SMALL, TUNE, zero=2, offload="optimizer"),
    "135M, alignment, bf16": case(LARGER, ALIGN, zero=0, precision="bf16"),
    "135M, fine-tuning, bf16": case(LARGER, TUNE, zero=0, precision="bf16"),
    "135M, fine-tuning, ZeRO 2": case(LARGER, TUNE, zero=2),
    "135M, checkpointing, bf16": case(LARGER, TUNE, zero=0, precision="bf16", activation_checkpointing=True),
    "135M, resampler, LoRA, bf16": case(LARGER | {"connector": "resampler"}, LORA, zero=0, precision="bf16"),
}


def one(name: str) -> Found:
    """Predict and measure a case in this process."""
    import torch.distributed as dist

    from remora.processes import peak_memory
    from remora.spec import Cluster, Stage
    from remora.training.engines.hooks import deepspeed
    from remora.training.measured import measure
    from remora.training.rehearsal import Pass
    from remora.training.traced import trace

    said = CASES[name]
    cluster = Cluster.model_validate(said["cluster"])
    given = {"name": "test", "mixture": ["llava-665k"], "lr": 1e-3, "steps": 4, "batch": 8, "tune": said["tune"]}
    stage, largest = Stage.model_validate(given), Pass(*said["passed"])
    os.environ.update(
        {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    )
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    deepspeed()
    traced = trace(stage, said["parts"], cluster, largest, 1, gpu=False, several=True)
    before = peak_memory()
    measured = measure(stage, said["parts"], cluster, largest, several=True)
    every = sum(n for n, _ in traced.parameters.values())
    from accelerate.commands.estimate import estimate_training_usage
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    if cluster.zero == 3:
        _, theirs, *_ = estimate_zero3_model_states_mem_needs(
            every, 1, 1, 1, cpu_offload=False, cpu_offload_params=False
        )
    else:
        _, theirs = estimate_zero2_model_states_mem_needs(every, 1, 1, cpu_offload=cluster.offload != "none")
    usage = estimate_training_usage(4 * every, {"bf16": "bfloat16", "fp32": "float32"}[cluster.precision])
    return {
        "predicted": traced.peak,
        "measured": measured.peak,
        "resident": measured.resident,
        "before": before,
        "deepspeed": float(theirs),
        "accelerate": float(max(usage.values())),
    }


def table(found: dict[str, Found]) -> str:
    rows = [
        "| stage | predicted | measured | error | process, on top | DeepSpeed's | accelerate's |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, f in found.items():
        error = f["predicted"] / f["measured"] - 1
        grown = (f["resident"] - f["before"]) / MIB
        figures = f"{f['predicted'] / MIB:,.1f} | {f['measured'] / MIB:,.1f} | {error:+.1%} | {grown:,.0f}"
        rows.append(f"| {name} | {figures} | {f['deepspeed'] / MIB:,.0f} | {f['accelerate'] / MIB:,.0f} |")
    errors = [abs(f["predicted"] / f["measured"] - 1) for f in found.values()]
    rows.append(
        f"\nMiB. The largest error of {len(found)} is {max(errors):.1%}, the mean {sum(errors) / len(errors):.2%}."
    )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--case", help="one case, in this process")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "planning.md")
    given = parser.parse_args()
    if given.case:
        print("\n" + json.dumps(one(given.case)))
        return
    found: dict[str, Found] = {}
    for name in CASES:
        command = [sys.executable, __file__, "--case", name]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        if done.returncode:
            sys.exit(f"{name}: {done.stderr[-2000:]}")
        found[name] = json.loads(done.stdout.splitlines()[-1])
        sys.stderr.write(f"{name}: {found[name]}\n")
        _write(given.out, found)


def _write(out: Path, found: dict[str, Found]) -> None:
    """The cases so far, so that a long run may be cut short."""
    day = datetime.datetime.now(datetime.UTC).date()
    head = f"# Predicted and measured memory\n\n{day}, CPU, one thread, `python benchmarks/planning.py`.\n\n"
    out.write_text(head + table(found) + "\n")


if __name__ == "__main__":
    main()
