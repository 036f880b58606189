"""Jobs that several tests train: one small stage on pictures and text-only records of different lengths."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

from PIL import Image

from remora.catalog import llm
from remora.data.mixture import read_mixture
from remora.demo import build_demo
from remora.model.llm import create_from_scratch
from remora.model.refs import PartRef
from remora.runs import StageRun, Store, path
from remora.spec import Cluster, Stage, Variant, load
from remora.training.job import StageJob
from support.standins import small_llm
from support.tiny import shrunk

DEMO = Path(__file__).resolve().parents[2] / "jobs" / "demo-base.yaml"
WORDS = ["USER: What is number red circle? ASSISTANT: number 1"] * 4


def mixed_records(root: Path, count: int, longest: int, every: int = 3) -> Path:
    """LLaVA's JSON of `count` records of 1 to `longest` words, every `every`-th with its own picture.

    Record 5 is far too long, so that one is dropped.
    """
    root.mkdir(parents=True, exist_ok=True)
    records, draw = [], random.Random(0)
    for i in range(count):
        words = " ".join(draw.choice(["red", "circle", "number", "what"]) for _ in range(draw.randint(1, longest)))
        words = "red " * 200 if i == 5 else words
        turns = [{"from": "human", "value": f"What is {i}?"}, {"from": "gpt", "value": f"{i} {words}"}]
        record: dict[str, Any] = {"id": f"s{i}", "conversations": turns}
        if i % every == 0:
            Image.effect_mandelbrot((40, 30), (-2 + i / count, -1.5, 1, 1.5), 20).convert("RGB").save(root / f"{i}.png")
            record["image"] = f"{i}.png"
            turns[0]["value"] = "<image>\n" + turns[0]["value"]
        records.append(record)
    (root / "records.json").write_text(json.dumps(records))
    return root / "records.json"


def mixed_job(
    root: Path,
    *,
    family: str = "demo-2m",
    connector: str = "linear",
    config: dict[str, Any] | None = None,
    every: int = 3,
    seed: int = 0,
    **stage: Any,
) -> StageJob:
    """A stage on `mixed_records` with EfficientNet-Lite0 and two layers of a language model's class.

    `family` is the catalog entry whose class it is, `config` what of its config differs, `stage` what the stage
    says; every `every`-th record has a picture.
    """
    records = mixed_records(root / "data", 30, 12, every)
    small = shrunk(llm(family).config, 32, 48) if family == "demo-2m" else small_llm(llm(family)).config
    entry = llm("demo-2m").model_copy(update={"config": small | {"vocab_size": 320} | (config or {})})
    create_from_scratch(entry, WORDS, 0, root / "llm")
    said = {"name": "test", "template": "brief", "batch": 8, "max_length": 64, "lr": 1e-3, "clip": 1.0}
    spec = Stage.model_validate(said | {"mixture": [{"path": str(records), "max_skipped": 0.1}]} | stage)
    parts = {
        "vision": PartRef("efficientnet-lite0"),
        "connector": PartRef(connector),
        "llm": PartRef("demo-2m", root / "llm"),
    }
    datasets = [d.folder for d in read_mixture(spec.mixture, root)]
    return StageJob(spec, parts, root / "work", datasets, seed, Cluster(checkpoint_every=1000, zero=0))


def thorough(root: Path, steps: int) -> StageJob:
    """A stage that uses everything that a split or an optimiser could get wrong.

    Phi-2's class with its dropout, three parts at three rates and decays, warm-up, clipping, a sample that is dropped.
    """
    tune = {
        "vision": {"last": 1, "lr": 1e-4, "weight_decay": 0.0},
        "connector": {"mode": "full", "lr": 1e-3, "weight_decay": 0.3},
        "llm": "full",
    }
    stage = {"tune": tune, "batch": 16, "steps": steps, "lr": 3e-3, "weight_decay": 0.1, "clip": 1.0}
    stage |= {"warmup": 0.1, "betas": (0.8, 0.95), "eps": 1e-7}
    job = mixed_job(root, family="phi-2", config={"resid_pdrop": 0.1}, **stage)
    job.folder.mkdir()
    return job


def demo_lineage(runs: Path) -> tuple[Store, tuple[StageRun, ...]]:
    """The demo's stages (jobs/demo-base.yaml) on their own data, which is built below `runs` if need be."""
    store = Store(runs)
    build_demo(store.data / "demo")
    return store, path(load(Variant, DEMO), store.data)


def pairwise(factors: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Choices, one value of each factor, in which every two values of two factors meet; greedy, always the same."""

    def pairs(chosen: tuple[Any, ...]) -> set[tuple[Any, ...]]:
        return {(i, j, chosen[i], chosen[j]) for i, j in combinations(range(len(chosen)), 2)}

    every = list(product(*factors))
    missing = set().union(*map(pairs, every))
    found = []
    while missing:
        found.append(max(every, key=lambda chosen: len(pairs(chosen) & missing)))
        missing -= pairs(found[-1])
    return found


FACTORS: dict[str, tuple[Any, ...]] = {
    "workers": (1, 2),
    "accumulation": (1, 2, 4),
    "zero": (0, 1, 2, 3),
    "rows": ("padded", "packed"),
    "activation_checkpointing": (False, True),
}
"""How a stage may be split."""


def splits(stage: Stage, tokens: int, chosen: Sequence[tuple[Any, ...]]) -> dict[str, dict[str, Any]]:
    """Settings of the cluster by name, one for each of `chosen` values of FACTORS; a step has about `tokens` tokens.

    A pass of packed rows holds tokens, so how many a step has follows from its samples: up to one more or less.
    """
    settings = {}
    for workers, accumulation, zero, rows, again in chosen:
        passes = workers * accumulation
        packed = max(1, round(1.15 * tokens / passes / stage.max_length))
        settings[f"{workers} x {accumulation}, ZeRO {zero}, {rows}" + (", checkpointing" if again else "")] = {
            "workers": workers,
            "micro_batch": packed if rows == "packed" else -(-stage.batch // passes),
            "zero": zero,
            "rows": rows,
            "activation_checkpointing": again,
        }
    return settings
