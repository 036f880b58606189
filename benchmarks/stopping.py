"""What stopping saves: 24 demo-size trials, all trained to their ends, and what each rule would have done with them.

    python benchmarks/stopping.py --runs ~/remora-bench            # an hour on two cores; run again, it goes on
    python benchmarks/stopping.py --runs ~/remora-bench --report   # only the table, from what is there

Each seed is a search of its own, whose rule stops nobody but writes down a rung at every validation. Rules are replayed
on these rungs (`remora searches replay`; a test holds that a search under the rule trains exactly that). A rule's
champion is the best on the benchmark of those that it trains to their end, and is compared with the grid's champion on
the same questions, as a search compares its variants.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import yaml

from remora.pipeline.search.board import RUNGS, Rungs
from remora.pipeline.search.replay import replay
from remora.pipeline.search.rules import Halving, StoppingRule

BENCHMARK = "easy-vqa-val"
RULES: tuple[StoppingRule, ...] = (Halving.of(2, 1 / 16), Halving.of(3, 1 / 16), Halving.of(4, 1 / 16))


def space(seed: int) -> dict[str, object]:
    demo = yaml.safe_load((Path(__file__).parents[1] / "tune" / "demo.yaml").read_text())
    overrides = demo["overrides"]
    overrides["align"]["epochs"] = 0.25
    overrides["finetune"] |= {
        "epochs": 0.3,
        "validate": {"share": 0.05, "every": 1 / 16, "limit": 128},
    }
    return {
        "name": f"stopping-{seed}",
        "vision": demo["vision"],
        "connector": demo["connector"],
        "llm": demo["llm"],
        "recipe": ["base"],
        "axes": {
            "finetune.lr": [5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3],
            "finetune.warmup": [0.1, 0.4],
        },
        "overrides": {stage: overrides[stage] for stage in ("align", "finetune")},
        "seed": seed,
        "cluster": {"workers": 1, "micro_batch": 32, "zero": 0, "checkpoint_every": 50},
        "rule": {"kind": "median", "eta": 2, "first": 1 / 16, "least": 1000},
        "benchmarks": [BENCHMARK],
        "champion": {"benchmark": BENCHMARK},
    }


def searched(seed: int, runs: Path) -> None:
    file = runs / f"stopping-{seed}.yaml"
    file.write_text(yaml.safe_dump(space(seed), sort_keys=False))
    command = [sys.executable, "-m", "remora", "search", str(file), "--local", "--runs", str(runs)]
    subprocess.run(command, check=True)


def rows(seed: int, runs: Path) -> list[str]:
    """The table's rows of one seed."""
    name = f"stopping-{seed}"
    result = json.loads((runs / "searches" / f"{name}.json").read_text())
    board = Rungs.read(runs / "searches" / name / RUNGS)
    (stage,) = {at.stage for at in board.arrivals}
    models = {m["name"]: m for m in result["choice"]["variants"]}
    best, total = models[result["choice"]["best"]], result["steps"]["optimum"]
    found = [f"| {seed} | none: the grid | {total:,} | 1.00 | {best['name']} | {best['figure']:.4f} | |"]
    for rule in RULES:
        under = replay(board, stage, rule)
        assert not under.unknown, under.unknown
        steps = total - under.of + under.steps
        champion = max((models[n] for n in under.finish), key=lambda m: m["figure"])
        alike = "the same" if champion is best else f"{champion['behind']:.4f} behind, p {champion['p']:.2f}"
        share = f"{steps / total:.2f}"
        found.append(
            f"| {seed} | {rule.words} | {steps:,} | {share} | {champion['name']} | {champion['figure']:.4f} | {alike} |"
        )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    if not args.report:
        subprocess.run([sys.executable, "-m", "remora", "data", "demo", "--runs", str(args.runs)], check=True)
        for seed in args.seeds:
            searched(seed, args.runs)
    print("| seed | rule | steps | of the grid's | champion | accuracy | against the grid's champion |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for seed in args.seeds:
        print("\n".join(rows(seed, args.runs)))
