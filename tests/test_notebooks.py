"""The tutorial notebooks run from their first cell to their last, and results show themselves as tables there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from remora.notebook import table

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
    assert len(tables) >= 4 and any("to train" in one for one in tables)
    assert sum("colours" in one and "accuracy" in one for one in tables) >= 3


def test_there_are_notebooks() -> None:
    assert [one.stem for one in NOTEBOOKS] == ["colours"]


def test_a_table_escapes_and_aligns() -> None:
    shown = table("a <b>", ("x", "y"), [("<i>", 1234), (None, 0.5), ("z", 123.456)])
    assert "a &lt;b&gt;" in shown and "&lt;i&gt;" in shown and "<i>" not in shown
    assert ">1,234</td>" in shown and ">0.5000</td>" in shown and ">123.46</td>" in shown and "<td></td>" in shown
