"""The example of docs/start.md, word for word, on generated pictures: nothing is refused, and it learns."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from statistics import mean

import pytest
import yaml
from PIL import Image, ImageDraw

from remora import catalog
from remora.evaluation.benchmarks import benchmark
from remora.runs import Store, path, preflight, read_variants
from remora.training.journal import read
from support.launch import launch

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs" / "start.md"
RANKS = Path(__file__).with_name("start_ranks.py")
COLOURS = {"red": (210, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 210), "yellow": (240, 210, 40)}
SHAPES = ("ellipse", "rectangle")


def block(name: str) -> str:
    (found,) = re.findall(rf"```yaml\n(# {re.escape(name)}\n.*?)```", PAGE.read_text(), re.DOTALL)
    return found


def draw(folder: Path, count: int) -> None:
    """What the page asks for: `data/mine.json` and `data/pictures`, and questions about as many pictures more."""
    rng = random.Random(0)
    (folder / "data" / "pictures").mkdir(parents=True)
    records, questions = [], []
    for i in range(2 * count):
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        picture = Image.new("RGB", (64, 64), (rng.randint(110, 255),) * 3)
        x, y, r = rng.randint(16, 48), rng.randint(16, 48), rng.randint(10, 16)
        getattr(ImageDraw.Draw(picture), shape)((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
        picture.save(folder / "data" / "pictures" / f"{i}.png")
        said = f"a {colour} {shape}"
        turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": said}]
        records.append({"id": str(i), "image": f"{i}.png", "conversations": turns})
        questions.append({"question_id": i, "image": f"{i}.png", "text": "What is this?", "answer": said})
    (folder / "data" / "mine.json").write_text(json.dumps(records[:count]))
    (folder / "data" / "held-out.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions[count:]))


def text(runs: Path, count: int) -> None:
    """Records where `remora data demo` puts the language model's text."""
    file = Store(runs).data / catalog.dataset("demo-language").path
    file.parent.mkdir(parents=True)
    said = [("What is this?", f"a {c} {s}") for c in COLOURS for s in SHAPES]
    each = ((("human", q), ("gpt", a)) for q, a in said * (count // len(said)))
    turns = [[{"from": who, "value": words} for who, words in both] for both in each]
    file.write_text(json.dumps([{"id": str(i), "conversations": t} for i, t in enumerate(turns)]))


@pytest.fixture
def mine(tmp_path):
    """The page's spec beside 40 pictures, and the run folder."""
    draw(tmp_path, 40)
    text(tmp_path / "runs", 320)
    for name in ("mine.yaml", "held-out.yaml"):
        (tmp_path / name).write_text(block(name))
    return tmp_path / "mine.yaml", tmp_path / "runs"


def test_every_stage_of_the_pages_example_can_run_and_is_long_enough_to_learn(mine):
    spec, runs = mine
    variants = read_variants(spec)
    known = preflight(variants, Store(runs))
    (lineage,) = known.paths.values()
    assert [run.stage.name for run in lineage] == ["language", "align", "finetune"]
    assert known.notes == ()
    (held_out,) = variants[0].benchmarks
    assert len(benchmark(held_out).questions(spec.parent)) == 40
    assert all(known.lengths[run.id][0] >= 200 for run in lineage[1:])


def test_the_pages_example_learns_with_fewer_steps_too(mine):
    spec, runs = mine
    short = yaml.safe_load(spec.read_text())
    for stage in ("align", "finetune"):
        short["overrides"][stage] |= {"steps": 8, "batch": 4}
    spec.write_text(yaml.safe_dump(short))
    launch(RANKS, 1, spec, runs)
    (variant,) = read_variants(spec)
    language, align, finetune = (
        [e["loss"] for e in read(Store(runs).journal(run)) if e["event"] == "step"]
        for run in path(variant, Store(runs).data)
    )
    assert mean(language[-3:]) < 0.7 * mean(language[:3])
    assert mean(finetune[-3:]) < 0.9 * mean(align[:3]), (align, finetune)
