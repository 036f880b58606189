"""Rungs that compare a benchmark's score; and a search that goes on with what another one has trained so far."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from remora.pipeline.search.board import RUNGS, Rungs
from remora.pipeline.search.ledger import Ledger
from remora.training.journal import steps_of, validations_of
from support.colours import write_colours
from support.rates import STEPS, ended, start, write_space

pytestmark = pytest.mark.slow
RATES = [1.0e-3, 4.0e-3]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("figure")


def space(place: Path, name: str, rule: dict[str, object], **validate: object) -> Path:
    """Two rates; the last stage is validated by a loss and three questions, and of its own only at its end."""
    asked = {"benchmark": {"name": str(write_colours(place)), "limit": 3}}
    return write_space(place, f"{name}.yaml", asked | validate, name=name, rule=rule, axes={"finetune.lr": RATES})


def test_a_rung_is_decided_by_the_score(place: Path) -> None:
    ended(space(place, "score", {"kind": "halving", "eta": 2, "first": 0.3333, "figure": "colours"}))
    board = Rungs.read(place / "r" / "searches" / "score" / RUNGS)
    at_rung = board.ranking("finetune", 0.3333)
    assert [r.figure for r in board.arrivals] == ["colours"] * len(board.arrivals) and len(at_rung) == 2
    assert all(r.higher and r.step == 3 for r in at_rung)
    promoted = [d for d in board.decided if d.decision == "promote" and d.share == 0.3333]
    assert [d.run for d in promoted] == [at_rung[0].run] and at_rung[0].value >= at_rung[1].value
    assert promoted[0].rule == "halving by colours, eta 2, from 0.3333"
    for r in at_rung:
        stages = place / "r" / "stages"
        folder = stages / r.run if (stages / r.run).is_dir() else stages / f"{r.run}.work"
        (seen,) = (v for v in validations_of(folder / "journal.jsonl") if v.step == 2)
        assert seen.score == r.value


def test_another_search_decides_by_what_was_measured_before_it(place: Path) -> None:
    """Its stage runs are past its rung, one of them published: what they logged is compared, not trained again."""
    before = _steps(place)
    ended(space(place, "loss", {"kind": "halving", "eta": 2, "first": 0.3333}))
    board = Rungs.read(place / "r" / "searches" / "loss" / RUNGS)
    stages = place / "r" / "stages"
    at_rung = board.ranking("finetune", 0.3333)
    assert len(at_rung) == 2 and all((r.figure, r.higher, r.step) == ("loss", False, 3) and r.tokens for r in at_rung)
    (paused,) = {d.run for d in board.decided if d.decision == "pause"}
    (there,) = {r.run for r in at_rung} - {paused}
    assert [d.decision for d in board.decided if d.run == there] == ["go on", "go on"]  # it is at its end
    better = at_rung[0].run == paused  # and then it goes on from its rung in the first search
    assert (stages / paused).is_dir() == better and _steps(place) - before == (STEPS - 3 if better else 0)


def test_two_searches_at_once_train_what_they_share_once(place: Path) -> None:
    """Both halve three rates, of which they share two, in one run folder. One ends its variants, the other may wait."""
    spaces = {}
    for name, rates in (("left", [1.5e-3, 2.0e-3, 3.0e-3]), ("right", [2.0e-3, 3.0e-3, 5.0e-3])):
        rule = {"kind": "halving", "eta": 3, "first": 0.3333}
        spaces[name] = write_space(place, f"{name}.yaml", name=name, rule=rule, axes={"finetune.lr": rates})
    both = [start(file, "both") for file in spaces.values()]
    for process in both:
        said, _ = process.communicate()
        assert process.returncode == 0, said
    folder = place / "both"
    entries = [e for name in spaces for e in Ledger.entries(folder / "searches" / name / "ledger.jsonl")]
    trained = Counter(e.run for e in entries if e.how == "trained")
    assert set(trained.values()) == {1}
    for name in spaces:
        board = Rungs.read(folder / "searches" / name / RUNGS)
        assert len(board.ranking("finetune", 0.3333)) == 3 and len(trained) <= 2 + 2
        result = json.loads((folder / "searches" / f"{name}.json").read_text())
        assert result["champion"] and len(result["variants"]) >= 1
    for run in (folder / "stages").glob("*-*[0-9a-f]/journal.jsonl"):
        steps = [s["step"] for s in steps_of(run)]
        assert steps == list(range(len(steps))), run  # none is missing, none is twice


def test_what_is_reused_is_validated_as_the_search_asks(place: Path) -> None:
    """Once, after it was trained by others: by three samples and other questions."""
    ended(space(place, "all", {"kind": "none"}))
    before = _steps(place)
    for _ in range(2):
        ended(space(place, "later", {"kind": "none"}, limit=3))
        found = {f.name: validations_of(f) for f in (place / "r" / "stages").glob("finetune-*.validations.jsonl")}
        assert len(found) == 2 and all(len(seen) == 1 for seen in found.values())
    assert all(v.step == STEPS - 1 and v.score is not None for seen in found.values() for v in seen)
    assert _steps(place) == before
    assert not list((place / "r" / "stages").glob("*.work"))


def _steps(place: Path) -> int:
    found = 0
    for file in (place / "r" / "searches").glob("*/ledger.jsonl"):
        found += sum(json.loads(line).get("steps", 0) for line in file.read_text().splitlines())
    return found
