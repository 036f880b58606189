"""What another rule would have made of a search: the same as the search itself, wherever values are known."""

from __future__ import annotations

import os

import pytest

from pipeline.simulated import merit, simulated, trial
from remora.pipeline.search.board import RUNGS, Reached, Rungs, write
from remora.pipeline.search.replay import replay
from remora.pipeline.search.rules import Everyone, Halving, Median
from remora.spec import step_at

STEPS = 900


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def trials(count=27):
    return [trial(("align", "a", 30), ("finetune", f"f{i}", STEPS)) for i in range(count)]


def whole(path, shares=(1 / 9, 0.2, 1 / 3, 0.5, 2 / 3)):
    """The board of a search that stopped nobody and was validated at these shares."""
    for share in [*shares, 1.0]:
        share = round(share, 6)
        found = [
            Reached(t.name, t.name, "finetune", share, step_at(share, STEPS), 0, "loss", merit(t.name), True)
            for t in trials()
        ]
        write(path, found)
    return Rungs.read(path)


@pytest.mark.parametrize("rule", [Halving.of(3, 1 / 9), Halving.of(2, 1 / 3), Everyone()], ids=str)
def test_a_replay_is_what_the_search_would_have_done(tmp_path, rule):
    told = replay(whole(tmp_path / "whole.jsonl"), "finetune", rule)
    done = simulated(trials(), rule, tmp_path / RUNGS, slots=1)
    done.go()
    assert set(told.finish) == set(done.measured) and told.unknown == ()
    assert told.steps == done.store.paid - 30 and told.of == 27 * STEPS
    assert told.finish[0] == max((t.name for t in trials()), key=merit)


def test_so_it_is_by_the_median(tmp_path):
    rule = Median((0.2, 0.5))
    told = replay(whole(tmp_path / "whole.jsonl"), "finetune", rule)
    done = simulated(trials(), rule, tmp_path / RUNGS, slots=1)
    done.go()
    assert set(told.finish) == set(done.measured) and told.steps == done.store.paid - 30


def test_what_was_never_trained_is_unknown(tmp_path):
    strict, lax = Halving.of(9, 1 / 9), Halving.of(3, 1 / 9)
    simulated(trials(), strict, tmp_path / RUNGS, slots=1).go()
    board = Rungs.read(tmp_path / RUNGS)
    assert replay(board, "finetune", strict).unknown == ()
    told = replay(board, "finetune", lax)
    assert told.steps == 27 * 100 + 9 * 200 + 3 * 600
    assert len(told.unknown) == 6  # that stopped at the first rung, and would have come to the second
    assert set(told.finish) == set(replay(board, "finetune", strict).finish)
