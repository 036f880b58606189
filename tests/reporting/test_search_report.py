"""What a report says of a search: each family of figures against a plain recount of a run folder's files."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from remora.errors import SpecError, StoreError
from remora.evaluation.kept import read_report
from remora.evaluation.ranking import rank
from remora.evaluation.score import ScoreRecord
from remora.files import lines
from remora.pipeline.search import space_file
from remora.pipeline.search.ledger import Entry
from remora.pipeline.search.work import Trial
from remora.reporting.search_report import wording
from remora.reporting.search_report.ablation import ablations
from remora.reporting.search_report.axes import importances, parallel
from remora.reporting.search_report.beside import beside
from remora.reporting.search_report.curves import curves, ranks, rungs
from remora.reporting.search_report.findings import findings
from remora.reporting.search_report.graph import graph
from remora.reporting.search_report.leaderboard import leaderboard
from remora.reporting.search_report.record import SearchRecord, read_search
from remora.reporting.search_report.timeline import timeline
from remora.reporting.search_report.tradeoffs import tradeoffs
from remora.reporting.search_report.training import smoothed
from remora.reporting.search_report.use import champion_use
from remora.runs import StageRun, resolve_stages
from support.search_folder import BATCH, QUESTIONS, SPACE, STEPS, SearchFolder, write_search

SEEDED = {**SPACE, "name": "seeded", "llm": ["phi-2"], "seeds": 3, "published": {}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> SearchFolder:
    return write_search(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def record(folder: SearchFolder) -> SearchRecord:
    return read_search(folder.runs, "papers")


def accuracy(record: SearchRecord, name: str, benchmark: str = "gqa") -> float:
    (variant,) = (v for v in record.variants if v.name == name)
    return float(variant.scores[benchmark]["accuracy"])


def test_a_champion_that_may_not_be_sold_has_the_best_one_beside_it_that_may(record: SearchRecord) -> None:
    """StableLM 2 Zephyr's licence forbids it; the others of this space's are open or free."""
    board = leaderboard(record)
    measured = [line.variant.name for line in board.lines if line.place]
    forbidden = next(name for name in measured if "-SLM" in name)
    used = champion_use(record, replace(board, champion=forbidden))
    assert used and used.permission.use == "no" and "llm stablelm-2-zephyr-1.6b" in used.permission.forbids[0]
    assert used.best_allowed == next(name for name in measured if "-SLM" not in name)
    assert used.said.endswith(f"The best measured variant without that: {used.best_allowed}.")
    allowed = champion_use(record, replace(board, champion=used.best_allowed))
    assert allowed and allowed.permission.commercial and "without that" not in allowed.said
    assert champion_use(record, replace(board, champion=None)) is None
    assert champion_use(replace(record, name="no-such-search"), board) is None


def test_what_became_of_each_variant(folder: SearchFolder, record: SearchRecord) -> None:
    states = {v.name: v.state for v in record.variants}
    assert states == dict.fromkeys(folder.variants) | dict.fromkeys(folder.finished, "finished") | dict.fromkeys(
        folder.paused, "paused"
    )
    phi = next(v for v in record.variants if v.name == "base-Sig-Phi2-mlp-lr=2e-5")
    assert phi.choice == {
        "recipe": "base",
        "vision": "siglip-so400m-384",
        "connector": "mlp2x_gelu",
        "llm": "phi-2",
        "finetune.lr": "2e-5",
    }
    assert (phi.picture_tokens, phi.steps) == (729, sum(STEPS.values()))
    assert phi.parameters and 3.0e9 < phi.parameters < 3.3e9
    assert record.axes["finetune.lr"] == ("2e-5", "1e-4") and "recipe" not in record.axes


def test_the_leaderboard_ranks_by_the_deciding_benchmark(folder: SearchFolder, record: SearchRecord) -> None:
    board = leaderboard(record)
    measured = [line for line in board.lines if line.place]
    figures = [accuracy(record, line.variant.name) for line in measured]
    assert figures == sorted(figures, reverse=True) and [line.place for line in measured] == list(range(1, 9))
    assert [line.champion for line in measured] == [True] + [False] * 7
    rest = [line for line in board.lines if not line.place]
    assert {line.variant.name for line in rest} == set(folder.paused)
    assert [line.variant.reached.value for line in rest if line.variant.reached] == sorted(
        (line.variant.reached.value for line in rest if line.variant.reached), reverse=True
    )
    assert all(line.rung.startswith("50% of finetune: gqa ") for line in rest)
    assert [line.rung.partition(", ")[2] for line in rest] == [f"place {n} of 12" for n in (9, 10, 11, 12)]


def test_ties_are_those_of_the_ranking(folder: SearchFolder, record: SearchRecord) -> None:
    from remora.evaluation.benchmarks import benchmark

    board = leaderboard(record)
    reports = {
        name: read_report(next((folder.runs / "scores").glob(f"{name}-gqa-*")) / "report.json").report
        for name in folder.finished
    }
    figures = {n: benchmark("gqa").figures(r.items)["accuracy"] for n, r in reports.items()}
    expected = rank(figures, [i.group for i in next(iter(reports.values())).items])
    assert board.verdict and board.verdict.ranking == expected
    tied = {line.variant.name for line in board.lines if line.tied}
    assert tied == {expected.best, *expected.equals} and 1 < len(tied) < 8
    costs = {v.name: (v.parameters or 0, v.picture_tokens or 0) for v in record.variants if v.name in tied}
    assert costs[board.verdict.cheapest] == min(costs.values())
    assert (expected.n, expected.groups) == (QUESTIONS, QUESTIONS // 2)


def test_without_its_answers_nothing_is_said_of_ties(tmp_path: Path) -> None:
    folder = write_search(tmp_path)
    lost = next((tmp_path / "scores").glob(f"{folder.finished[0]}-gqa-*"))
    lost.rename(lost.with_name("elsewhere"))
    (lost.with_name("elsewhere") / "about.json").unlink()
    board = leaderboard(read_search(tmp_path, "papers"))
    assert board.verdict is None and board.why_none.startswith(f"{folder.finished[0]}: its answers to gqa are gone")
    assert board.lines[0].place == 1 and board.champion


def test_an_axis_is_shown_with_all_others_equal(record: SearchRecord) -> None:
    measured = {v.name: v for v in record.measured}
    found = {a.axis: a for a in ablations(record)}
    assert found.keys() == {"vision", "llm", "finetune.lr"}
    for axis, ablation in found.items():
        settings: dict[str, dict[str, str]] = {}
        for name, v in measured.items():
            others = json.dumps({k: w for k, w in v.choice.items() if k != axis}, sort_keys=True)
            settings.setdefault(others, {})[v.choice[axis]] = name
        equal = [there for there in settings.values() if set(ablation.values) <= there.keys()]
        assert len(equal) == ablation.settings
        assert not [there for there in settings.values() if len(there) > len(ablation.values)]
        for bar in ablation.bars:
            scores = [measured[there[bar.value]].scores[bar.benchmark] for there in equal]
            assert bar.figure == pytest.approx(fmean(s["accuracy"] for s in scores))
            assert bar.low == pytest.approx(fmean(s["ci"][0] for s in scores))
            assert bar.high == pytest.approx(fmean(s["ci"][1] for s in scores))
        assert len(ablation.bars) == 2 * len(ablation.values)


def test_seeds_are_a_spread_not_an_axis(tmp_path: Path) -> None:
    write_search(tmp_path, SEEDED, paused=0)
    record = read_search(tmp_path, "seeded")
    assert "seed" in record.axes and len(record.variants) == 12
    found = {a.axis: a for a in ablations(record)}
    assert found.keys() == {"vision", "finetune.lr"} and all((a.settings, a.seeds) == (2, 3) for a in found.values())
    clip = [v for v in record.measured if v.choice["vision"] == "clip-l-336"]
    by_rate = [[accuracy(record, v.name) for v in clip if v.choice["finetune.lr"] == r] for r in ("2e-5", "1e-4")]
    bar = next(b for b in found["vision"].bars if (b.benchmark, b.value) == ("gqa", "clip-l-336"))
    assert bar.figure == pytest.approx(fmean(map(fmean, by_rate)))
    assert (bar.low, bar.high) == pytest.approx((fmean(map(min, by_rate)), fmean(map(max, by_rate))))


def test_costs_in_which_variants_differ_are_drawn(record: SearchRecord) -> None:
    found = {t.cost: t for t in tradeoffs(record)}
    assert found.keys() == {"parameters", "picture_tokens"}  # all were trained for as long
    assert [p.cost for p in found["picture_tokens"].points] == sorted([576.0] * 3 + [729.0] * 5)
    best = max(record.measured, key=lambda v: v.scores["gqa"]["accuracy"])
    assert next(p.front for p in found["parameters"].points if p.variant == best.name)


def test_a_measured_cost_is_drawn_where_variants_differ_in_it_by_more_than_chance(record: SearchRecord) -> None:
    for much, drawn in ((1.05, False), (1.2, True)):
        slow, *others = record.measured
        slower = (replace(slow, seconds=slow.seconds * much), *others)
        assert ("seconds" in {t.cost for t in tradeoffs(replace(record, variants=slower))}) == drawn


def test_a_figure_that_its_baselines_reach_is_told() -> None:
    score: ScoreRecord = {"benchmark": "easy-vqa-val", "accuracy": 0.366, "ci": [0.344, 0.388]}
    blind = "with the pictures shuffled it has 0.367"
    guess = "the best answers from the questions' words alone have 0.656"
    head = "The champion's 0.366 on easy-vqa-val does not show that it looks at the pictures: "
    assert wording.unseeing({**score, "blind": 0.367, "question_only": 0.656}) == f"{head}{blind}, and {guess}."
    assert wording.unseeing({**score, "blind": 0.2, "question_only": 0.656}) == f"{head}{guess}."
    assert wording.unseeing({**score, "blind": 0.2, "question_only": 0.3}) == "" == wording.unseeing(score)


def test_a_curve_is_the_mean_loss_of_equal_windows_by_tokens() -> None:
    steps = [{"step": i, "loss": float(i % 5), "tokens": 1.0 + i % 3, "samples": 4} for i in range(23)]
    steps[7]["loss"] = float("nan")
    found = smoothed(steps, 5)
    assert [p.samples for p in found] == [20, 40, 60, 80, 92]
    for n, point in enumerate(found):
        window = [s for s in steps[5 * n : 5 * n + 5] if s["loss"] == s["loss"]]
        assert point.loss == pytest.approx(
            sum(s["loss"] * s["tokens"] for s in window) / sum(s["tokens"] for s in window)
        )
    assert smoothed([]) == ()


def test_curves_know_whose_they_are(folder: SearchFolder, record: SearchRecord) -> None:
    board = leaderboard(record)
    first, second = curves(record, board)
    assert (first.stage, len(first.curves), second.stage, len(second.curves)) == ("pretrain", 6, "finetune", 12)
    ranked = ranks(board)
    assert {c.variants[0]: c.rank for c in second.curves} == ranked
    assert {name for name, rank in ranked.items() if rank == "stopped"} == set(folder.paused)
    tied = {line.variant.name for line in board.lines if line.tied} - {board.champion}
    assert {name for name, rank in ranked.items() if rank == "tied"} == tied
    assert [name for name, rank in ranked.items() if rank == "champion"] == [board.champion]
    champion = next(c for c in first.curves if board.champion in c.variants)
    assert champion.rank == "champion" and len(champion.variants) == 2
    assert champion.run.curve[-1].samples == STEPS["pretrain"] * BATCH == champion.run.validations[-1].samples
    (at,) = rungs(record, board)
    assert (at.figure, len(at.points)) == ("gqa", 24)
    assert {p.variant for p in at.points if p.decision == "pause"} == set(folder.paused)


def test_curves_stand_as_the_longest_lineage_has_its_stages(record: SearchRecord) -> None:
    """The first variant goes from the first stage to the last; another one has a stage between."""
    v, other = record.variants[:2]
    first, last = v.lineage
    between = replace(record.stages[first], name="between-1", stage="between", parent=first)
    longer = replace(other, lineage=(first, between.name, other.lineage[-1]))
    stages = {run: record.stages[run] for run in (first, last)} | {between.name: between}
    stages[longer.lineage[-1]] = record.stages[longer.lineage[-1]]
    found = curves(replace(record, variants=(v, longer), stages=stages), leaderboard(record))
    assert [c.stage for c in found] == ["pretrain", "between", "finetune"]


def test_the_graph_counts_what_was_shared_and_stopped(folder: SearchFolder, record: SearchRecord) -> None:
    found = graph(record)
    assert found
    pretrain, finetune = STEPS["pretrain"], STEPS["finetune"]
    spent = found.spending
    assert (found.planned_runs, spent.alone) == (24, 12 * (pretrain + finetune))
    assert spent.optimum == 6 * pretrain + 12 * finetune
    assert spent.shared == 6 * pretrain and spent.unspent == 4 * finetune // 2
    assert spent.taken == spent.alone - spent.shared - spent.unspent and spent.ratio == 1.0
    assert sorted(n.height for n in found.nodes if n.depth) == list(range(12))
    for node in found.nodes:
        below = [n.height for n in found.nodes if n.run.parent == node.run.name]
        assert not below or node.height == fmean(below)
    assert {n.state for n in found.nodes} == {"trained", "paused"}


def test_a_stage_of_one_name_is_a_column(record: SearchRecord) -> None:
    """A variant with a stage before the others' first one."""
    longer, *others = record.variants
    first, last = longer.lineage
    start = replace(record.stages[first], name="language-1", stage="language", parent=None)
    stages = {"language-1": start, **record.stages, first: replace(record.stages[first], parent="language-1")}
    several = (replace(longer, lineage=("language-1", first, last)), *others)
    found = graph(replace(record, variants=several, stages=stages))
    assert found and {n.run.stage: n.depth for n in found.nodes} == {"language": 0, "pretrain": 1, "finetune": 2}
    backwards = (longer, replace(others[0], lineage=others[0].lineage[::-1]), *others[1:])
    found = graph(replace(record, variants=backwards))
    assert found and {n.depth for n in found.nodes} == {0, 1}


def test_a_timeline_packs_items_and_cuts_what_was_idle(record: SearchRecord) -> None:
    def item(n: int, began: float, ended: float | None, how: str = "trained") -> Entry:
        return Entry(n, "train", f"r{n}", "v", began, ended, how, 1)

    entries = (item(0, 0, 10), item(1, 5, 20), item(2, 10, 15), item(3, 1000, None, "lost"), item(4, 1001, 1011))
    found = timeline(replace(record, entries=entries))
    assert found
    assert [(s.lane, s.begin, s.end) for s in found.spans] == [
        (0, 0, 10),
        (1, 5, 20),
        (0, 10, 15),
        (0, 20, 21),
        (0, 21, 31),
    ]
    assert (found.lanes, found.seconds, found.cuts) == (2, 31, ((20, 980),))
    assert found.busy == pytest.approx(41 / 62)
    real = timeline(record)
    assert real and real.lanes == 2 and timeline(replace(record, entries=())) is None
    for a, b in itertools.combinations(real.spans, 2):
        assert a.lane != b.lane or a.end <= b.begin or b.end <= a.begin


def test_all_axes_at_once(folder: SearchFolder, record: SearchRecord) -> None:
    found = parallel(record)
    assert found and list(found.axes) == ["vision", "llm", "finetune.lr"]
    assert [s.height for s in found.axes["llm"]] == [0, 0.5, 1]
    assert {t.variant for t in found.threads if t.figure is None} == set(folder.paused)
    assert (found.low, found.high) == tuple(f(accuracy(record, n) for n in folder.finished) for f in (min, max))
    shares = dict(importances(record).shares)
    assert shares.keys() == set(found.axes) and sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=lambda a: shares[a]) == "llm"  # as the folder's abilities have it


def test_importances_of_few_variants_are_not_given(tmp_path: Path) -> None:
    write_search(tmp_path, paused=5)
    found = importances(read_search(tmp_path, "papers"))
    assert not found.shares and found.why_none.startswith("7 variants were measured")


def test_equal_figures_have_no_importances(record: SearchRecord) -> None:
    same = {"gqa": record.measured[0].scores["gqa"]}
    found = importances(replace(record, variants=tuple(replace(v, scores=same) for v in record.variants)))
    assert (found.shares, found.why_none) == ((), "all figures are equal")


def test_published_figures_stand_beside_ours(tmp_path: Path) -> None:
    best = "base-Sig-Phi2-mlp-lr=2e-5"
    write_search(tmp_path, {**SPACE, "published": {best: {"gqa": 64.0, "pope": 86.0}, "other": {"gqa": 1.0}}})
    record = read_search(tmp_path, "papers")
    mine, missing, other = beside(record)
    assert mine.ours == accuracy(record, best) and mine.inside
    assert (missing.ours, missing.inside, other.ours) == (None, False, None)


def test_a_space_is_kept_with_its_variants(folder: SearchFolder, tmp_path: Path) -> None:
    trials = []
    for name, variant in list(folder.variants.items())[:2]:
        first, second = resolve_stages(variant)
        start = StageRun("a" * 64, first, None, (), 0)
        trials.append(Trial(name, variant, (start, StageRun("b" * 64, second, start, (), 0))))
    space_file.write(tmp_path, folder.space, trials, lambda run: 7)
    found = space_file.read(tmp_path)
    assert found and found.space == folder.space
    assert found.variants == {t.name: t.variant for t in trials}
    assert found.lineages == {t.name: ("align-" + "a" * 12, "finetune-" + "b" * 12) for t in trials}
    assert space_file.read(tmp_path / "none") is None
    (tmp_path / space_file.SPACE).write_text('{"space": {}, "variants": {}}')
    with pytest.raises(SpecError, match=r"space\.json"):
        space_file.read(tmp_path)
    (tmp_path / space_file.SPACE).write_text("{")
    with pytest.raises(StoreError, match="is not a search's space; run the search again"):
        space_file.read(tmp_path)


def test_without_a_space_there_is_a_leaderboard(tmp_path: Path) -> None:
    folder = write_search(tmp_path)
    (tmp_path / "searches" / "papers" / space_file.SPACE).unlink()
    found = findings(tmp_path, "papers")
    assert {line.variant.name for line in found.leaderboard.lines} == set(folder.variants)
    assert not found.ablations and found.parallel is None and found.graph is None


def test_an_unknown_search_names_those_there_are(folder: SearchFolder, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no search 'paper'; did you mean 'papers'\?; there are: papers"):
        read_search(folder.runs, "paper")
    with pytest.raises(StoreError, match="has none; next: remora search"):
        read_search(tmp_path, "paper")


def test_a_torn_ledger_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    write_search(tmp_path)
    ledger = tmp_path / "searches" / "papers" / "ledger.jsonl"
    before = len(lines.read(ledger, "event", bool).records)
    with ledger.open("a") as file:
        file.write('{"event": "began", "time": 1')
    assert len(read_search(tmp_path, "papers").entries) == before // 2


def test_figures_are_printed_in_their_unit() -> None:
    assert wording.span(0.865, 0.858, 0.8714) == "0.865 (0.858 to 0.871)"
    assert wording.span(61.54, 57.4, 65.5) == "61.5 (57.4 to 65.5)"
    assert [wording.count(n) for n in (None, 640, 5_160_000, 2.7e9)] == ["unknown", "640", "5.16 M", "2.7 B"]
    assert wording.apart((2.8, -0.8, 6.5)) == "-2.8 (-6.5 to +0.8)"
    assert (wording.drop(0.113, 64.3), wording.drop(0.0001, 0.9)) == ("-0.1", "under 0.001")


@pytest.mark.slow
def test_reading_a_search_loads_nothing_heavy() -> None:
    code = (
        "import sys, remora.commands.report, remora.reporting.search_report.findings\n"
        "assert not {'torch', 'ray', 'mlflow', 'transformers', 'altair', 'optuna'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
