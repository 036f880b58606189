"""A run folder with everything that `remora explain` reads, written by the code that writes it in earnest where that
needs no training: two variants that differ in the connector, their stage runs, data, scores, a search, a promotion."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from remora.data.index import Dataset
from remora.evaluation.benchmarks import benchmark_of
from remora.evaluation.choice import choose
from remora.evaluation.figures import interval, value
from remora.evaluation.report import Report, ScoredAnswer
from remora.evaluation.score import as_json, summarise
from remora.evaluation.sheet import About
from remora.files import lines, write_atomic, write_json
from remora.inference.bundle import Bundle, weights_digest, write_bundle
from remora.pipeline.search import board, space_file
from remora.pipeline.search.board import Decided, Reached
from remora.pipeline.tracked_runs import published_record
from remora.pipeline.upkeep.deleting import FRESH
from remora.runs import StageRun, Store, path, variant_name
from remora.spec import Space, Variant
from remora.training import journal
from remora.training.environment import EnvironmentRecord
from support.tiny import write_records

OWN = {"title": "t", "questions": "q.jsonl", "images": ".", "metric": "exact-match", "max_new_tokens": 4}
QUESTIONS = 200
BEGAN = 1_790_000_000.0
RIGHT = {"mlp2x_gelu": 150, "resampler": 160}
ENVIRONMENT: EnvironmentRecord = {
    "remora": "0.1.0",
    "code": "c" * 64,
    "python": "3.11.9",
    "libraries": {"torch": "2.12.0+cu128", "transformers": "5.22.0", "deepspeed": "0.19.0"},
    "cpu": "a processor",
    "gpu": "NVIDIA H100",
    "system": "Linux x86_64",
}


@dataclass
class ExplainedFolder:
    """What was written."""

    runs: Path
    bundles: dict[str, Path]
    """Connector -> its variant's bundle."""
    lineages: dict[str, tuple[StageRun, ...]]
    variants: dict[str, Variant]


def write_explained(root: Path) -> ExplainedFolder:
    """Every file of two variants of one search."""
    runs = root / "runs"
    pictures = write_records(root, images=".", pictures=True)
    words = write_records(root, "words.json", pictures=False)
    overrides: dict[str, dict[str, object]] = {
        "language": {"steps": 4, "mixture": [{"path": str(words)}]},
        "align": {"steps": 4, "mixture": [{"path": str(pictures)}]},
        "finetune": {"steps": 4, "mixture": [{"path": str(pictures)}], "lr": 1e-3},
    }
    space = Space.model_validate(
        {
            "name": "two",
            "vision": ["efficientnet-lite0"],
            "connector": list(RIGHT),
            "llm": ["demo-2m"],
            "recipe": ["base"],
            "overrides": overrides,
            "cluster": {"workers": 2, "gpus_per_worker": 1, "gpu_price": 2.5},
            "benchmarks": ["easy-vqa"],
            "champion": {"benchmark": "easy-vqa"},
        }
    )
    variants = {
        c: Variant(
            vision="efficientnet-lite0", connector=c, llm="demo-2m", recipe="base", overrides=overrides,
            cluster=space.cluster, benchmarks=("easy-vqa",),
        )
        for c in RIGHT
    }  # fmt: skip
    store = Store(runs)
    lineages = {c: path(v, store.data) for c, v in variants.items()}
    folder = ExplainedFolder(runs, {}, lineages, variants)
    for connector, lineage in lineages.items():
        for number, run in enumerate(lineage):
            if not store.folder(run).exists():
                _stage(store, run, variants[connector], began=BEGAN + 100 * number)
        folder.bundles[connector] = _bundle(store, connector, lineage, variants[connector])
    reports = {
        variant_name(variants[c]): _scored(runs, folder.bundles[c], variants[c], right) for c, right in RIGHT.items()
    }
    _searched(folder, space, reports)
    best = variants["resampler"]
    promoted = {
        "at": "2026-11-30T10:05:27Z", "model": "remora", "alias": "champion", "version": "3",
        "variant": variant_name(best), "from_version": "2", "from_variant": "older", "alpha": 0.05, "gate": [],
        "forced": "", "refused": "", "moved": True, "weights": weights_digest(folder.bundles["resampler"]),
        "by": "ann, remora search two",
    }  # fmt: skip
    lines.append(runs / "promotions.jsonl", [promoted])
    return folder


def age(runs: Path) -> None:
    """Let everything in a run folder be written so long ago that a collection takes it."""
    long_ago = time.time() - 2 * FRESH
    for each in [runs, *runs.rglob("*")]:
        os.utime(each, (long_ago, long_ago))


def _stage(store: Store, run: StageRun, variant: Variant, began: float) -> None:
    work = store.work(run)
    for part in run.stage.tune.trained:
        place = work / "parts" / part
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(f"{part} of {run.name}".encode())
    job = {
        "stage": run.stage.model_dump(mode="json"),
        "parts": {part: {"name": name, "folder": None, "adapters": []} for part, name in run.parts},
        "folder": f"stages/{run.name}.work",
        "datasets": [str(d.relative_to(store.runs)) for d in run.datasets],
        "seed": run.seed,
        "cluster": variant.cluster.model_dump(mode="json"),
        "rungs": [],
        "others": [],
    }
    write_atomic(work / "job.json", json.dumps(job))
    skipped = [
        {"dataset": e.label, "records": Dataset(d).records, "skipped": {"empty-answer": 2}}
        for e, d in zip(run.stage.mixture, run.datasets, strict=True)
    ]
    table = [{"part": p, "mode": "full", "parameters": 100, "trained": 100, "lr": 1e-3} for p, _ in run.parts]
    started = {
        "attempt": 1, "stage": run.stage.name, "steps": 4, "at": 0, "again": 0, "workers": 2,
        "data": skipped, "table": table, "environment": ENVIRONMENT, "counters": ["gpu"],
    }  # fmt: skip
    events: list[dict[str, Any]] = [{"event": "attempt", "time": began, "attempt": 1}]
    events.append({"event": "started", "time": began, **started})
    for step in range(4):
        done = {
            "step": step,
            "loss": 2.0 - step / 4,
            "samples": 8,
            "tokens": 40.0,
            "energy": {"gpu_joules": 9000.0 * (step + 1)},
        }
        events.append({"event": "step", "time": began + 9.0 * (step + 1), "attempt": 1, **done})
    dropped = {"step": 2, "entry": 0, "sample": "s", "reason": "r", "kind": "broken-picture"}
    events.append({"event": "dropped", "time": began + 20.0, "attempt": 1, **dropped})
    write_atomic(work / journal.JOURNAL, "".join(json.dumps(e) + "\n" for e in events))
    about: dict[str, object] = {"began": began, "seconds": 36.0, "environments": [ENVIRONMENT]}
    store.publish(run.name, {**published_record(run, variant), **about})


def _bundle(store: Store, connector: str, lineage: tuple[StageRun, ...], variant: Variant) -> Path:
    name, last = variant_name(variant), lineage[-1]
    folder = store.runs / "bundles" / f"{name}-{last.id[:12]}"
    about = {"variant": variant.model_dump(mode="json"), "stages": [r.name for r in lineage]}
    write_bundle(folder, Bundle(name, store.parts(lineage), last.stage.template, last.stage.aspect, 0), about)
    return folder


def _scored(runs: Path, bundle: Path, variant: Variant, right: int) -> Report:
    """A report in which the same questions are hard for all; with its blind twin."""
    order = np.random.default_rng(0).permutation(QUESTIONS)
    items = [ScoredAnswer(i, "x", "x", float(order[i] < right), str(i // 2), "w") for i in range(QUESTIONS)]
    bare = Report("easy-vqa", "own", {}, {}, items, [], own=OWN)
    chosen = benchmark_of(bare)
    figures, groups = chosen.figures(items), [i.group for i in items]
    metrics = {k: value(f) for k, f in figures.items()}
    intervals = {k: interval(f, groups) for k, f in figures.items()}
    report = replace(bare, metrics=metrics, intervals=intervals)
    blind = replace(
        report, metrics={**metrics, chosen.headline: 0.4}, intervals={**intervals, chosen.headline: (0.35, 0.45)}
    )
    score = as_json(summarise(report, chosen.headline, blind, 0.41))
    about = About(variant_name(variant), weights_digest(bundle), "easy-vqa", "q" * 64)
    folder = runs / "scores" / about.folder
    folder.mkdir(parents=True)
    write_json(folder / "about.json", vars(about))
    write_json(folder / "report.json", report.as_json())
    write_json(folder / "score.json", score | {"no_submission": ""})
    return report


def _searched(folder: ExplainedFolder, space: Space, reports: Mapping[str, Report]) -> None:
    home = folder.runs / "searches" / space.name
    home.mkdir(parents=True)
    names = {c: variant_name(v) for c, v in folder.variants.items()}
    specs = {
        names[c]: {"variant": v.model_dump(mode="json"), "lineage": [r.name for r in folder.lineages[c]]}
        for c, v in folder.variants.items()
    }
    write_json(home / space_file.SPACE, {"space": space.model_dump(mode="json"), "variants": specs})
    for place, (c, lineage) in enumerate(folder.lineages.items(), 1):
        last = lineage[-1].name
        at = Reached(names[c], last, "finetune", 0.5, 2, 16, "loss", 1.5 - place / 10, False)
        for decision in ("pause", "promote"):
            board.write(
                home / board.RUNGS,
                [at, Decided(names[c], last, "finetune", 0.5, decision, "halving by loss", 3 - place, 2)],
            )
    costs = {names[c]: {"parameters": 300, "picture_tokens": 9} for c in folder.variants}
    choice = choose("easy-vqa", reports, costs)
    scores = {
        names[c]: json.loads(next((folder.runs / "scores").glob(f"{names[c]}-easy-vqa-*/score.json")).read_text())
        for c in names
    }
    result = {
        "search": space.name, "champion": choice.chosen, "choice": choice.as_json(), "pareto": None,
        "bundle": str(folder.bundles["resampler"]), "register_as": "remora", "version": "3", "gate": [], "refused": "",
        "stage_runs": {}, "steps": {}, "stopped": "", "seconds": 400.0, "ended": BEGAN + 400.0,
        "variants": [
            {
                "name": names[c],
                "stages": {r.name: "trained" for r in folder.lineages[c]},
                "benchmarks": {"easy-vqa": scores[names[c]]},
            }
            for c in names
        ],
        "others": [{"name": "slow", "state": "paused", "stages": {}}],
    }  # fmt: skip
    write_json(home.with_suffix(".json"), result)
