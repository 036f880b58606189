"""Every shipped recipe trains: two steps per stage, with the real engine, on small parts of the real classes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import CLIPVisionConfig, CLIPVisionModel

from remora import catalog
from remora.model.llm import create_from_scratch
from remora.runs import resolve_stages
from remora.spec import Variant
from support.standins import small_llm, small_vision
from support.tiny import write_records

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parent / "recipes.py"
WORDS = ["USER: What is number 1? ASSISTANT: thing 1, too", "A chat between a curious user and an assistant."] * 3
RECIPES = sorted(catalog.entries("recipes"))


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the script prints: (recipe, stage) -> journal, and the recipes whose model answered."""
    root = tmp_path_factory.mktemp("recipes")
    vision = small_vision(catalog.vision("clip-l-336"))
    # As many blocks as the real one: share trains the encoder from block 12 on.
    vision = vision.model_copy(update={"config": vision.config | {"num_hidden_layers": 24}, "blocks": 24})
    CLIPVisionModel(CLIPVisionConfig(**vision.config)).save_pretrained(root / "clip")
    llm = small_llm(catalog.llm("tinyllama-1.1b-chat"))
    create_from_scratch(llm, WORDS, 0, root / "llama")
    own = root / "catalog"
    own.mkdir()
    entries = {
        "vision": {"tiny-clip": vision.model_dump(mode="json") | {"short": "tC", "hub": str(root / "clip")}},
        "llm": {"tiny-llama": llm.model_dump(mode="json") | {"short": "tL", "hub": str(root / "llama")}},
    }
    for kind, entry in entries.items():
        (own / f"{kind}.yaml").write_text(yaml.safe_dump(entry))
    for name, entry in catalog.entries("datasets").items():
        write_records(root / "runs" / "data", entry.path, entry.images, pictures=name != "demo-language")
    env = {**os.environ, "REMORA_CATALOG": str(own), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), str(root / "runs")],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    stages = {(r["recipe"], r["stage"]): r["events"] for r in lines if "stage" in r}
    return stages, {r["recipe"] for r in lines if "tokens" in r}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_two_steps_a_stage_and_answers(said, recipe):
    journals, answered = said
    assert recipe in answered
    plain = Variant(vision="clip-l-336", connector="mlp2x_gelu", llm="tinyllama-1.1b-chat", recipe=recipe)
    for stage in resolve_stages(plain):
        events = journals.get((recipe, stage.name))
        if events is None:  # the same stage run as another recipe's, which trained it
            assert any(name == stage.name for _, name in journals)
            continue
        assert [e["step"] for e in events if e["event"] == "step"] == [0, 1]
        table = {row["part"]: row for row in next(e for e in events if e["event"] == "started")["table"]}
        for part in ("vision", "connector", "llm"):
            assert (table[part]["trained"] > 0) == stage.tune[part].trains, (stage.name, part)
            if stage.tune[part].mode == "full" and part != "vision":
                assert table[part]["trained"] == table[part]["parameters"]


def test_every_recipe_resolves(tmp_path, capsys):
    from remora.cli import main

    for recipe in RECIPES:
        spec = tmp_path / f"{recipe}.yaml"
        spec.write_text(f"vision: clip-l-336\nconnector: mlp2x_gelu\nllm: tinyllama-1.1b-chat\nrecipe: {recipe}\n")
        main(["render", str(spec)])
        shown = yaml.safe_load(capsys.readouterr().out)
        assert [s["name"] for s in shown["stages"]] == [s.name for s in catalog.recipe(recipe).stages]
