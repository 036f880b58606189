"""The tutorial notebooks run from their first cell to their last, and results show themselves as tables there."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from rich.console import Console

from remora.evaluation.gate import GateFigure
from remora.notebook import table
from remora.pipeline.promotion import Promotion
from remora.reporting import bars
from support.kept_explanation import read_explanation

PACKAGE = Path(__file__).parents[1] / "platform" / "remora"
GOLDEN = Path(__file__).parent / "golden"
FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
RUNNER = """
import ast, json, sys

names = {"__name__": "__main__"}
for source in json.load(sys.stdin):
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None
    shown = value._repr_html_() if hasattr(value, "_repr_html_") else "" if value is None else repr(value)
    print("##", json.dumps(shown), flush=True)
"""
"""Runs cells as a kernel does: all in one namespace, the last expression of each shown."""


def sources(notebook: Path) -> list[str]:
    """The code cells. They are kept without outputs, so that a run changes no file."""
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), "clear the outputs"
    return ["".join(cell["source"]) for cell in cells]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "REMORA_"))}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(sources(notebook)), cwd=tmp_path, check=False,
        env=kept | {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    shown = [json.loads(line[3:]) for line in done.stdout.splitlines() if line.startswith("## ")]
    assert len(shown) == len(sources(notebook))
    tables = [one for one in shown if one.startswith("<table>")]
    assert len(tables) >= 5 and any("to train" in one for one in tables)
    assert sum("colours" in one and "accuracy" in one for one in tables) >= 3


def test_an_explanation_and_a_promotion_are_tables() -> None:
    found = read_explanation((GOLDEN / "demo-explained.json").read_text())
    shown = found._repr_html_()
    assert shown.count("<table>") == (4 if found.promotions else 3) and found.origin.name in shown
    assert all(stage.name in shown for stage in found.origin.stages)
    figure = GateFigure("easy-vqa", "accuracy", 9673, 0.868, 0.812, 0.05, 0.061, 0.0001, False)
    moved = Promotion("2026-11-30T04:20:11Z", "remora", "champion", "3", "share", "2", "base", 0.05, (figure,))
    shown = moved._repr_html_()
    assert "remora@champion is version 3 (share), before version 2 (base)</caption>" in shown
    assert ">0.8680</td>" in shown and ">9,673</td>" in shown
    first = replace(moved, from_version=None, gate=(), forced="no <b> before")
    assert "version 3 (share); forced: no &lt;b&gt; before</caption>" in first._repr_html_()


def test_every_result_of_the_api_shows_itself_as_a_table() -> None:
    """By its source: importing all of them takes seconds."""
    text = (PACKAGE / "__init__.py").read_text()
    where = dict(re.findall(r"^    from (remora[\w.]+) import (\w+)$", text, re.M))
    places = {name: module for module, name in where.items()}
    results = set(re.findall(r"^\) -> (\w+):$", text, re.M)) - {"None"}
    assert results >= {"Outcome", "Result", "Plan", "Promotion", "Report", "Evaluation"}
    for name in results:
        module = PACKAGE.parent / places[name].replace(".", "/")
        files = [module.with_suffix(".py")] if module.with_suffix(".py").exists() else list(module.glob("*.py"))
        bodies = [c for f in files for c in ast.walk(ast.parse(f.read_text())) if isinstance(c, ast.ClassDef)]
        (made,) = [c for c in bodies if c.name == name]
        assert "_repr_html_" in {f.name for f in made.body if isinstance(f, ast.FunctionDef)}, name


def test_progress_in_a_notebook_is_lines() -> None:
    """rich draws no bars there without a terminal: a cell keeps what is printed, and a redrawn bar would fill it."""
    console = Console(force_jupyter=True, file=io.StringIO())
    assert console.is_jupyter and not console.is_terminal
    said: list[str] = []
    written = patch.object(bars, "lines", lambda *_: lambda what, done, total: said.append(f"{what} {done}/{total}"))
    with written, bars.counting(console, "reading") as hear:
        hear("a.json", 1, 2)
    assert said == ["a.json 1/2"]


def test_there_are_notebooks() -> None:
    assert [one.stem for one in NOTEBOOKS] == ["colours"]


def test_a_table_escapes_and_aligns() -> None:
    shown = table("a <b>", ("x", "y"), [("<i>", 1234), (None, 0.5), ("z", 123.456)])
    assert "a &lt;b&gt;" in shown and "&lt;i&gt;" in shown and "<i>" not in shown
    assert ">1,234</td>" in shown and ">0.5000</td>" in shown and ">123.46</td>" in shown and "<td></td>" in shown
