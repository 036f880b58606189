"""How much the losses of a stage's first 50 steps differ between all splits of it, and from float64.

    python benchmarks/exactness.py            # an hour and a half on two cores; writes benchmarks/results/exactness.md
    python benchmarks/exactness.py --quick    # every pair of choices instead of all combinations; half an hour

1. A small stage on pictures and text-only records, all parts training, with dropout, under 1 and 2 workers x
   accumulation 1, 2 and 4 x ZeRO 0 to 3 x packed and padded x with and without activation checkpointing.
2. The demo's stages (jobs/demo-base.yaml) on their own data, under splits in which every two of those choices meet. A
   stage starts from the result of the previous one, which is fully trained first.

Needs the `demo` extra.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402

from remora.spec import Cluster  # noqa: E402
from remora.training.build import make_start  # noqa: E402
from remora.training.job import StageJob  # noqa: E402
from support.exact_stages import FACTORS, demo_lineage, pairwise, splits, thorough  # noqa: E402
from support.launch import launch  # noqa: E402
from support.machine import cpu_name  # noqa: E402

RANKS = ROOT / "tests" / "training" / "ranks.py"
STEPS, BOUND, NUDGE = 50, 1e-5, 1e-7
TOKENS = {"test": 410, "language": 1_010, "align": 760, "finetune": 1_230}
"""Approximate tokens of a stage's step."""
HEAD = f"""# Losses of {STEPS} steps under splits of a stage

{{machine}}, {{date}}, fp32. Made by `{{command}}`.

A split is workers x passes of a step, ZeRO stage, rows. `apart` is the largest relative difference of a step's loss
from the float64 run's, over the first 10, 20, 30 and {STEPS} steps; `leaves` is the first step at which a loss is more
than {BOUND:g} from it. `two of` is how far the splits' losses are from each other at most. The last row is float64
again, with one weight tensor moved by {NUDGE:g} of itself before the first step: what the stage makes of a rounding,
without any split.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="every pair of choices instead of all combinations")
    parser.add_argument("--stages", nargs="*", default=list(TOKENS), help=f"of {', '.join(TOKENS)}")
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "remora-exactness")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "exactness.md")
    args = parser.parse_args()
    some, every = pairwise(list(FACTORS.values())), list(product(*FACTORS.values()))
    flags = ["--quick"] * args.quick + (["--stages", *args.stages] if args.stages != list(TOKENS) else [])
    command = " ".join(["python benchmarks/exactness.py", *flags])
    written = HEAD.format(date=datetime.date.today(), machine=machine(), command=command)
    for name, job in jobs(args.runs.absolute(), args.stages):
        losses = measured(job, every if name == "test" and not args.quick else some)
        written += "\n" + (made := table(name, losses))
        print(made, flush=True)
        args.out.write_text(written)


def jobs(runs: Path, names: list[str]) -> Iterator[tuple[str, StageJob]]:
    """Each stage's job, in its own folder; the demo's stages are fully trained on the way."""
    if "test" in names:
        with tempfile.TemporaryDirectory() as folder:
            yield "test", thorough(Path(folder), STEPS)
    if not set(names) - {"test"}:
        return
    store, lineage = demo_lineage(runs)
    for run in lineage:
        job = store.prepare(run, Cluster(zero=0, micro_batch=run.stage.batch))
        make_start(job)  # here, since a split in another folder would not make it
        if run.stage.name in names:
            with tempfile.TemporaryDirectory() as folder:
                yield run.stage.name, replace(job, folder=Path(folder))
        if run is not lineage[-1] and not store.finished(run):
            launch(RANKS, 1, job.folder / "job.json", job.folder / "out.json")
            store.publish(run.name, {})


def measured(job: StageJob, chosen: list[tuple[Any, ...]]) -> dict[str, list[float]]:
    """Losses of the first steps by the split's name, and of "float64"."""
    settings = splits(job.stage, TOKENS[job.stage.name], chosen)
    (job.folder / "job.json").write_text(job.to_json())
    said = {}
    for world in FACTORS["workers"]:
        out, those = job.folder / "out.json", {n: s for n, s in settings.items() if s["workers"] == world}
        double = ["--double", "--nudge", NUDGE] if world == 1 else []
        launch(RANKS, world, job.folder / "job.json", out, "--settings", json.dumps(those), "--first", STEPS, *double)
        said |= json.loads(out.read_text())
    return {n: [e["loss"] for e in events if e["event"] == "step"] for n, events in said.items()}


def table(name: str, losses: dict[str, list[float]]) -> str:
    exact, nudged = losses.pop("float64"), losses.pop("nudged")
    lines = [
        f"## {name}: loss {exact[0]:.3f} to {exact[-1]:.3f}\n",
        f"| split | apart: 10 | 20 | 30 | {STEPS} | leaves |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    worst = [0.0] * len(exact)
    for split, of in sorted(losses.items()):
        lines.append(row(split, apart(of, exact)))
        worst = [max(pair) for pair in zip(worst, apart(of, exact), strict=True)]
    between = [(max(of) - min(of)) / min(of) for of in zip(*losses.values(), strict=True)]
    lines += [row(f"the most of {len(losses)}", worst), row(f"two of {len(losses)}", between)]
    lines.append(row("float64, nudged", apart(nudged, exact)))
    return "\n".join(lines) + "\n"


def apart(losses: list[float], exact: list[float]) -> list[float]:
    return [abs(a - b) / b for a, b in zip(losses, exact, strict=True)]


def row(name: str, differences: list[float]) -> str:
    leaves = next((str(step) for step, d in enumerate(differences) if d > BOUND), "")
    return f"| {name} | " + " | ".join(f"{max(differences[:n]):.1e}" for n in (10, 20, 30, STEPS)) + f" | {leaves} |"


def machine() -> str:
    return f"{cpu_name()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread a worker"


if __name__ == "__main__":
    main()
