"""A search's choice from what its variants left in the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from remora import catalog
from remora.errors import DataError
from remora.evaluation.report import Report, ScoredAnswer
from remora.evaluation.score import Score
from remora.files import write_json
from remora.pipeline.choice import choice, cost
from remora.pipeline.search.search import search_key
from remora.pipeline.variant import Outcome
from remora.runs import StageRun, Store, resolve_stages, variants_of
from remora.spec import Space
from remora.training import journal

SPACE = Space.model_validate(
    {
        "name": "s",
        "vision": ["efficientnet-lite0"],
        "connector": ["mlp2x_gelu", "resampler"],
        "llm": ["demo-2m"],
        "recipe": ["base"],
        "benchmarks": ["easy-vqa-val"],
        "champion": {"benchmark": "easy-vqa-val"},
    }
)
OWN = {"title": "t", "questions": "q.jsonl", "images": ".", "metric": "exact-match", "max_new_tokens": 4}
TABLE = [{"part": "vision", "parameters": 3_371_000}, {"part": "connector", "parameters": 14_000}]


def left(store: Store, name: str, right: int) -> Path:
    """The folder of a variant's answers to 80 questions."""
    items = [ScoredAnswer(i, "x", "x", float(i < right), str(i // 2), "w") for i in range(80)]
    folder = store.runs / "scores" / f"{name}-easy-vqa-val"
    folder.mkdir(parents=True)
    write_json(folder / "report.json", Report("easy-vqa-val", "own", {}, {}, items, [], own=OWN).as_json())
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def measured(store: Store) -> tuple[list[Outcome], dict]:
    """Two variants that differ in one question; the second has fewer parameters in its journal."""
    outcomes, variants = [], {}
    for name, variant, right, more in zip(("big", "small"), variants_of(SPACE), (61, 60), (10, 0), strict=True):
        run = StageRun(f"{name:0<64}", resolve_stages(variant)[-1], None, (), 0)
        folder = store.folder(run)
        folder.mkdir(parents=True)
        journal.append(folder / journal.JOURNAL, "attempt", attempt=1)
        table = [row | {"parameters": row["parameters"] + more} for row in TABLE]
        journal.append(folder / journal.JOURNAL, "started", at=0, table=table)
        score = Score("easy-vqa-val", 80, "accuracy", right / 80, (0.6, 0.9))
        reports = {"easy-vqa-val": left(store, name, right)}
        outcomes.append(Outcome(name, store.runs / name, f"variant/{name}", {"easy-vqa-val": score}, reports, {}))
        variants[name] = (variant, (run,))
    return outcomes, variants


def test_a_cost_is_what_the_last_stage_run_counted(store: Store, measured: tuple) -> None:
    variant, (run,) = measured[1]["small"]
    assert cost(variant, run, store) == {"parameters": 3_385_000, "picture_tokens": 9}
    (store.folder(run) / journal.JOURNAL).write_text("")  # torn
    parts = catalog.vision(variant.vision).parameters + catalog.llm(variant.llm).parameters
    assert cost(variant, run, store)["parameters"] == parts


def test_the_champion_is_the_best_or_its_cheapest_equal(store: Store, measured: tuple) -> None:
    best = choice(*measured, "easy-vqa-val", "best", store)
    assert (best.chosen, best.ranking.equals, best.cheapest) == ("big", ("small",), "small")
    assert best.ranking.models[0].figure == max(o.scores["easy-vqa-val"].accuracy for o in measured[0])
    assert choice(*measured, "easy-vqa-val", "cheapest", store).chosen == "small"


def test_a_report_that_is_gone_is_named(store: Store, measured: tuple) -> None:
    gone = measured[0][0].reports["easy-vqa-val"] / "report.json"
    gone.unlink()
    with pytest.raises(DataError, match=f"unreadable report: {gone}"):
        choice(*measured, "easy-vqa-val", "best", store)


def test_what_is_preferred_is_another_choice_of_the_same_search() -> None:
    cheap = Space.model_validate(json.loads(SPACE.model_dump_json()) | {
        "champion": {"benchmark": "easy-vqa-val", "prefer": "cheapest"}
    })  # fmt: skip
    assert cheap.champion.prefer == "cheapest" and search_key(cheap) == search_key(SPACE)
