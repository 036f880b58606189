"""`remora search --local`: rungs, promotion, a kill, and the same command again; real training, no Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import yaml

from remora.pipeline.search.board import RUNGS, Rungs
from remora.pipeline.search.ledger import Ledger
from remora.training.journal import steps_of, validations_of
from support.colours import write_colours
from support.tiny import write_records

pytestmark = pytest.mark.slow
STEPS = 9
RATES = [1.0e-3, 2.0e-3, 4.0e-3]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A space of three rates, of which halving trains one to its end."""
    root = tmp_path_factory.mktemp("rungs")
    write_records(root, count=24, images=".")
    write_records(root, "words.json", count=12, pictures=False)
    colours = str(write_colours(root))
    stage = {"steps": 2, "batch": 4, "lr": 1e-3, "mixture": [{"path": str(root / "train.json")}]}
    space = {
        "name": "rates",
        **{part: [name] for part, name in {"vision": "efficientnet-lite0", "connector": "mlp2x_gelu"}.items()},
        "llm": ["demo-2m"],
        "recipe": ["base"],
        "overrides": {
            "language": stage | {"mixture": [{"path": str(root / "words.json")}]},
            "align": stage,
            "finetune": stage | {"steps": STEPS, "validate": {"share": 0.2, "every": 1.0, "limit": 4}},
        },
        "axes": {"finetune.lr": RATES},
        "rule": {"kind": "halving", "eta": 3, "first": 0.3333},
        "cluster": {"workers": 1, "micro_batch": 4, "checkpoint_every": 2},
        "benchmarks": [colours],
        "champion": {"benchmark": colours},
    }
    (root / "space.yaml").write_text(yaml.safe_dump(space))
    return root


def start(place):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "REMORA_"))}
    env = kept | {"HOME": str(place), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "remora",
        "search",
        str(place / "space.yaml"),
        "--local",
        "--runs",
        str(place / "r"),
    ]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_search_that_is_killed_at_a_rung_goes_on_and_trains_nothing_twice(place):
    first, file = start(place), place / "r" / "searches" / "rates" / RUNGS
    while first.poll() is None and (not file.exists() or '"pause"' not in file.read_text()):
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    paused = {d.run for d in Rungs.read(file).decided}
    assert len(paused) == 1
    second = start(place)
    said, _ = second.communicate()
    assert second.returncode == 0, said

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


def test_the_same_command_again_does_nothing(place):
    ledger = place / "r" / "searches" / "rates" / "ledger.jsonl"
    before = len(Ledger.entries(ledger))
    again = start(place)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert {e.how for e in Ledger.entries(ledger)[before:]} <= {"measured"}
