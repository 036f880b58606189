"""`import remora`: light, with the options of the command line; and the example of docs/python.md, word for word."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

import remora
from remora.cli import VERBS
from remora.commands.options import TrainOptions
from remora.sharing.node import run_folder

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
OWN = {"aloud", "ready"}
"""What only Python has: whether anything is printed, and what is called in its place."""
OF_THE_EDGE = {"debug", "quiet", "plain", "json", "history", "html", "pictures", "card"}
"""What only the command line has: how errors and results are shown."""


def run(code: str, folder: Path, **env: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "REMORA_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder, env=kept | {"HOME": str(folder), "OMP_NUM_THREADS": "1"} | env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_loads_nothing_before_something_is_called(tmp_path: Path) -> None:
    code = "import sys; before = set(sys.modules); import remora; print(sorted(set(sys.modules) - before))"
    assert run(code, tmp_path) == "['__future__', 'remora']\n"
    assert {n for n in remora.__all__ if callable(getattr(remora, n))} == set(remora.__all__)


@pytest.mark.parametrize("verb", sorted(set(remora.__all__) - {"load"}))
def test_a_function_has_the_options_of_its_verb(verb: str) -> None:
    options = {f.name: f for f in fields(VERBS[verb].options) if f.name not in OF_THE_EDGE}
    taken = inspect.signature(getattr(remora, verb)).parameters
    assert taken.keys() - OWN == options.keys()
    for name, field in options.items():
        if name != "runs":
            default = MISSING if taken[name].default is inspect.Parameter.empty else taken[name].default
            assert default == field.default, name


def test_options_take_what_people_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMORA_RUNS", str(tmp_path / "env"))
    monkeypatch.chdir(tmp_path)
    assert TrainOptions.of({"spec": "x.yaml", "runs": None}) == TrainOptions(spec=Path("x.yaml"))
    assert TrainOptions(spec=Path("x.yaml")).runs == tmp_path / "env"
    assert TrainOptions.of({"spec": "x.yaml", "runs": "here"}).runs == run_folder("here") == tmp_path / "here"
    evaluate = VERBS["evaluate"].options
    few = evaluate.of({"model": "m", "benchmarks": "pope", "data": None, "workers": None})
    assert (few.benchmarks, few.data, few.workers) == (("pope",), None, 1)
    assert evaluate.of({"model": "m", "benchmarks": ["pope", "gqa"]}).benchmarks == ("pope", "gqa")


@pytest.mark.slow
def test_the_example_of_the_page_runs_without_ray_and_prints_what_it_asks_for_only(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    said = run(code + "\nimport sys\nassert 'ray' not in sys.modules\n", tmp_path).splitlines()
    assert said[:2] == ["3 stage runs to train", "['trained', 'trained', 'trained']"]
    assert said[3] == "['reused', 'reused', 'reused']"
    assert said[4].startswith("base-Eff-2M-mlp says '")
    accuracy = said[2].removeprefix("accuracy ")
    assert said[5] == f"measured {accuracy}"
    assert said[6].startswith("scored 8 questions: {") and f"'accuracy': {accuracy}" in said[6]
    assert len(said) == 7
