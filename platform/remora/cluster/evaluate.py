"""Benchmarks spread over the cluster, and their scores kept beside the stage runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from remora import catalog
from remora.evaluation.benchmark import Item, Score, as_json, examine, summarise
from remora.files import digest, sha256_file, write_atomic, write_json
from remora.inference import Answerer
from remora.spec import Cluster
from remora.stages import StageRun, Store

SCORING = 1
"""Raise by hand when a change makes the same model score differently."""


def _examine_shard(
    bundle: str, cache: str, data: str, benchmark: str, shard: int, shards: int
) -> tuple[list[Item], list[Item]]:
    """What a worker runs: one shard of a benchmark."""
    import torch

    torch.set_num_threads(1)
    return examine(Answerer.load(Path(bundle), Path(cache)), benchmark, Path(data), shard, shards)


def score_folder(store: Store, last: StageRun, benchmark: str) -> Path:
    """Where a score and every answer are kept: by the weights, the questions and the way of scoring."""
    entry = catalog.benchmark(benchmark)
    questions = store.data / entry.questions
    key = digest(
        [
            last.id,
            entry.model_dump(mode="json", exclude={"title", "source", "make"}),
            sha256_file(questions) if questions.exists() else None,
            SCORING,
        ]
    )
    return store.runs / "scores" / f"{last.name}-{benchmark}-{key[:12]}"


def evaluate(
    bundle: Path,
    last: StageRun,
    benchmarks: tuple[str, ...],
    store: Store,
    cluster: Cluster,
    scored: Callable[[Score], None],
) -> dict[str, Score]:
    """Score a bundle on each benchmark, on as many workers as its training had; `scored` hears of each as it ends.

    A model that was measured on the same questions before is not asked again.
    """
    import ray

    ask = ray.remote(
        num_cpus=cluster.cpus_per_worker,
        num_gpus=cluster.gpus_per_worker,
        # In a trial, tasks would inherit its placement group, which holds no CPU to run them on.
        scheduling_strategy="DEFAULT",
    )(_examine_shard)
    shards = cluster.most_workers
    scores: dict[str, Score] = {}
    pending = {}
    for name in benchmarks:
        kept = score_folder(store, last, name) / "score.json"
        if kept.exists():
            raw = json.loads(kept.read_text())
            scores[name] = Score(**{**raw, "ci": tuple(raw["ci"]), "blind_ci": tuple(raw["blind_ci"])})
            scored(scores[name])
            continue
        pending[name] = [
            ask.remote(str(bundle), str(store.cache), str(store.data), name, shard, shards) for shard in range(shards)
        ]
    for name, refs in pending.items():
        answered = ray.get(refs)
        seen = sorted((i for part in answered for i in part[0]), key=lambda i: i.id)
        blind = sorted((i for part in answered for i in part[1]), key=lambda i: i.id)
        scores[name] = summarise(name, store.data, seen, blind)
        folder = score_folder(store, last, name)
        answers = [{**i.__dict__, "condition": c} for c, items in (("pictures", seen), ("blind", blind)) for i in items]
        write_atomic(folder / "answers.jsonl", "".join(json.dumps(a) + "\n" for a in answers))
        write_json(folder / "score.json", as_json(scores[name]))
        scored(scores[name])
    return {name: scores[name] for name in benchmarks}
