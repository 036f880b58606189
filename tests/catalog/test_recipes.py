"""The shipped recipes: what the papers say, and what docs/recipes.md says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from remora import catalog

DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"
RECIPES = catalog.entries("recipes")
FAMILY = ["llava-1.5", "llava-1.5-lora", "base", "share", "share-frozen"]


def stage(recipe: str, name: str):
    return next(s for s in catalog.recipe(recipe).stages if s.name == name)


def modes(recipe: str, name: str) -> tuple[str, ...]:
    tune = stage(recipe, name).tune
    return tune.vision.mode, tune.connector.mode, tune.llm.mode


def row(name: str, s) -> str:
    """A stage's line in docs/recipes.md."""
    tune = ", ".join(
        f"{part} {t.mode if t.blocks is None else f'{t.mode} {t.blocks}'} {s.lr_of(part):.0e}".replace("e-0", "e-")
        for part in s.tune.trained
        for t in [s.tune[part]]
    )
    data = " + ".join(str(e.dataset) for e in s.mixture)
    cells = (name, s.name, data, tune, s.batch, f"{s.epochs:g}", s.max_length, s.aspect, s.template)
    return f"| {' | '.join(map(str, cells))} |"


@pytest.mark.parametrize("name", RECIPES)
def test_every_stage_is_documented_as_it_is(name):
    text = DOCS.read_text()
    for s in catalog.recipe(name).stages:
        assert row(name, s) in text


@pytest.mark.parametrize("name", RECIPES)
def test_no_published_run_was_clipped_or_decayed(name):
    recipe = catalog.recipe(name)
    assert all(
        s.clip is None and s.weight_decay == 0 and s.schedule == "cosine" and s.warmup == 0.03 for s in recipe.stages
    )
    assert "clip: 1.0" in recipe.source  # how to clip all the same


def test_the_family_shares_its_alignment():
    first = [catalog.recipe(name).stages[0] for name in FAMILY]
    assert all(s == first[0] for s in first)
    assert modes("base", "align") == ("frozen", "full", "frozen")
    assert (first[0].lr, first[0].batch, first[0].template, first[0].aspect) == (1e-3, 256, "plain", "square")
    assert catalog.recipe("bunny-lora").stages[0] == catalog.recipe("bunny-full").stages[0]
    assert catalog.recipe("mipha").stages[0] == catalog.recipe("mipha-lora").stages[0]


def test_share_and_share_frozen_differ_where_paper_and_code_do():
    paper, code = (catalog.recipe(n).stages[1] for n in ("share", "share-frozen"))
    assert (paper.tune.vision.mode, paper.tune.vision.blocks) == ("from", 12)
    assert paper.lr_of("vision") == paper.lr_of("llm") == 2e-5
    assert code.tune.vision.mode == "frozen"
    assert {s.aspect for s in catalog.recipe("share-frozen").stages} == {"square"}
    assert (stage("share", "finetune").aspect, stage("share", "finetune").max_length) == ("pad", 3072)
    assert stage("share", "finetune").mixture[0].dataset == "sharegpt4v-mix-665k"
    assert stage("base", "finetune").mixture[0].dataset == "llava-mix-665k"


@pytest.mark.parametrize("name", ["llava-1.5-lora", "bunny-lora"])
def test_lora_recipes_have_a_slow_connector(name):
    s = stage(name, "finetune")
    assert modes(name, "finetune") == ("frozen", "full", "lora")
    assert (s.lr_of("llm"), s.lr_of("connector")) == (2e-4, 2e-5)
    lora = s.tune.llm.lora
    assert (lora.r, lora.alpha, lora.dropout, lora.targets) == (128, 256, 0.05, ())


def test_bunny_aligns_more_slowly_and_its_eva_models_otherwise():
    assert stage("bunny-lora", "align").lr == 5e-4
    rates = {n: m.overrides["align"]["lr"] for n, m in catalog.entries("published").items() if m.overrides}
    assert rates == {"Bunny-phi-1.5-eva": 1e-3, "Bunny-stablelm-2-eva": 1e-3, "Bunny-phi-2-eva": 5e-5}


def test_mipha_trains_everything_twice_over_with_its_own_optimiser():
    assert modes("mipha", "finetune") == ("full", "full", "full")
    assert modes("mipha-lora", "finetune") == ("full", "full", "lora")
    for s in (*catalog.recipe("mipha").stages, *catalog.recipe("mipha-lora").stages):
        assert (s.betas, s.eps) == ((0.9, 0.98), 1e-7)
    assert [s.epochs for s in catalog.recipe("mipha").stages] == [1, 2]


def test_mobilevlm_trains_its_language_model_from_the_start():
    first, second = catalog.recipe("mobilevlm-v2").stages
    assert first.tune.trained == second.tune.trained == ("connector", "llm")
    assert (first.lr_of("llm"), first.lr_of("connector")) == (2e-5, 1e-3)
    assert (second.lr_of("llm"), second.lr_of("connector")) == (4e-5, 4e-5)
