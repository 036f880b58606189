"""Tables as people see them: on 80 columns, with every figure whole."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from remora import catalog
from remora.evaluation.compare import Compared
from remora.evaluation.figures import Difference
from remora.reporting.columns import console, digits
from remora.reporting.live import live_table
from remora.reporting.progress import VariantProgress
from remora.reporting.tables import compared_table, published_table, scores_table, stages_table


def shown(table, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def variant(name):
    score = {"accuracy": 0.86612, "ci": [0.8591, 0.8724], "blind": 0.668, "question_only": 0.67, "n": 9673}
    stages = {"language-ee236f792d84": "trained", "align-fa7ec1c2828a": "reused"}
    return {"name": name, "benchmarks": {"easy-vqa": score, "openmoji-unseen": score}, "stages": stages}


def test_every_figure_of_a_score_is_whole_on_80_columns():
    titles = {"easy-vqa": "easy-VQA test", "openmoji-unseen": "unseen concepts"}
    variants = [variant("base-Eff-2M-res"), variant("share-Eff-2M-mlp"), variant("share-Eff-2M-res")]
    choice = {"benchmark": "easy-vqa", "best": "share-Eff-2M-mlp", "equals": ["share-Eff-2M-res"]}
    said = shown(scores_table(variants, choice, titles))
    assert "…" not in said and max(map(len, said.splitlines())) <= 80
    lines = [line for line in said.splitlines() if "easy-VQA test" in line]
    assert len(lines) == 4
    assert all(f in lines[1] for f in ("0.866 (0.859–0.872)", "0.668", "0.670", "9,673"))
    assert "share-Eff-2M-mlp ≈" in said and "share-Eff-2M-res ≈" in said and "base-Eff-2M-res ≈" not in said
    assert "★" not in said and "≈ the best, or not distinguishable from it, on easy-VQA test" in said
    alone = shown(scores_table(variants, choice | {"equals": []}, titles))
    assert "share-Eff-2M-mlp ★" in alone and "≈" not in alone
    assert "★ better than every other on easy-VQA test" in alone


def test_a_stage_run_tells_who_uses_and_who_trained_it():
    said = shown(stages_table([variant("a"), variant("b")]))
    assert "…" not in said
    line = next(line for line in said.splitlines() if "language" in line)
    assert "2 variants" in line and "trained by b" in line
    assert "was there" in next(line for line in said.splitlines() if "align" in line)


CLOSE = Compared(9673, {"accuracy": Difference(0.86612, 0.86489, -0.0100, 0.0123, 0.0)}, {"accuracy": 0.0004}, [])
FAR = Compared(9000, {"f1": Difference(86.12, 80.21, 3.1, 8.8, 0.01)}, {"f1": 0.2}, [])
NAMES = ("share-Eff-2M-mlp", "/root/remora/bundles/base-Eff-2M-mlp-0123456789ab")


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_comparison_keeps_both_figures_their_difference_and_the_verdict(width):
    """A, B and p were `0…` on 80 columns, the verdict was gone, and two decimals said 0.87, 0.86, +0.00, yes."""
    said = shown(compared_table(*NAMES, {"openmoji-unseen": CLOSE, "pope": FAR}), width)
    assert "…" not in said and max(map(len, said.splitlines())) <= width
    row = next(line for line in said.splitlines() if "openmoji-unseen" in line)
    assert all(cell in row for cell in ("0.8661", "0.8649", "+0.0012", "0.0004", "yes: A"))
    assert "(-0.0100 to +0.0123)" in said and NAMES[1] in said
    pope = next(line for line in said.splitlines() if "pope" in line)
    assert all(cell in pope for cell in ("86.12", "80.21", "+5.91", "0.2000", "no"))
    assert ("9,673" in said) == (width == 200), "the count gives way first"


def test_no_figure_is_cut_where_nothing_fits():
    said = shown(compared_table(*NAMES, {"openmoji-unseen": CLOSE}), 60)
    assert "…" not in said and "0.8661" in said and "yes" in said


def test_digits_show_the_difference():
    assert [digits(d) for d in (5.9, 0.5, 0.012, 0.0012, 0.0, 1e-12)] == [2, 2, 3, 4, 2, 6]
    assert digits(0.0, 0.013) == 3


LIVE = [
    VariantProgress("share-Eff-2M-mlp", "training", "finetune", "", 120, 480, 2.345, 12345.0, 130),
    VariantProgress("share-Eff-2M-res", "evaluating", asked="openmoji-unseen 128/9673", accuracy={"easy-vqa": 0.866}),
    VariantProgress("base-Eff-2M-res", "finished", accuracy={"easy-vqa": 0.8661, "openmoji-unseen": 0.721}),
    VariantProgress("base-Eff-2M-mlp"),
]


@pytest.mark.parametrize("width", [80, 120, 160])
def test_the_live_table_keeps_all_but_the_rate(width):
    rung = {"stage": "finetune", "step": 48, "steps": 480, "loss": 2.5, "stages": {"align-01": "reused", "a": "reused"}}
    live = [
        replace(LIVE[0], validation=1.234),
        *LIVE[1:],
        VariantProgress("share-C-TL-mlp-lr=1e-5-s1", "paused", **rung),
    ]
    said = shown(live_table(live, "tune/demo.yaml"), width)
    assert "…" not in said and max(map(len, said.splitlines())) <= width
    training = next(line for line in said.splitlines() if "training" in line)
    assert all(cell in training for cell in ("finetune", "120/480", "2.345", "1.234", "2:10"))
    assert ("12,345" in said) == (width > 120)
    assert "0.866" in said and "0.721" in said and "openmoji-u" in said and "128/9673" in said
    paused = next(line for line in said.splitlines() if "paused" in line)
    assert all(cell in paused for cell in ("finetune", "48/480", "2.500", " 2"))
    assert "starting" in said


def test_of_more_variants_than_lines_those_at_work_are_shown():
    many = [VariantProgress(f"v{i}", "waiting") for i in range(30)] + [replace(LIVE[0], name="last")]
    said = shown(live_table(many, "x", 4))
    assert "last" in said and "v2" in said and "v3" not in said and "and 27 more: 27 waiting" in said
    assert "more" not in shown(live_table(many, "x"))


@pytest.mark.parametrize("width", [80, 120])
def test_published_figures_stand_in_blocks_that_fit(width):
    said = shown(published_table("mine", dict.fromkeys(catalog.PAPERS, 50.04)), width)
    assert "…" not in said and max(map(len, said.splitlines())) <= width
    assert said.count("Beside published figures") > 1
    assert all(name in said for name in catalog.PAPERS)
    assert sum(line.count("50.0 ") for line in said.splitlines() if "mine" in line) == len(catalog.PAPERS)


def test_a_pipe_has_no_width_to_fit(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert console().width == 200
    monkeypatch.setenv("COLUMNS", "60")
    assert console().width == 60
