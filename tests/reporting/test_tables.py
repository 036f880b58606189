"""Tables as people see them: on 80 columns, with every figure whole."""

from __future__ import annotations

import io

from rich.console import Console

from remora.reporting.tables import scores_table, stages_table


def shown(table) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def variant(name):
    score = {"accuracy": 0.86612, "ci": [0.8591, 0.8724], "blind": 0.668, "question_only": 0.67, "n": 9673}
    stages = {"language-ee236f792d84": "trained", "align-fa7ec1c2828a": "reused"}
    return {"name": name, "benchmarks": {"easy-vqa": score, "openmoji-unseen": score}, "stages": stages}


def test_every_figure_of_a_score_is_whole_on_80_columns():
    titles = {"easy-vqa": "easy-VQA test", "openmoji-unseen": "unseen concepts"}
    said = shown(scores_table([variant("base-Eff-2M-res"), variant("share-Eff-2M-mlp")], "share-Eff-2M-mlp", titles))
    assert "…" not in said and max(map(len, said.splitlines())) <= 80
    lines = [line for line in said.splitlines() if "easy-VQA test" in line]
    assert len(lines) == 2
    assert all(f in lines[1] for f in ("0.866 (0.859–0.872)", "0.668", "0.670", "9,673"))
    assert "share-Eff-2M-mlp ★" in said and "base-Eff-2M-res ★" not in said


def test_a_stage_run_tells_who_uses_and_who_trained_it():
    said = shown(stages_table([variant("a"), variant("b")]))
    assert "…" not in said
    line = next(line for line in said.splitlines() if "language" in line)
    assert "2 variants" in line and "trained by b" in line
    assert "was there" in next(line for line in said.splitlines() if "align" in line)
