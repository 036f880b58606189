"""Makespans and costs against values counted by hand, rates from journals, and every shipped space simulated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from remora import catalog
from remora.cli import main
from remora.files import publishing
from remora.model.refs import PartRef
from remora.pipeline.search import board, space_file
from remora.pipeline.search.board import Decided, Decision, Reached
from remora.pipeline.search.rules import Everyone, Halving
from remora.pipeline.search.simulation import SimulatedStore, Simulation
from remora.pipeline.search.work import Trial
from remora.planning import Begun, Rate, begun, forecasts, plan_of, rate_of, taken_up
from remora.planning.plan import Plan
from remora.runs import Store, graph, paths, read_survey, variants_of
from remora.runs.around import Around
from remora.runs.operations import SampleSize, operations
from remora.spec import Budget, Cluster, Rule, Space, Variant, step_at
from remora.training.job import StageJob

TUNE = Path(__file__).parents[2] / "tune"
FILES = sorted(TUNE.glob("*.yaml"))
RATE = Rate(1e14, "given")
MEDIAN = Rule(kind="median", first=0.1)  # of a stage that is half trained, its first rungs are behind
SPACE = {
    "name": "table",
    "vision": ["clip-l-336"],
    "connector": ["mlp2x_gelu"],
    "llm": ["tinyllama-1.1b-chat", "phi-2"],
    "recipe": ["base"],
    "axes": {"finetune.lr": [1e-5, 2e-5, 4e-5]},
    "benchmarks": ["gqa"],
    "champion": {"benchmark": "gqa"},
    "cluster": {"workers": 8, "gpus_per_worker": 1, "gpu_price": 2.5},
}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr(graph, "source_digest", lambda part, name: f"{part}/{name}")


def planned(tmp_path, **more) -> tuple[Plan, list[Variant]]:
    variants = variants_of(Space.model_validate(SPACE | more))
    return plan_of(variants, Store(tmp_path / "runs")), variants


def seconds(plan: Plan, name: str) -> float:
    """The time of a variant's whole path on one group."""
    ids = {run.id for run in plan.paths[name]}
    return sum(r.operations for r in plan.rows if r.id in ids) / (1e14 * 8)


def test_one_group_takes_the_sum_and_many_the_longest_path(tmp_path):
    plan, variants = planned(tmp_path)
    one, many = (forecasts(plan, variants, RATE, slots) for slots in (1, 99))
    total = sum(r.operations for r in plan.rows)
    assert one.ways[0].operations == pytest.approx(total)
    assert one.ways[0].seconds == pytest.approx(total / (1e14 * 8))
    assert many.ways[0].seconds == pytest.approx(max(seconds(plan, name) for name in plan.paths))
    assert many.ways[0].gpu_hours == pytest.approx(total / 1e14 / 3600)
    assert one.ways[0].gpu_hours == pytest.approx(total / 1e14 / 3600)
    assert one.ways[0].cost == pytest.approx(2.5 * one.ways[0].gpu_hours)
    assert forecasts(plan, variants, RATE, 1, price=1.0).ways[0].cost == pytest.approx(one.ways[0].gpu_hours)


def test_alone_each_variant_pays_for_its_path(tmp_path):
    plan, variants = planned(tmp_path)
    shared, alone = forecasts(plan, variants, RATE, 1).ways
    assert shared.shared and not alone.shared and (shared.stage_runs, alone.stage_runs) == (8, 12)
    assert alone.seconds == pytest.approx(sum(seconds(plan, name) for name in plan.paths))
    assert len(plan.rows) == 8 and plan.uses == 12


def test_one_variant_has_one_line(tmp_path):
    plan, variants = planned(tmp_path, llm=["phi-2"], axes={})
    (way,) = forecasts(plan, variants, RATE, 1).ways
    assert way.shared and way.stage_runs == 2


def test_what_exists_is_not_trained_again(tmp_path):
    plan, variants = planned(tmp_path)
    there = replace(plan, rows=tuple(replace(r, state="finished") if r.stage == "align" else r for r in plan.rows))
    shared, alone = forecasts(there, variants, RATE, 1).ways
    assert shared.operations == pytest.approx(sum(r.operations for r in plan.rows if r.stage == "finetune"))
    assert alone == forecasts(plan, variants, RATE, 1).ways[1]
    done = replace(plan, rows=tuple(replace(r, state="finished") for r in plan.rows))
    assert forecasts(done, variants, RATE, 1).ways[0].seconds == 0


def test_of_what_was_begun_the_rest_is_trained(tmp_path):
    plan, variants = planned(tmp_path)
    half = replace(plan, rows=tuple(replace(r, taken=r.steps // 2) for r in plan.rows))
    left = sum(r.operations * (1 - (r.steps // 2) / r.steps) for r in plan.rows)
    assert half.operations == pytest.approx(left)
    (shared, _), (stopped, again, *_) = (forecasts(half, variants, RATE, 1, rule).ways for rule in (None, MEDIAN))
    assert shared == again and shared.operations == pytest.approx(left)
    assert shared.seconds == pytest.approx(left / (1e14 * 8)) and stopped.operations <= shared.operations


def test_a_budget_that_ends_it_is_named(tmp_path):
    plan, variants = planned(tmp_path)
    few = Budget(gpu_hours=50, cost=1000, hours=1, steps=10**9)
    found = forecasts(plan, variants, RATE, 1, budget=few)
    assert [line.partition(":")[0] for line in found.over] == ["budget.hours", "budget.gpu_hours"]
    assert found.over[1] == "budget.gpu_hours: 50 ends the search before, which would take 105.5"
    two = forecasts(plan, variants, RATE, 1, budget=Budget(trials=2))
    assert two.ways[0].stage_runs == 3 and two.ways[0].operations < found.ways[0].operations and two.over == ()
    assert two.ways[0].steps == sum(r.steps for r in plan.rows[:3])


def test_halving_trains_the_shares_that_its_rungs_say(tmp_path):
    plan, variants = planned(
        tmp_path, llm=["tinyllama-1.1b-chat"], axes={"finetune.lr": [n * 1e-6 for n in range(1, 10)]}
    )
    rule = Rule(kind="halving", eta=3, first=1 / 9)
    stopped, shared, _, alone = forecasts(plan, variants, RATE, 2, rule).ways
    align, *finetunes = (r.operations for r in plan.rows)
    assert stopped.operations == pytest.approx(align + finetunes[0] * (9 / 9 + 3 * 2 / 9 + 1 * 6 / 9), rel=1e-3)
    assert shared.operations == pytest.approx(align + 9 * finetunes[0])
    assert alone.operations == pytest.approx(9 * (align + finetunes[0]))
    assert (stopped.rule, shared.rule) == (
        "halving by loss, eta 3, from 0.1111",
        "none",
    ) and stopped.seconds < shared.seconds


def test_what_a_search_has_decided_is_over(tmp_path):
    """Of nine, three were promoted; two of these have reached the next rung, and the third is on its way."""
    axes = {"finetune.lr": [n * 1e-6 for n in range(1, 10)]}
    rule = {"kind": "halving", "eta": 3, "first": 1 / 9}
    plan, variants = planned(tmp_path, llm=["tinyllama-1.1b-chat"], axes=axes)
    space = Space.model_validate(SPACE | {"llm": ["tinyllama-1.1b-chat"], "axes": axes, "rule": rule})
    assert begun(tmp_path / "runs", space) is None
    trials = [Trial(name, v, plan.paths[name]) for name, v in zip(plan.paths, variants, strict=True)]
    steps = {r.id: r.steps for r in plan.rows}
    folder, words = tmp_path / "runs" / "searches" / space.name, Halving.of(3, 1 / 9).words
    folder.mkdir(parents=True)
    space_file.write(folder, space, trials, lambda run: steps[run.id])

    def at(trial: Trial, share: float, decision: Decision, loss: float) -> list[Reached | Decided]:
        run = trial.last
        found = Reached(trial.name, run.name, "finetune", share, step_at(share, steps[run.id]), 0, "loss", loss, False)
        return [found, Decided(trial.name, run.name, "finetune", share, decision, words, 1, 1)]

    def taken(trial: Trial) -> int:
        return step_at(0.333333 if trial in trials[:2] else 0.111111, steps[trial.last.id])

    lines = [line for i, t in enumerate(trials) for line in at(t, 0.111111, "pause", float(i))]
    lines += [at(t, 0.111111, "promote", 0.0)[1] for t in trials[:3]]
    lines += [line for t in trials[:2] for line in at(t, 0.333333, "pause", 0.0)]
    board.write(folder / board.RUNGS, lines)
    on = {t.last.id: taken(t) for t in trials}
    rows = tuple(replace(r, taken=on[r.id]) if r.id in on else replace(r, state="finished") for r in plan.rows)
    past = begun(tmp_path / "runs", space)
    assert past and (past.count, past.trained, past.paused, past.stopped) == (9, 0, 8, 0)
    left, everyone, *_ = forecasts(replace(plan, rows=rows), variants, RATE, 2, space.rule, begun=past).ways
    whole = plan.rows[-1].operations
    assert left.operations == pytest.approx(whole * (2 / 9 + 6 / 9), rel=1e-3) and left.stage_runs <= 2
    assert everyone.operations == pytest.approx(whole * (7 * 8 / 9 + 2 * 6 / 9), rel=1e-3)
    (over,) = forecasts(
        replace(plan, rows=rows),
        variants,
        RATE,
        2,
        space.rule,
        begun=replace(past, steps=10**9),
        budget=Budget(steps=1),
    ).over
    assert over.endswith(" more; 1e+09 are spent")


def test_a_sampler_that_has_asked_for_variants_is_planned_with_them(tmp_path):
    ranged = {
        "axes": {"finetune.lr": {"low": 1e-6, "high": 1e-4, "log": True}},
        "sampler": {"kind": "optuna", "trials": 7},
    }
    space = Space.model_validate(SPACE | ranged)
    drawn = taken_up(space)
    other = Space.model_validate(SPACE | {"llm": ["phi-2"], "axes": {"finetune.lr": [3.3e-5]}})
    (asked,) = variants_of(other)
    past = Begun((), (asked,), 1, 0, 0, 0, 0, 0.0, 0.0)
    assert taken_up(space, past) == [asked, *drawn[:6]]


def test_a_sampled_space_is_planned_with_the_trials_that_it_draws(tmp_path):
    ranged = SPACE | {"axes": {"finetune.lr": {"low": 1e-6, "high": 1e-4, "log": True}}, "rule": {"kind": "median"}}
    for kind in ("random", "optuna"):
        space = Space.model_validate(ranged | {"sampler": {"kind": kind, "trials": 7}})
        drawn = taken_up(space)
        assert drawn and len(drawn) == 7 and taken_up(space) == drawn
        found = forecasts(plan_of(drawn, Store(tmp_path / "runs")), drawn, RATE, 2, space.rule, space.sampler)
        assert found.trials == 7 and len(found.ways) == 4 and found.saved > 0
    assert taken_up(Space.model_validate(SPACE)) is None


def write_stage(runs: Path, name: str, gpus: float = 0, rate: float = 5e9, workers: int = 2) -> None:
    """A published stage run of ten steps by so many workers, each of that rate."""
    (stage,) = (s for s in catalog.recipe("base").stages if s.name == name.partition("-")[0])
    names = {"vision": "clip-l-336", "connector": "mlp2x_gelu", "llm": "tinyllama-1.1b-chat"}
    cluster = Cluster(workers=workers, gpus_per_worker=gpus)
    parts = {part: PartRef(name, None) for part, name in names.items()}
    took = operations(stage, names, 4, SampleSize(100.0)) / (rate * workers)
    figures = {"samples": 4, "samples_per_second": 4 / took, "tokens_per_second": 4 * (576 + 100) / took}
    events = [{"event": "started", "time": 0.0, "workers": workers, "steps": 10}]
    events += [{"event": "step", "time": 1.0, "step": i, **figures} for i in range(10)]
    (runs / "stages").mkdir(parents=True, exist_ok=True)
    with publishing(runs / "stages" / name) as made:
        (made / "job.json").write_text(StageJob(stage, parts, runs / "x", [], 0, cluster).to_json(runs))
        (made / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))


def test_a_rate_is_given_or_measured_or_assumed(tmp_path):
    cpu, gpu = Cluster(cpus_per_worker=4), Cluster(gpus_per_worker=1)
    assert rate_of(tmp_path, cpu).overall == 8e10 and "assumed: 20 GFLOP/s a CPU core" in rate_of(tmp_path, cpu).source
    assert rate_of(tmp_path, gpu).overall == pytest.approx(1.248e14)
    write_stage(tmp_path, "align-000000000001", rate=5e9)
    write_stage(tmp_path, "finetune-00000000002", rate=1e10)
    found = rate_of(tmp_path, cpu)
    assert found.of("align") == pytest.approx(5e9) and found.of("finetune") == pytest.approx(1e10)
    assert 5e9 < found.of("pretrain") < 1e10 and found.source == f"measured: 2 stage runs of {tmp_path}"
    assert rate_of(tmp_path, gpu).source.startswith("assumed")
    assert rate_of(tmp_path, cpu, 3e9).of("align") == 3e9
    (tmp_path / "stages" / "align-000000000001" / "job.json").write_text("{}")
    assert rate_of(tmp_path, cpu).of("align") == pytest.approx(1e10)


def test_what_is_no_step_is_counted_where_it_was_measured(tmp_path):
    plan, variants = planned(tmp_path, benchmarks=["gqa", "pope"])
    rate = replace(RATE, besides={"align": 100.0, "finetune": 200.0})
    found = forecasts(plan, variants, rate, 1, around=Around(30.0, {"gqa": 7.0}))
    steps = sum(r.operations for r in plan.rows) / (1e14 * 8)
    assert found.ways[0].seconds == pytest.approx(steps + 30 + 2 * 100 + 6 * (200 + 7))
    assert found.unknown == ("pope",)
    assert rate.around("pretrain") == 150.0


def test_the_command_says_where_its_figures_are_from(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    file = TUNE / "tinyllava-table-a1.yaml"
    main(["plan", str(file), "--runs", str(tmp_path), "--slots", "4", "--price", "2"])
    said = " ".join(capsys.readouterr().out.split())
    assert "On 4 groups of 8 workers at 1.2e+14 FLOP/s a worker (assumed: 40% of an A100's" in said
    assert "shared stage runs" in said and "each variant on its own" in said and "cost" in said
    with pytest.raises(SystemExit, match="--slots 0: at least one group of workers"):
        main(["plan", str(file), "--runs", str(tmp_path), "--slots", "0"])


@pytest.mark.parametrize("columns", [80, 200])
def test_stage_runs_are_shown_behind_those_they_go_on_from(tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    main(["plan", str(TUNE / "tinyllava-table-a1.yaml"), "--runs", str(tmp_path)])
    said = capsys.readouterr().out.splitlines()
    rows = [line.split("│")[1].rstrip() for line in said if line.startswith("│") and "-?" in line]
    assert len(rows) == 24 and rows[:4] == [" align-?", " └ finetune-?", " └ pretrain-?", "   └ finetune-?"]
    notes = " ".join(said)
    assert "FLOPs: text of what is not downloaded is taken to be 128 tokens a sample." in notes
    assert "base-Sig-TL-mlp, base-Sig-SLM-mlp, base-Sig-Phi-mlp and 3 more: a picture of 384 x 384" in notes


@pytest.mark.slow
def test_the_command_needs_neither_torch_nor_ray_nor_mlflow(tmp_path):
    code = (
        "import sys, remora.cli\n"
        f"remora.cli.main(['plan', {str(TUNE / 'tinyllava-table-3.yaml')!r}, '--runs', {str(tmp_path)!r}])\n"
        "assert not {'torch', 'transformers', 'ray', 'mlflow', 'optuna', 'pyarrow'} & sys.modules.keys()"
    )
    env = os.environ | {"PYTHONPATH": str(TUNE.parent / "platform")}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("file", FILES, ids=[f.stem for f in FILES])
def test_a_shipped_space_costs_its_optimum_whatever_dies(file, catalog_data, monkeypatch):
    """Workers die in one item of ten, and the search three times; the work stays within 5% of the graph's optimum."""
    found = read_survey(file)
    if file.stem.startswith("demo"):  # whose data has to be there, in a few records
        lineages = paths(found.variants, catalog_data)
        steps = {run.id: 1000 for lineage in lineages.values() for run in lineage}
    else:
        plan = plan_of(found.variants, Store(catalog_data / "runs"))
        lineages, steps = plan.paths, {r.id: r.steps for r in plan.rows}
    trials = [Trial(name, None, lineage) for name, lineage in lineages.items()]
    world = SimulatedStore(steps, {key: float(n) for key, n in steps.items()})
    every = found.variants[0].cluster.checkpoint_every
    search = Simulation(
        trials, Everyone(), world, 3, catalog_data / "rungs.jsonl", measure=50.0, kill=0.1, checkpoint=every
    )
    for part in (1, 2, 3):
        search.go(part * sum(steps.values()) / 12)
    work = search.go()
    calm = Simulation(trials, Everyone(), replace(world, steps=Counter(), published=Counter(), paid=0), 3)
    calm.go()
    assert calm.store.paid == sum(steps.values()) and calm.store.published == dict.fromkeys(steps, 1)
    assert {t.state for t in work.trials.values()} == {"finished"} and set(search.measured) == set(lineages)
    assert world.published == dict.fromkeys(steps, 1)
    assert sum(steps.values()) <= world.paid <= 1.05 * sum(steps.values())
