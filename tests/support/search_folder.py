"""A run folder as a search leaves it, without training: files in their real layout, figures by a fixed draw."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remora.evaluation.benchmarks import benchmark
from remora.evaluation.figures import interval, value
from remora.evaluation.report import Report, ScoredAnswer
from remora.evaluation.score import as_json, summarise
from remora.evaluation.sheet import About
from remora.files import digest, lines, publishing, write_json
from remora.pipeline.search import board, space_file
from remora.pipeline.search.board import Decided, Reached
from remora.pipeline.variant import status_file
from remora.runs import variant_name, variants_of
from remora.spec import Space, Variant
from remora.training import journal

QUESTIONS = 600
STEPS = {"pretrain": 60, "finetune": 120}
BATCH = 8
BEGAN = 1_790_000_000.0
"""When the search's first item began, in seconds since 1970."""
SPACE: dict[str, Any] = {
    "name": "papers",
    "vision": ["clip-l-336", "siglip-so400m-384"],
    "connector": ["mlp2x_gelu"],
    "llm": ["tinyllama-1.1b-chat", "stablelm-2-zephyr-1.6b", "phi-2"],
    "recipe": ["base"],
    "axes": {"finetune.lr": [2.0e-5, 1.0e-4]},
    "benchmarks": ["gqa", "textvqa"],
    "champion": {"benchmark": "gqa"},
    "overrides": {"finetune": {"validate": {"share": 0.02, "benchmark": {"name": "gqa", "limit": 64}}}},
    "rule": {"kind": "halving", "eta": 2, "first": 0.25, "figure": "gqa"},
    "published": {"base-C-TL-mlp-lr=2e-5": {"gqa": 58.0, "pope": 85.5}},
}


@dataclass
class SearchFolder:
    """What was written, for tests to hold a report against."""

    runs: Path
    space: Space
    variants: dict[str, Variant]
    lineages: dict[str, tuple[str, ...]]
    abilities: dict[str, float]
    """Variant -> the chance of a right answer."""
    finished: tuple[str, ...]
    paused: tuple[str, ...]
    failed: tuple[str, ...]


def write_search(
    runs: Path, raw: dict[str, Any] | None = None, paused: int = 4, failed: int = 0, ruled: bool = True
) -> SearchFolder:
    """The worst `paused` variants stop at their second rung; of the others the last `failed` fail in their last stage.

    Args:
        raw: The space; SPACE if not given.
        ruled: Whether there are rungs.
    """
    space = Space.model_validate(SPACE if raw is None else raw)
    variants = {variant_name(v): v for v in variants_of(space)}
    lineages = {name: _lineage(v) for name, v in variants.items()}
    abilities = {name: _ability(v) for name, v in variants.items()}
    order = sorted(variants, key=lambda n: -abilities[n])
    left, stopped = order[: len(order) - paused], order[len(order) - paused :]
    done, broken = left[: len(left) - failed], left[len(left) - failed :]
    folder = SearchFolder(
        *(runs, space, variants, lineages, abilities, tuple(n for n in variants if n in done), tuple(stopped)),
        tuple(broken),
    )
    _Writer(folder, ruled).write()
    return folder


def _lineage(v: Variant) -> tuple[str, ...]:
    shared = [v.vision, v.llm, v.recipe, v.seed]
    return (f"pretrain-{digest(shared)[:12]}", f"finetune-{digest([*shared, v.choice])[:12]}")


def _ability(v: Variant) -> float:
    size = {"tinyllama-1.1b-chat": 0.52, "stablelm-2-zephyr-1.6b": 0.56, "phi-2": 0.585}.get(v.llm, 0.5)
    rate = 0.0 if v.choice.get("finetune.lr") == 2.0e-5 else -0.02
    return size + 0.025 * v.vision.startswith("siglip") + rate


class _Writer:
    def __init__(self, folder: SearchFolder, ruled: bool) -> None:
        self.to, self.ruled = folder, ruled
        self.home = folder.runs / "searches" / folder.space.name
        self.home.mkdir(parents=True)
        self.clock, self.number = [BEGAN, BEGAN], 0
        self.begun: set[str] = set()

    def write(self) -> None:
        to = self.to
        specs = {n: {"variant": v.model_dump(mode="json"), "lineage": to.lineages[n]} for n, v in to.variants.items()}
        write_json(self.home / space_file.SPACE, {"space": to.space.model_dump(mode="json"), "variants": specs})
        scores = {}
        for name in to.variants:
            self._train(name)
        for name in to.finished:
            scores[name] = {b: self._asked(name, b) for b in to.space.benchmarks}
            self._item("measure", to.lineages[name][-1], name, "measured", 0, 20.0)
        for name in to.failed:
            status = status_file(to.runs, to.space.name, name)
            status.parent.mkdir(parents=True, exist_ok=True)
            journal.append(status, "failed", error="out of memory")
        if not to.failed:
            self._result(scores)

    def _result(self, scores: dict[str, dict[str, Any]]) -> None:
        to = self.to
        decides = to.space.champion.benchmark
        best = max(scores, key=lambda n: scores[n][decides]["accuracy"])
        result = {
            "search": to.space.name,
            "champion": best,
            "bundle": "/b",
            "register_as": "remora",
            "version": "1",
            "stage_runs": {},
            "steps": {},
            "stopped": "",
            "seconds": 1234.0,
            "ended": BEGAN + 1234.0,
            "variants": [{"name": n, "stages": {}, "benchmarks": s} for n, s in scores.items()],
            "others": [{"name": n, "state": "paused", "stages": {}} for n in to.paused],
        }
        write_json(self.home.with_suffix(".json"), result)

    def _train(self, name: str) -> None:
        to, (first, last) = self.to, self.to.lineages[name]
        if first not in self.begun:
            self.begun.add(first)
            self._stage(first, None, STEPS["pretrain"], 1.0, to.abilities[name])
            self._item("train", first, name, "trained", STEPS["pretrain"], 60.0)
        share = 1.0 if name in to.finished else 0.5
        self._stage(last, first, STEPS["finetune"], share, to.abilities[name])
        if self.ruled:
            self._rungs(name, last, share)
        how = "failed" if name in to.failed else "paused" if name in to.paused else "trained"
        self._item("train", last, name, how, round(share * STEPS["finetune"]), 120.0 * share)

    def _rungs(self, name: str, run: str, furthest: float) -> None:
        for share in (0.25, 0.5):
            score = self.to.abilities[name] * (0.5 + share)
            samples = round(share * STEPS["finetune"]) * BATCH
            at = Reached(name, run, "finetune", share, round(share * STEPS["finetune"]), samples, "gqa", score, True)
            goes_on = share < furthest
            said = Decided(
                name,
                run,
                "finetune",
                share,
                "promote" if goes_on else "pause",
                "halving by gqa, eta 2, from 0.25",
                3,
                12,
            )
            board.write(self.home / board.RUNGS, [at, said])

    def _stage(self, run: str, parent: str | None, steps: int, share: float, ability: float) -> None:
        noise = np.random.default_rng(int(digest(run)[:8], 16))
        begun = {"attempt": 1, "stage": run.rpartition("-")[0], "steps": steps, "at": 0, "again": 0, "workers": 1}
        events = [{"event": "attempt", "time": BEGAN, "attempt": 1}]
        events.append({"event": "started", "time": BEGAN, **begun, "table": []})
        for step in range(round(steps * share)):
            loss = 1.5 - ability + 3.0 * 0.96**step + 0.1 * float(noise.standard_normal())
            done = {"step": step, "loss": loss, "samples": BATCH, "tokens": 50.0 + step % 7}
            events.append({"event": "step", "time": BEGAN + step + 1.0, "attempt": 1, **done})
            if (step + 1) % 30 == 0:
                about = {"samples_seen": (step + 1) * BATCH, "share": (step + 1) / steps, "loss": loss + 0.2, "of": "a"}
                events.append({"event": "validation", "time": BEGAN + step + 1.5, "attempt": 1, "step": step, **about})
        text = "".join(json.dumps(e) + "\n" for e in events)
        folder = self.to.runs / "stages" / run
        if share < 1.0:
            work = folder.with_name(f"{run}.work")
            work.mkdir(parents=True)
            (work / journal.JOURNAL).write_text(text)
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        with publishing(folder) as made:
            (made / journal.JOURNAL).write_text(text)
            write_json(made / "record.json", {"stage": begun["stage"], "parent": parent})

    def _item(self, kind: str, run: str, name: str, how: str, steps: int, seconds: float) -> None:
        lane = min(range(len(self.clock)), key=lambda i: self.clock[i])
        began, self.number = self.clock[lane], self.number + 1
        self.clock[lane] = began + seconds
        first = {"event": "began", "time": began, "number": self.number, "kind": kind, "run": run, "variant": name}
        last = {"event": "ended", "time": began + seconds, "number": self.number, "how": how, "steps": steps}
        lines.append(self.home / "ledger.jsonl", [first, last])

    def _asked(self, name: str, asked: str) -> dict[str, Any]:
        """A report by a draw in which the same questions are hard for all."""
        hard = np.random.default_rng(int(digest(asked)[:8], 16)).random(QUESTIONS)
        own = np.random.default_rng(int(digest([name, asked])[:8], 16)).random(QUESTIONS)
        right = 0.8 * hard + 0.2 * own < self.to.abilities[name]
        items = [ScoredAnswer(i, "a", "a", float(r), str(i // 2), "b") for i, r in enumerate(right)]
        chosen = benchmark(asked)
        figures, groups = chosen.figures(items), [i.group for i in items]
        metrics = {k: value(f) for k, f in figures.items()}
        intervals = {k: interval(f, groups) for k, f in figures.items()}
        report = Report(asked, chosen.protocols[0], metrics, intervals, items, [])
        score = as_json(summarise(report, chosen.headline))
        about = About(name, digest([name, "weights"]), asked, digest(asked))
        folder = self.to.runs / "scores" / about.folder
        folder.mkdir(parents=True)
        write_json(folder / "about.json", asdict(about))
        write_json(folder / "report.json", report.as_json())
        write_json(folder / "score.json", score | {"no_submission": ""})
        return score
