"""What a training and a search came to is the same lines on a terminal as in a pipe."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from remora.evaluation.gate import GateFigure
from remora.evaluation.score import Score, as_json
from remora.reporting.progress import SearchProgress
from remora.reporting.results import choice_line, cost_text, search_lines, variant_lines
from remora.reporting.story import print_champion
from remora.training import journal

OWN = Score("easy-vqa", 9673, "accuracy", 0.86612, (0.8591, 0.8724), 0.668, (0.66, 0.68), 0.67, {"accuracy": 0.86612})
PAPER = Score("pope", 9000, "f1", 86.123, (85.2, 87.0), metrics={"f1": 86.123}, broken=2)
LINES = [
    "easy-vqa: accuracy 0.8661 (0.8591 to 0.8724), blind 0.6680, question only 0.6700, n 9,673",
    "pope: f1 86.12 (85.20 to 87.00), n 9,000, 2 could not be asked",
]


def test_a_variants_results(tmp_path: Path) -> None:
    scores = {s.benchmark: as_json(s) for s in (OWN, PAPER)}
    assert list(variant_lines(scores, "/b")) == [*LINES, "bundle: /b", "next: remora serve /b"]
    # The same from the journal, where the process that draws finds them: it had printed nothing.
    status = tmp_path / "status" / "single" / "base.jsonl"
    status.parent.mkdir(parents=True)
    for score in (OWN, PAPER):
        journal.append(status, "scored", **as_json(score))
    journal.append(status, "finished", bundle="/b")
    (ended,) = SearchProgress(tmp_path, "single", ["base"], 0).read()
    assert (ended.state, list(variant_lines(ended.scores, ended.bundle))[:3]) == ("finished", [*LINES, "bundle: /b"])


def place(name: str, p: float, figure: float = 0.86612, parameters: float = 2_930_000) -> dict:
    return {"name": name, "figure": figure, "p": p, "cost": {"parameters": parameters, "picture_tokens": 49}}


CHOICE = {
    "benchmark": "easy-vqa",
    "chosen": "base",
    "best": "base",
    "equals": ["share", "wide"],
    "cheapest": "share",
    "expected_drop": 0.00433,
    "variants": [place("base", 1.0), place("share", 0.62), place("wide", 0.214), place("far", 0.0001)],
}
AT = {"stage": "finetune", "share": 0.2, "figure": "loss", "value": 1.23456, "place": (5, 9)}
GATE = GateFigure("easy-vqa", "accuracy", 9673, 0.812, 0.868, -0.061, 0.05, 0.4, False)
EQUALS = "not distinguishable from: share, wide (p at least 0.21); the cheapest of them: share (2.9 M parameters, 49"


def test_a_searchs_results() -> None:
    result = {
        "variants": [{"name": "base", "benchmarks": {"easy-vqa": as_json(OWN), "pope": as_json(PAPER)}}],
        "champion": "base",
        "choice": CHOICE,
        "register_as": "cats",
        "version": "3",
        "gate": [GATE.shown],
        "refused": "",
        "stopped": "budget.steps: 9 of 9 are spent",
        "bundle": "/b",
        "stage_runs": {"planned": 7, "trained": 2, "reused": 5},
        "steps": {"taken": 1050, "again": 50, "optimum": 1200, "there": 90, "alone": 3000, "unspent": 200},
        "others": [
            {"name": "early", "state": "paused", "at": AT},
            {"name": "late", "state": "paused", "at": AT | {"share": 0.6, "place": (2, 3)}},
            {"name": "never", "state": "waiting", "at": None},
        ],
    }
    assert list(search_lines(result)) == [
        f"base: {LINES[0]}",
        f"base: {LINES[1]}",
        f"champion: base, version 3 of cats; {EQUALS} picture tokens); expected drop: 0.0043",
        f"chosen on {LINES[0]}",
        f"reported on {LINES[1]}",
        "bundle: /b",
        "paused: late at 60% of finetune, loss 1.2346, place 2 of 3",
        "paused: early at 20% of finetune, loss 1.2346, place 5 of 9",
        "waiting: never",
        "stage runs: 7 planned, 2 trained, 5 reused",
        "spent: 1,050 steps (50 again, after interruptions), 105.0% of what each stage run trained once needs",
        "saved: 1,800 by sharing and reuse and 200 by stopping, of 3,000 steps of all variants on their own",
        "ended by budget.steps: 9 of 9 are spent",
        f"{GATE.shown}: not significantly worse",
        "next: remora serve cats@champion",
    ]
    changed = result | {"steps": {**result["steps"], "taken": 1250, "dropped": 200}}
    spent = (
        "spent: 1,250 steps (50 again, after interruptions, 200 of variants that the space has no more), 105.0% of what"
    )
    assert any(line.startswith(spent) for line in search_lines(changed))
    kept = list(search_lines(result | {"refused": "cats@champion stays version 2", "stopped": ""}))
    assert kept[-2:] == [
        "cats@champion was not moved: cats@champion stays version 2",
        "next: remora serve /b, or remora promote /b",
    ]
    away = list(search_lines(result | {"version": None, "refused": "MLflow is away"}))
    assert away[2].startswith("champion: base; once MLflow answers, remora sync makes it a version of cats; not dist")


def test_what_a_choice_is_worth() -> None:
    assert choice_line(CHOICE | {"variants": [place("base", 1.0)], "equals": []}) == "the only variant"
    alone = CHOICE | {"equals": [], "cheapest": "base", "variants": [place("base", 1.0), place("b", 0.0123)]}
    assert choice_line(alone) == "better than the other (p 0.0123); expected drop: 0.0043"
    alone["variants"] = [place("base", 1.0, 86.1, 3.12e9), place("b", 0.0123), place("c", 0.001)]
    assert choice_line(alone) == "better than all 2 others (p 0.0123); expected drop: 0.00"
    for_its_cost = choice_line(CHOICE | {"chosen": "share"})
    assert for_its_cost.startswith("chosen for its cost; the best is base; not distinguishable from: base, wide (p at")
    assert "the cheapest of them: it is (2.9 M" in for_its_cost
    assert cost_text({"parameters": 3.12e9, "picture_tokens": 1296}) == "3.1 B parameters, 1,296 picture tokens"
    many = [place("base", 1.0), *(place(f"v{i}", 0.5) for i in range(12))]
    crowd = choice_line(CHOICE | {"variants": many, "equals": [v["name"] for v in many[1:]], "cheapest": "base"})
    assert "v7 and 4 more (p at least 0.50)" in crowd


def test_the_demo_does_not_call_a_tie_a_win() -> None:
    out = io.StringIO()
    result = {
        "variants": [{"name": "base", "benchmarks": {"easy-vqa": as_json(OWN), "unseen": as_json(OWN)}}],
        "champion": "base", "choice": CHOICE, "register_as": "remora", "version": "1",
        "gate": [], "refused": "",
    }  # fmt: skip
    print_champion(Console(file=out, width=400), result, {"easy-vqa": "val", "unseen": "unseen concepts"})
    assert out.getvalue().splitlines() == [
        "Champion: base, registered as remora@champion, version 1.",
        f"Chosen on val, 0.866; {EQUALS} picture tokens); expected drop: 0.0043.",
        "Reported on unseen concepts, 0.866.",
    ]
    out = io.StringIO()
    kept = result | {"refused": "remora@champion stays version 1, old: base is worse"}
    print_champion(Console(file=out, width=400), kept, {"easy-vqa": "val", "unseen": "unseen concepts"})
    assert out.getvalue().splitlines()[:2] == ["Champion: base, remora@champion was not moved.", kept["refused"]]
