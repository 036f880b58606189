"""`remora search`, in its own process and on Ray: rungs, promotion, a kill, the same command again; real training."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter

import pytest
import yaml

from remora.cli import main
from remora.pipeline.search.board import RUNGS, Rungs
from remora.pipeline.search.ledger import Ledger
from remora.training.journal import steps_of, validations_of
from support.rates import STEPS, ended, start, write_space
from support.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture(
    scope="module",
    params=["--local", pytest.param("", marks=[pytest.mark.ray, pytest.mark.faults])],
    ids=["local", "ray"],
)
def where(request):
    return request.param


@pytest.fixture(scope="module")
def place(tmp_path_factory, where):
    """The folder of a space of three rates, of which halving lets one come to its end."""
    return write_space(tmp_path_factory.mktemp("rungs")).parent


def test_a_search_that_is_killed_at_a_rung_goes_on_and_trains_nothing_twice(place, where):
    first, file = start(place / "space.yaml", where=where), place / "r" / "searches" / "rates" / RUNGS
    while first.poll() is None and (not file.exists() or '"pause"' not in file.read_text()):
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    paused = {d.run for d in Rungs.read(file).decided}
    assert 1 <= len(paused) < 3
    said = ended(place / "space.yaml", where=where)

    board = Rungs.read(file)
    assert Counter(d.decision for d in board.decided) == {"pause": 3, "promote": 1}
    (best,) = (d for d in board.decided if d.decision == "promote")
    ranking = board.ranking("finetune", 0.3333)
    assert best.run == ranking[0].run and [r.step for r in ranking] == [3, 3, 3]
    stages = {f.name for f in (place / "r" / "stages").iterdir() if f.is_dir()}
    done = {s for s in stages if s.startswith("finetune") and not s.endswith(".work")}
    assert done == {best.run} and len({s for s in stages if s.endswith(".work")}) == 2

    result = json.loads((place / "r" / "searches" / "rates.json").read_text())
    assert result["champion"] == best.variant and [v["name"] for v in result["variants"]] == [best.variant]
    assert {o["state"] for o in result["others"]} == {"paused"}
    assert {tuple(o["at"]["place"]) for o in result["others"]} == {(2, 3), (3, 3)}, "among all that came to the rung"
    spent = result["steps"]
    assert spent["optimum"] == 2 + 2 + 3 * STEPS and spent["alone"] == 3 * (2 + 2 + STEPS)
    assert spent["unspent"] == 2 * (STEPS - 3) and spent["there"] == 0
    entries = Ledger.entries(place / "r" / "searches" / "rates" / "ledger.jsonl")
    trained = Counter(e.run for e in entries if e.how == "trained")
    assert set(trained.values()) == {1} and len(trained) == 3
    assert spent["taken"] == 2 + 2 + 3 * 3 + (STEPS - 3) + spent["again"]
    assert len(steps_of(place / "r" / "stages" / best.run / "journal.jsonl")) == STEPS
    looks = validations_of(place / "r" / "stages" / best.run / "journal.jsonl")
    assert [v.step for v in looks] == [2, STEPS - 1]
    assert looks[0].loss == pytest.approx(ranking[0].value, rel=0)
    assert f"champion: {best.variant}" in said


def test_the_same_command_again_does_nothing(place, where):
    ledger = place / "r" / "searches" / "rates" / "ledger.jsonl"
    before = len(Ledger.entries(ledger))
    ended(place / "space.yaml", where=where)
    assert {e.how for e in Ledger.entries(ledger)[before:]} <= {"measured"}


def test_another_rule_of_the_same_search_decides_anew_from_what_was_measured(place, tmp_path):
    """Without a rule everybody goes on from where the rule left them."""
    file = place / "r" / "searches" / "rates" / RUNGS
    before = len(Rungs.read(file).decided)
    space = write_space(place, "none.yaml", rule={"kind": "none"})
    ended(space)
    result = json.loads((place / "r" / "searches" / "rates.json").read_text())
    assert len(result["variants"]) == 3 and result["others"] == []
    spent = result["steps"]
    assert spent["taken"] == 2 + 2 + 3 * STEPS + spent["again"] and len(Rungs.read(file).decided) == before


def test_a_search_that_is_asked_to_stop_does_so_within_a_stage_run(tmp_path, capsys):
    """Its last stage would take a day."""
    space = write_space(tmp_path, rule={"kind": "none"})
    said = yaml.safe_load(space.read_text())
    said["overrides"]["finetune"]["steps"] = 100_000
    space.write_text(yaml.safe_dump(said))
    search = start(space)
    until(
        "a step of the last stage", lambda: any(map(steps_of, tmp_path.glob("r/stages/finetune-*.work/journal.jsonl")))
    )
    main(["searches", "stop", "rates", "--runs", str(tmp_path / "r")])
    told, _ = search.communicate()
    assert search.returncode == 130, told
    assert told.endswith("stopped; what was finished is kept; next: the same command again goes on from there\n")
    assert "search rates has stopped" in capsys.readouterr().out
