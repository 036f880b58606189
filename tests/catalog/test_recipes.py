"""The shipped recipes: what the papers say, and what docs/recipes.md says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from remora import catalog
from remora.catalog import PublishedModel
from remora.cli import main
from remora.planning import plan_of
from remora.runs import Store, graph, resolve_stages
from remora.spec import Variant

DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"
RECIPES = catalog.entries("recipes")
FAMILY = [
    "llava-1.5",
    "llava-1.5-lora",
    "base",
    "share",
    "share-frozen",
    "factory-base",
    "factory-lora",
    "mobilevlm-v1",
]
MIPHA = ["mipha", "mipha-lora", "mipha-tune-frozen", "mipha-tune-vit", "mipha-tune-lm"]


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
    assert catalog.recipe("bunny-recipe-1").stages[0] == catalog.recipe("bunny-recipe-2").stages[0]
    assert len({catalog.recipe(name).stages[0] for name in MIPHA}) == 1


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
    published = catalog.entries("published").items()
    rates = {n: m.overrides["align"]["lr"] for n, m in published if "align" in m.overrides}
    assert rates == {"Bunny-phi-1.5-eva": 1e-3, "Bunny-stablelm-2-eva": 1e-3, "Bunny-phi-2-eva": 5e-5}


def test_mipha_trains_everything_twice_over_with_its_own_optimiser():
    assert modes("mipha", "finetune") == ("full", "full", "full")
    assert modes("mipha-lora", "finetune") == ("full", "full", "lora")
    for s in (*catalog.recipe("mipha").stages, *catalog.recipe("mipha-lora").stages):
        assert (s.betas, s.eps) == ((0.9, 0.98), 1e-7)
    assert [s.epochs for s in catalog.recipe("mipha").stages] == [1, 2]


def test_miphas_four_freezings_differ_in_nothing_else():
    trained = {name: stage(name, "finetune").tune.trained for name in MIPHA if name != "mipha-lora"}
    assert trained == {
        "mipha": ("vision", "connector", "llm"),
        "mipha-tune-frozen": ("connector",),
        "mipha-tune-vit": ("vision", "connector"),
        "mipha-tune-lm": ("connector", "llm"),
    }
    same = {stage(name, "finetune").model_copy(update={"tune": stage("mipha", "finetune").tune}) for name in trained}
    assert same == {stage("mipha", "finetune")}


def test_base_on_sharegpt4v_is_base_but_for_its_data():
    for ours, theirs, data in zip(
        catalog.recipe("base-sharegpt4v").stages,
        catalog.recipe("base").stages,
        ("sharegpt4v-pt-1246k", "sharegpt4v-mix-665k"),
        strict=True,
    ):
        assert [e.dataset for e in ours.mixture] == [data]
        assert ours.model_copy(update={"mixture": theirs.mixture}) == theirs


def test_the_factorys_own_recipes():
    """Its scripts: square pictures everywhere; 2,048 tokens and 2e-5, or LoRA with 3,072 and one rate of 2e-4."""
    base, lora = stage("factory-base", "finetune"), stage("factory-lora", "finetune")
    assert (base.aspect, base.max_length, base.lr_of("connector"), base.lr_of("llm")) == ("square", 2048, 2e-5, 2e-5)
    assert (lora.aspect, lora.max_length, lora.lr_of("connector"), lora.lr_of("llm")) == ("square", 3072, 2e-4, 2e-4)
    assert modes("factory-lora", "finetune") == ("frozen", "full", "lora")


def test_mobilevlms_first_version():
    s = stage("mobilevlm-v1", "finetune")
    assert (s.lr_of("connector"), s.lr_of("llm"), s.aspect, s.batch) == (2e-5, 2e-5, "pad", 128)
    one, three = (catalog.published(f"MobileVLM-{n}") for n in ("1.7B", "3B"))
    assert {one.connector, three.connector} == {"ldp"}
    assert [resolve_stages(m.variant("m"))[1].lr for m in (one, three)] == [2e-5, 4e-5]


# Bunny's four tutorials: data, rate of adapters, of the connector (and an unfrozen encoder), rank, length, weight.
AVERAGES = {
    "Bunny-v1.0-4B": (("bunny-695k", 2e-4, 2e-5, 128, 4096, 0.3), ("bunny-llava-1.4m", 2e-4, 2e-5, 128, 4096, 0.7)),
    "Bunny-v1.1-4B": (
        ("bunny-allava-1.3m", 2e-4, 2e-5, 128, 4096, 0.3),
        ("bunny-llava-allava-2m", 2e-4, 2e-5, 128, 4096, 0.7),
    ),
    "Bunny-Llama-3-8B-V": (
        ("bunny-695k", 2e-4, 2e-5, 128, 2048, 0.5),
        ("bunny-llava-1.4m", 1e-4, 1e-5, 128, 2048, 0.5),
    ),
    "Bunny-v1.1-Llama-3-8B-V": (
        ("bunny-allava-1.3m", 1e-4, 1e-5, 256, 4096, 0.42),
        ("bunny-llava-allava-2m", 1e-4, 1e-5, 256, 4096, 0.58),
    ),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_bunnys_larger_models_are_averages_of_two_recipes(name):
    second, first = catalog.published(name).variants(name).values()
    for (variant, weight), (data, lora, rate, rank, length, share), unfrozen in zip(
        (first, second), AVERAGES[name], (False, True), strict=True
    ):
        align, s = resolve_stages(variant)
        assert align.lr == 1e-3 and round(weight, 9) == share
        assert (s.mixture[0].dataset, s.lr_of("llm"), s.lr_of("connector")) == (data, lora, rate)
        assert (s.tune.llm.lora.r, s.tune.llm.lora.alpha, s.max_length, s.batch) == (rank, 256, length, 128)
        assert (s.tune.vision.mode, s.aspect) == ("full" if unfrozen else "frozen", "pad")
        assert not unfrozen or s.lr_of("vision") == rate
        assert s.template == ("bunny-llama-3" if "Llama" in name else "vicuna")


def test_an_average_leaves_its_last_recipe_a_weight():
    facts = catalog.published("Bunny-v1.0-4B").model_dump()
    whole = {"recipe": "base", "weight": 0.5}
    with pytest.raises(ValueError, match="the weights of average add up to 1, which leaves nothing for the model"):
        PublishedModel.model_validate(facts | {"average": [whole, whole]})


PARTS = {"vision": "clip-l-336", "connector": "mlp2x_gelu", "llm": "tinyllama-1.1b-chat"}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_renders_and_plans_with_data_that_is_here(name, catalog_data, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(graph, "source_digest", lambda part, name: f"{part}/{name}")
    (catalog_data / "v.yaml").write_text(yaml.safe_dump(PARTS | {"recipe": name}))
    main(["render", str(catalog_data / "v.yaml"), "--runs", str(tmp_path / "runs")])
    (shown,) = yaml.safe_load_all(capsys.readouterr().out)
    assert [s["name"] for s in shown["stages"]] == [s.name for s in catalog.recipe(name).stages]
    store = Store(catalog_data / "runs")
    store.data = catalog_data
    longer = {s.name: {"batch": 1, "epochs": 20} for s in catalog.recipe(name).stages}  # three records a dataset
    plan = plan_of([Variant(**PARTS, recipe=name, overrides=longer)], store)
    assert [(r.state, r.exact) for r in plan.rows] == [("to train", True)] * len(shown["stages"])
    assert plan.missing == ()


def test_every_published_model_plans_before_anything_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "source_digest", lambda part, name: f"{part}/{name}")
    models = [v for n in catalog.entries("published") for v, _ in catalog.published(n).variants(n).values()]
    plan = plan_of(models, Store(tmp_path / "runs"))
    assert plan.uses > 100 > plan.distinct and all(r.state == "no data" and r.samples for r in plan.rows)


def test_mobilevlm_trains_its_language_model_from_the_start():
    first, second = catalog.recipe("mobilevlm-v2").stages
    assert first.tune.trained == second.tune.trained == ("connector", "llm")
    assert (first.lr_of("llm"), first.lr_of("connector")) == (2e-5, 1e-3)
    assert (second.lr_of("llm"), second.lr_of("connector")) == (4e-5, 4e-5)
