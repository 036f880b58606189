"""docs/your-pictures.md, command by command in its own order, on generated pictures and with few steps."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from remora import catalog
from remora.runs import Store

PAGE = (Path(__file__).parents[2] / "docs" / "your-pictures.md").read_text()
COLOURS = {"red": (210, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 210), "yellow": (240, 210, 40)}
QUESTION = "What is on the table?"
COMMANDS = re.findall(r"(?m)^    ((?:remora|python) .*)$", PAGE)
ELSEWHERE = ("remora data demo", "remora serve", "remora chat")
"""Its data is made here by hand. tests/serving and tests/commands serve and chat; their lines here are parsed by
tests/test_documented_commands.py."""


def block(name: str) -> str:
    """The block of the page whose first line names this file."""
    (found,) = re.findall(rf"(?ms)^```\w+\n(# {re.escape(name)}\n.*?)^```$", PAGE)
    return found


def photographs(folder: Path, count: int) -> None:
    """What the page begins with: pictures, and a table with two questions about each."""
    rng = random.Random(0)
    (folder / "photos").mkdir()
    rows = []
    for i in range(count):
        colour = rng.choice(list(COLOURS))
        picture = Image.effect_noise((64, 64), 40).convert("RGB")
        x, y, r = rng.randint(20, 44), rng.randint(20, 44), rng.randint(10, 16)
        ImageDraw.Draw(picture).ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
        name = f"kitchen-{i:02}.jpg"
        picture.save(folder / "photos" / name)
        rows += [(name, QUESTION, f"a {colour} cup"), (name, "Is it red?", "yes" if colour == "red" else "no")]
    with (folder / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "question", "answer"), *rows])


def words_for_the_language_model(runs: Path, count: int) -> None:
    """Text where `remora data demo` puts it."""
    file = Store(runs).data / catalog.dataset("demo-language").path
    file.parent.mkdir(parents=True)
    said = [(QUESTION, f"a {colour} cup") for colour in COLOURS] * (count // len(COLOURS))
    turns = [[{"from": "human", "value": q}, {"from": "gpt", "value": a}] for q, a in said]
    file.write_text(json.dumps([{"id": str(i), "conversations": both} for i, both in enumerate(turns)]))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all commands of the page but those of the endpoint have run."""
    folder = tmp_path_factory.mktemp("mine")
    photographs(folder, 40)
    words_for_the_language_model(folder / "runs", 64)
    for name in ("split.py", "held-out.yaml", "mine.yaml"):
        text = block(name).replace("steps: 200", "steps: 8").replace("batch: 16", "batch: 4")
        (folder / name).write_text(text)
    with (folder / "mine.yaml").open("a") as file:
        file.write("cluster: {micro_batch: 4}\n")
    short = (folder / "mine.yaml").read_text().replace("overrides:\n", "overrides:\n  language: {steps: 8, batch: 4}\n")
    (folder / "mine.yaml").write_text(short)
    return folder


def run(place: Path, command: str) -> str:
    """Run a line of the page; returns what it printed."""
    program, *words = shlex.split(command, comments=True)
    argv = [sys.executable, *(["-m", "remora"] if program == "remora" else []), *words]
    done = subprocess.run(argv, cwd=place, env=env(place), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def env(place: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "REMORA_"))}
    return kept | {"HOME": str(place), "REMORA_RUNS": str(place / "runs"), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_its_commands_run_in_their_order_and_end_with_a_score(place: Path) -> None:
    said = {command: run(place, command) for command in COMMANDS if not command.startswith(ELSEWHERE)}
    assert len(said) == 6
    assert "72 records" in said["remora data check train.csv --images photos"]
    assert "language" in said["remora plan mine.yaml"]
    assert "<html" in (place / "samples.html").read_text()
    scored = said["remora train mine.yaml --local"]
    assert "base-Eff-2M-mlp" in scored and "held-out" in scored and "blind" in scored


@pytest.mark.slow
def test_what_it_says_goes_wrong_is_what_is_said(place: Path) -> None:
    """Each kind of its second table, as `data check` reports it."""
    (place / "photos" / "torn.jpg").write_bytes((place / "photos" / "kitchen-00.jpg").read_bytes()[:200])
    (place / "photos" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64)
    rows = [
        ("kitchen-00.jpg", "?", ""),
        ("gone.jpg", "?", "a cup"),
        ("torn.jpg", "?", "a cup"),
        ("a.heic", "?", "a cup"),
    ]
    with (place / "bad.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "question", "answer"), *rows])
    argv = [sys.executable, "-m", "remora", "data", "check", "bad.csv", "--images", "photos"]
    done = subprocess.run(argv, cwd=place, env=env(place), capture_output=True, text=True)
    assert done.returncode == 1
    for kind in ("missing-image", "corrupt-image", "unsupported-image", "empty-answer"):
        assert kind in done.stdout and f"`{kind}`" in PAGE
