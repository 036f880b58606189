"""A search's budget: each key is held, a search that it ends says what is left, and a larger one goes on from there."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from remora.errors import StoreError, TornArtifact
from remora.files import lines
from remora.pipeline.search import board
from remora.pipeline.search.driver import LEDGER, Driver
from remora.pipeline.search.ledger import Entry, Ledger
from remora.pipeline.search.perform import Performed
from remora.pipeline.search.spending import spending
from remora.pipeline.variant import Outcome
from remora.runs import read_space
from remora.training.journal import JOURNAL, Validated, read
from support.colours import write_colours
from support.rates import write_space

STEPS = 10
"""That each item of training is said to have taken."""


def driver(root: Path, **changes: object) -> Driver:
    space = read_space(write_space(root, rule={"kind": "none"}, **changes))
    return Driver(space, root / "r", "search/rates/0")


def work(at: Driver) -> list[str]:
    """Perform all that it hands out, by saying so; what it handed out."""
    found = []
    while (order := at.next()) is not None:
        found.append(order.run if order.kind == "train" else order.kind)
        if order.kind == "train":
            at.done(order.number, Performed("trained", STEPS))
        else:
            (name,) = {t.name for t in at.work.trials.values() if t.last.name == order.run}
            scores = {"colours": SimpleNamespace(accuracy=0.5)}
            came = Outcome(name, Path(), "", scores, {}, {})  # type: ignore[arg-type]
            at.done(order.number, Performed("measured", outcome=came))
    assert at.over
    return found


@pytest.mark.slow
def test_without_a_budget_all_is_done(tmp_path: Path) -> None:
    at = driver(tmp_path)
    found = work(at)
    assert len(found) == 2 + 3 + 3 and found.count("measure") == 3 and at.stopped() == ""


@pytest.mark.slow
def test_steps_end_it_and_more_of_them_go_on(tmp_path: Path) -> None:
    at = driver(tmp_path, budget={"steps": 3 * STEPS})
    first = work(at)
    assert len(first) == 4 and first[-1] == "measure"  # two stages of all variants, one of the first
    left = "base-Eff-2M-mlp-lr=2e-3, base-Eff-2M-mlp-lr=4e-3"
    line = rf"budget\.steps: 30 of 30 are spent; variants left: 2 not trained to the end \({left}\); "
    line += r"next: raise budget\.steps in the space and run the same command again, which goes on from there"
    assert re.fullmatch(line, at.stopped())
    again = driver(tmp_path, budget={"steps": 4 * STEPS})
    assert again.ledger.steps == 3 * STEPS
    assert len(work(again)) == 1 and again.ledger.steps == 4 * STEPS


@pytest.mark.slow
def test_trials_end_it(tmp_path: Path) -> None:
    at = driver(tmp_path, budget={"trials": 2})
    assert work(at).count("measure") == 2
    assert at.stopped().startswith("budget.trials: 2 of 2 are spent; variants left: 1 never tried; next: raise budget")
    assert len(driver(tmp_path, budget={"trials": 3}).work.trials) == 3
    assert driver(tmp_path, budget={"trials": 3}).stopped() == ""


def test_hours_end_it(tmp_path: Path) -> None:
    at = driver(tmp_path, budget={"hours": 1e-9})
    assert work(at) == [] and at.stopped().startswith("budget.hours: ")


def entry(number: int, run: str, began: float, hours: float | None) -> list[dict[str, object]]:
    """Lines of a ledger: an item that took so long, or never ended."""
    first = {"event": "began", "time": began, "number": number, "kind": "train", "run": run, "variant": "v", "at": 1}
    last = {"event": "ended", "time": began + 3600 * (hours or 0), "number": number, "how": "trained", "steps": 1}
    return [first] if hours is None else [first, last]


def test_hours_of_gpus_end_it(tmp_path: Path) -> None:
    cluster = {"workers": 2, "gpus_per_worker": 1}
    folder = tmp_path / "r" / "searches" / "rates"
    folder.mkdir(parents=True)
    lines.append(folder / LEDGER, [*entry(0, "a", 0.0, 1.0), *entry(1, "b", 0.0, 2.0)])  # at once: 3 hours of 2 GPUs
    assert driver(tmp_path, cluster=cluster, budget={"gpu_hours": 6.5})._spent() == ""
    at = driver(tmp_path, cluster=cluster, budget={"gpu_hours": 6})
    assert work(at) == [] and at.stopped().startswith("budget.gpu_hours: 6 of 6 are spent")


def test_what_a_dead_process_took_counts(tmp_path: Path) -> None:
    """Its steps and hours are those of the stage run's journal since it began, once."""
    folder, began = tmp_path / "r" / "searches" / "rates", time.time() - 7200
    folder.mkdir(parents=True)
    lines.append(folder / LEDGER, [*entry(0, "finetune-1", began, None), *entry(1, "gone-1", began, None)])
    stage = tmp_path / "r" / "stages" / "finetune-1.work"
    stage.mkdir(parents=True)
    events = [{"event": "step", "time": began + at, "step": n} for n, at in enumerate((-10.0, 10.0, 1800.0))]
    (stage / JOURNAL).write_text("".join(json.dumps(e) + "\n" for e in events))
    for _ in range(2):
        at = driver(tmp_path)
        assert at.ledger.steps == 2 and at.ledger.lost == []
        assert at.ledger.hours == pytest.approx(0.5, abs=0.01)
    ends = {e.run: (e.how, e.steps, e.ended) for e in Ledger.entries(folder / LEDGER)}
    assert ends == {"finetune-1": ("lost", 2, began + 1800.0), "gone-1": ("lost", 0, began)}


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["loss", "colours"])
def test_rungs_of_other_samples_or_questions_are_not_mixed_with_these(tmp_path: Path, figure: str) -> None:
    """Neither is part of a stage run's identity, so only the rungs tell."""

    def begun(limit: int = 4, questions: int = 3, kind: str = "halving") -> Driver:
        asked = {"name": str(write_colours(tmp_path)), "limit": questions}
        rule = {"kind": kind, "figure": figure}
        said = write_space(tmp_path, validate={"limit": limit, "benchmark": asked}, rule=rule)
        return Driver(read_space(said), tmp_path / "r", "search/rates/0")

    at = begun()
    watch = at._watch(next(iter(at.work.trials.values())))
    board.write(Path(watch.board), [watch.reached(Validated(2, 12, 0.3333, 1.0, 0.5, "", 18), 9)])
    begun()
    with pytest.raises(StoreError, match="the rungs of stage 'finetune' were measured on other held-out"):
        begun(limit=2) if figure == "loss" else begun(questions=2)
    begun(limit=2) if figure == "colours" else begun(questions=2)
    begun(2, 2, kind="none")


def test_losses_over_unlike_numbers_of_tokens_are_noted(tmp_path: Path) -> None:
    """More of a picture's tokens leave less room for words, which is known only where a rung is reached."""
    at = Driver(read_space(write_space(tmp_path)), tmp_path / "r", "search/rates/0")
    for tokens in (18, 18, 17):
        while (order := at.next()) and not order.watch:
            at.done(order.number, Performed("trained", STEPS))
        assert order and order.watch
        seen = Validated(2, 12, 0.3333, 1.0, None, "", tokens)
        board.write(tmp_path / "r" / "searches" / "rates" / board.RUNGS, [order.watch.reached(seen, 9)])
        at.done(order.number, Performed("paused", 3))
    notes = [e["text"] for f in (tmp_path / "r" / "status" / "rates").glob("*.jsonl") for e in read(f) if "text" in e]
    (text,) = notes
    assert "its loss at 33% is a mean over 17 tokens, that of finetune-" in text
    assert text.endswith(
        "over 18, since max_length cuts them elsewhere; raise max_length, or compare a score (rule.figure)"
    )


def test_steps_of_variants_that_the_space_has_no_more_are_no_price_of_what_it_has() -> None:
    entries = [Entry(n, "train", run, run, 0.0, 1.0, "trained", 10 * n, 0, 0) for n, run in enumerate("ab", 1)]
    found = spending(entries, {"a": ["a"]}, {"a": 10}, lambda run: True)
    assert (found.taken, found.dropped, found.optimum, found.ratio) == (30, 20, 10, 1.0)


@pytest.mark.slow
def test_a_full_disk_ends_the_search_and_fails_no_variant(tmp_path: Path) -> None:
    at = driver(tmp_path)
    order = at.next()
    assert order
    with pytest.raises(StoreError, match="the disk is full"):
        at.failed(order.number, StoreError("the disk is full"))
    assert {t.state for t in at.work.trials.values()} == {"waiting"}
    other = driver(tmp_path)
    order = other.next()
    assert order
    other.failed(order.number, TornArtifact("a part was changed"))
    assert {t.state for t in other.work.trials.values()} == {"failed"}  # they all begin with that stage run
    assert other.over or other.next() is None


def test_steps_of_another_node_that_it_went_on_from_are_not_its_own(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / LEDGER)
    ledger.end(ledger.begin("train", "a", "v", at=0), "trained", steps=4, at=6)
    ledger.end(ledger.begin("train", "b", "v", at=2), "trained", steps=8, at=2)
    lines_of = [line for line in (tmp_path / LEDGER).read_text().splitlines() if '"at"' in line]
    assert len(lines_of) == 3  # it is written again only where it is another
    entries = Ledger.entries(tmp_path / LEDGER)
    assert [e.at for e in entries] == [6, 2]
    found = spending(entries, {"v": ["a", "b"]}, {"a": 10, "b": 10}, lambda run: True)
    assert (found.taken, found.optimum, found.unspent, found.ratio) == (12, 12, 0, 1.0)
