"""The extras: extras.py has what pyproject.toml says, and what is missing is named in one line with the command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from remora.cli import VERBS
from remora.extras import EXTRAS

ROOT = Path(__file__).parents[1]
IMPORTED_AS = {
    "mlflow-skinny": {"mlflow"}, "huggingface-hub": {"huggingface_hub"}, "protobuf": set(),
    "prometheus-client": {"prometheus_client"},
    "ray[data,default,train,tune]": {"ray"}, "ray[serve]": {"ray", "fastapi", "starlette", "uvicorn"},
}  # fmt: skip
"""Requirements whose modules have other names; nothing here imports protobuf, sentencepiece does."""
BANNED = """
import json, sys
from importlib.abc import MetaPathFinder

class Gone(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in json.loads(sys.argv[2]):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Gone())
from remora.cli import main
main(json.loads(sys.argv[1]))
"""


def requirements(extra: str) -> set[str]:
    """What an extra brings, with that of the extras that it names."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found: set[str] = set()
    for requirement in declared[extra]:
        if inner := re.match(r"remora\[([\w,]+)\]$", requirement):
            found |= set().union(*(requirements(name) for name in inner[1].split(",")))
        else:
            found.add(re.match(r"[\w.-]+(\[[\w,]+\])?", requirement)[0].replace("_", "-"))  # type: ignore[index]
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_pyproject_says(extra: str) -> None:
    assert set().union(*(IMPORTED_AS.get(name, {name}) for name in requirements(extra))) == EXTRAS[extra]


def test_all_is_all() -> None:
    assert set().union(*map(requirements, EXTRAS)) < requirements("all") < requirements("demo")
    verbs = [v for verb in VERBS.values() for v in (verb.values() if isinstance(verb, dict) else [verb])]
    assert {verb.extra for verb in verbs} == EXTRAS.keys() - {"s3"} | {"demo"}


def refused(argv: list[str], *gone: str) -> str:
    """The one line of a command where some packages are not installed."""
    done = subprocess.run(
        [sys.executable, "-c", BANNED, json.dumps(argv), json.dumps(gone)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


@pytest.mark.slow
def test_a_verb_whose_extra_is_missing_says_which(tmp_path: Path) -> None:
    runs = ["--runs", str(tmp_path)]
    heavy = ("torch", "ray", "mlflow", "deepspeed", "transformers", "scipy")
    for argv, line in (
        (["train", "jobs/demo-base.yaml", *runs], "'remora[train]'"),
        (["demo", *runs], "'remora[demo]'"),
        (["search", "tune/demo.yaml", *runs], "'remora[train]'"),
        (["serve", "remora@champion", *runs], "'remora[serve]'"),
        (["sync", *runs], "mlflow is not installed; next: pip install 'remora[track]'"),
        (["average", "a", "b", "--weights", "0.5", "0.5", "--out", "o", *runs], "'remora[model]'"),
    ):
        said = refused(argv, *heavy)
        assert said.startswith("remora: ") and said.endswith(line), said
