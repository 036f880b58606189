"""Trials by Optuna: what it learns, what a kill leaves of it, several objectives, a study that others can open."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from pipeline.simulated import merit, trial
from remora.errors import StoreError
from remora.pipeline.objectives import objectives_of
from remora.pipeline.search.board import RUNGS, Reached
from remora.pipeline.search.by_optuna import ByOptuna
from remora.pipeline.search.rules import Everyone, Halving, StoppingRule
from remora.pipeline.search.samplers import drawn
from remora.pipeline.search.simulation import SimulatedStore, Simulation
from remora.pipeline.search.work import Trial
from remora.spec import Space

COMPLETE, FAIL, PRUNED, RUNNING = (
    getattr(optuna.trial.TrialState, name) for name in ("COMPLETE", "FAIL", "PRUNED", "RUNNING")
)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def space(trials: int = 30, seed: int = 0, **changes: Any) -> Space:
    """A rate, an encoder, and an axis that only one of two recipes has."""
    said = {
        "name": "rates",
        "vision": ["clip-l-336", "siglip-so400m-384", "dinov2-l"],
        "connector": ["mlp2x_gelu"],
        "llm": ["phi-2"],
        "recipe": ["base", "share"],
        "axes": {
            "finetune.lr": {"low": 1.0e-6, "high": 1.0e-3, "log": True},
            "pretrain.lr": {"low": 1.0e-6, "high": 1.0e-3, "log": True, "when": {"recipe": "share"}},
            "finetune.batch": {"low": 16, "high": 512, "integer": True},
        },
        "sampler": {"kind": "optuna", "trials": trials, "seed": seed},
        "benchmarks": ["gqa"],
        "champion": {"benchmark": "gqa"},
    }
    return Space.model_validate(said | changes)


def made(assignment: Mapping[str, Any]) -> Trial:
    """A trial of an assignment, of two stages."""
    name = "-".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in assignment.values())
    found = trial(("align", str(assignment["vision"]), 30), ("finetune", name, 90))
    return Trial(name, found.variant, found.lineage, dict(assignment))


def score(choice: Mapping[str, Any]) -> float:
    """One optimum: siglip, share, both rates at 5e-5, the batch at 128."""
    found = 60.0 + 3.0 * (choice["vision"] == "siglip-so400m-384") + 2.0 * (choice["recipe"] == "share")
    found -= 4.0 * abs(math.log10(choice["finetune.lr"] / 5e-5)) + 2.0 * abs(
        math.log2(choice.get("finetune.batch", 128) / 128)
    )
    return found - 2.0 * abs(math.log10(choice.get("pretrain.lr", 1e-4) / 5e-5))


def sampler(of: Space, folder: Path) -> ByOptuna:
    return ByOptuna(of, made, folder, objectives_of(of))


def finish(source: ByOptuna, asked: Trial, **figures: float) -> None:
    asked.state = "finished"
    asked.figures = figures or {"gqa": score(asked.choice)}
    source.tell(asked, None)


def at_rung(asked: Trial, value: float, higher: bool = True) -> Reached:
    return Reached(asked.name, asked.last.name, "finetune", 0.5, 45, 0, "gqa" if higher else "loss", value, higher)


def states(folder: Path, name: str = "rates") -> Counter[object]:
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'optuna.db'}")
    return Counter(t.state for t in study.trials)


def tried(source: ByOptuna) -> list[Trial]:
    found = []
    while asked := source.ask():
        finish(source, asked)
        found.append(asked)
    return found


@pytest.mark.slow
def test_it_finds_better_trials_than_chance(tmp_path: Path) -> None:
    """Over eight seeds, 30 trials each: the best and the mean of the last ten."""
    better = Counter[str]()
    for seed in range(8):
        of = space(seed=seed)
        by_chance = [score(t.choice) for t in drawn(of, made, 30, seed)]
        found = [score(t.choice) for t in tried(sampler(of, tmp_path / str(seed)))]
        assert len(found) == len(by_chance) == 30
        better["best"] += max(found) >= max(by_chance)
        better["late"] += sum(found[-10:]) > sum(by_chance[-10:])
    assert better["best"] >= 6 and better["late"] >= 7, better


@pytest.mark.slow
def test_conditional_axes_are_asked_where_they_exist(tmp_path: Path) -> None:
    source = sampler(space(), tmp_path)
    for asked in tried(source):
        assert ("pretrain.lr" in asked.choice) == (asked.choice["recipe"] == "share")
    for found in source.study.trials:
        assert ("pretrain.lr" in found.params) == (found.params["recipe"] == "share")
    assert {t.params["recipe"] for t in source.study.trials} == {"base", "share"}


@pytest.mark.slow
def test_a_person_can_open_the_study(tmp_path: Path) -> None:
    first = tried(sampler(space(trials=4), tmp_path))
    study = optuna.load_study(study_name="rates", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    assert study.metric_names == ["gqa"] and study.direction.name == "MAXIMIZE"
    assert [t.user_attrs for t in study.trials] == [{"variant": t.name} for t in first]  # a column each in its table
    assert study.trials[0].params.keys() >= {"vision", "recipe", "finetune.lr", "finetune.batch"}
    assert not study.trials[0].params.keys() & {"llm", "connector"}, "they have one value"
    assert study.best_trial.user_attrs["variant"] == max(first, key=lambda t: score(t.choice)).name
    # Other axes are another study; the first one is kept.
    other = space(trials=2, vision=["clip-l-336"])
    tried(sampler(other, tmp_path))
    assert states(tmp_path, "rates-2") == {COMPLETE: 2} and states(tmp_path) == {COMPLETE: 4}
    assert len(tried(sampler(other, tmp_path))) == 2  # of before
    assert states(tmp_path, "rates-2") == {COMPLETE: 2}


@pytest.mark.slow
def test_a_killed_search_asks_again_for_what_was_on_its_way(tmp_path: Path) -> None:
    source = sampler(space(trials=8), tmp_path)
    asked = [source.ask() for _ in range(6)]
    finished, stopped = [t for t in asked if t][:2]
    finish(source, finished)
    stopped.state = "paused"
    source.tell(stopped, at_rung(stopped, 55.0))
    assert states(tmp_path) == {COMPLETE: 1, PRUNED: 1, RUNNING: 4}
    again = sampler(space(trials=8), tmp_path)
    assert states(tmp_path) == {COMPLETE: 1, PRUNED: 1, FAIL: 4}  # TPE learns nothing from these
    found = [t for _ in range(6) if (t := again.ask())]
    assert [t.name for t in found] == [t.name for t in asked if t] and again.left == 2
    assert [t.choice for t in found] == [t.choice for t in asked if t]
    assert states(tmp_path) == {COMPLETE: 1, PRUNED: 1, FAIL: 4, RUNNING: 4}
    for t in found[2:]:
        finish(again, t)
    new = [again.ask(), again.ask()]
    assert again.ask() is None and {t.name for t in new if t}.isdisjoint(t.name for t in found)


def test_a_trial_that_lacks_an_axis_by_now_is_passed_over(tmp_path: Path) -> None:
    axis = {"low": 1.0e-6, "high": 1.0e-3, "log": True}
    rates = [{"finetune.lr": axis, "pretrain.lr": axis | {"when": {"recipe": r}}} for r in ("share", ["base", "share"])]
    narrow, wide = rates
    first = tried(sampler(space(trials=6, axes=narrow), tmp_path))
    again = sampler(space(trials=8, axes=wide), tmp_path)
    found = tried(again)
    kept = [t.name for t in first if t.choice["recipe"] == "share"]
    assert 0 < len(kept) < 6 and [t.name for t in found[: len(kept)]] == kept
    assert len(found) == 8 and all("pretrain.lr" in t.choice for t in found)


@pytest.mark.slow
def test_what_went_on_to_its_end_is_known_once(tmp_path: Path) -> None:
    source = sampler(space(trials=1), tmp_path)
    asked = source.ask()
    assert asked
    asked.state = "paused"
    source.tell(asked, at_rung(asked, 55.0))
    for _ in range(3):  # the command that promotes it, and two later ones
        again = sampler(space(trials=1), tmp_path)
        known = again.ask()
        assert known and known.name == asked.name
        finish(again, known)
        assert states(tmp_path) == {PRUNED: 1, COMPLETE: 1}
    assert again.study.best_trial.user_attrs["variant"] == asked.name


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["max", "min"])
def test_a_loss_at_a_rung_counts_in_the_studys_direction(tmp_path: Path, direction: str) -> None:
    of = space(trials=2, objectives=[{"figure": "gqa", "direction": direction}])
    source = sampler(of, tmp_path)
    values = {}
    for loss in (1.0, 2.0):
        asked = source.ask()
        assert asked
        asked.state = "stopped"
        source.tell(asked, at_rung(asked, loss, higher=False))
        (value,) = source.study.trials[-1].intermediate_values.values()
        values[loss] = value
    assert (values[1.0] > values[2.0]) == (direction == "max")  # the lower loss is the better one


def test_what_failed_is_tried_again_by_the_next_command(tmp_path: Path) -> None:
    source = sampler(space(trials=1), tmp_path)
    asked = source.ask()
    assert asked
    asked.state = "failed"
    source.tell(asked, None)
    again = sampler(space(trials=1), tmp_path)
    assert (found := again.ask()) and found.name == asked.name and again.ask() is None


@pytest.mark.slow
def test_several_objectives(tmp_path: Path) -> None:
    of = space(trials=12, objectives=["gqa", "parameters"])
    source = sampler(of, tmp_path)
    assert [d.name for d in source.study.directions] == ["MAXIMIZE", "MINIMIZE"]
    sizes = {"clip-l-336": 3.0e9, "siglip-so400m-384": 3.2e9, "dinov2-l": 3.1e9}
    paused = source.ask()
    assert paused
    paused.state = "paused"
    source.tell(paused, at_rung(paused, 55.0))
    found = [paused]
    while asked := source.ask():
        finish(source, asked, gqa=score(asked.choice), parameters=sizes[asked.choice["vision"]])
        found.append(asked)
    assert states(tmp_path) == {COMPLETE: 11, FAIL: 1}
    points = {t.name: (score(t.choice), -sizes[t.choice["vision"]]) for t in found[1:]}
    front = {
        name
        for name, own in points.items()
        if not any(o != own and all(a >= b for a, b in zip(o, own, strict=True)) for o in points.values())
    }
    assert {t.user_attrs["variant"] for t in source.study.best_trials} == front
    # The paused one is not asked for anew by the next command, and counts once it went on.
    again = sampler(of, tmp_path)
    known = again.ask()
    assert known and known.name == paused.name and states(tmp_path) == {COMPLETE: 11, FAIL: 1}
    finish(again, known, gqa=1.0, parameters=3.0e9)
    assert states(tmp_path) == {COMPLETE: 12, FAIL: 1}


@pytest.mark.slow
def test_a_small_space_is_tried_whole(tmp_path: Path) -> None:
    of = space(trials=50, axes={"finetune.lr": [1e-5, 2e-5, 4e-5]})
    assert len(tried(sampler(of, tmp_path))) == 3 * 2 * 3


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from pipeline.test_search_optuna import finish, sampler, space
folder, signals = Path(sys.argv[2]), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
source = sampler(space(), folder)
finish(source, source.ask())
size = (folder / "optuna.db").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
for _ in range(20):
    finish(source, source.ask())
"""


@pytest.mark.slow
def test_a_full_disk_and_a_damaged_study_are_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(Path(__file__).parents[1]), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True).stderr.splitlines()[-1]
    assert said.startswith(f"remora.errors.StoreError: {tmp_path}/optuna.db: the sampler's study cannot be read or wri")
    assert "free some disk space" in said
    tried(sampler(space(trials=3), tmp_path))  # with room again it goes on
    (tmp_path / "optuna.db").write_bytes(b"torn" * 100)
    with pytest.raises(StoreError, match=r"file is not a database\); .*move a damaged file away"):
        sampler(space(), tmp_path)


class Lengths(dict[str, int]):
    """Stage run's id -> its steps, which take a second each."""

    def __missing__(self, key: str) -> int:
        return 90 if "/" in key else 30


@pytest.mark.slow
@pytest.mark.parametrize("rule", [Everyone(), Halving.of(3, 1 / 9)], ids=lambda r: r.words)
def test_a_search_that_is_killed_anywhere_repeats_nothing(tmp_path: Path, rule: StoppingRule) -> None:
    """Thirty trials on four slots; slots die, and the driver dies six times with trials on their way."""
    of = space(trials=30)

    class Slots(Simulation):
        def source(self) -> ByOptuna:
            return sampler(of, tmp_path)

        def found(self, trial: Trial) -> None:
            trial.figures = {"gqa": merit(trial.last.name)}

    store = SimulatedStore(Lengths(), Lengths())
    rough = Slots([], rule, store, 4, tmp_path / RUNGS, kill=0.1, seed=1, measure=5.0)
    for part in range(1, 7):
        rough.go(100.0 * part)
    work = rough.go()
    assert len(work.trials) == 30 and set(rough.store.published.values()) == {1}
    assert {t.state for t in work.trials.values()} <= {"finished", "paused"}
    study = optuna.load_study(study_name="rates", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    known = Counter(t.user_attrs["variant"] for t in study.trials if t.state == COMPLETE)
    assert known == {t.name: 1 for t in work.trials.values() if t.state == "finished"}
    assert not any(t.state == RUNNING for t in study.trials)
    assert {t.user_attrs["variant"] for t in study.trials if "variant" in t.user_attrs} == work.trials.keys()
    if isinstance(rule, Everyone):
        assert rough.store.paid <= 3 * 30 + 30 * 90 + 7 * 4 * 10 + 60 * 10
