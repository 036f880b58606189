"""The catalog: every entry loads, what it names exists, and its figures are those of the built parts."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from remora import catalog
from remora.errors import SpecError, UnknownName
from remora.model.connectors import build_connector, tokens_out
from remora.model.llm import create_from_scratch, load_llm
from remora.model.vision import build_tower

STAGES = [(r.name, s) for r in catalog.entries("recipes").values() for s in r.stages]
STAGES += [(n, e.stage) for n, e in catalog.entries("llm").items() if e.stage]


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_every_entry_of_a_kind_loads_and_has_a_source(kind):
    entries = catalog.entries(kind)
    assert entries
    for name, entry in entries.items():
        assert isinstance(entry, catalog.KINDS[kind])
        assert entry.source, name


@pytest.mark.parametrize(("owner", "stage"), STAGES, ids=[f"{owner}-{s.name}" for owner, s in STAGES])
def test_what_a_stage_names_is_in_the_catalog(owner, stage):
    catalog.template(stage.template)
    for entry in stage.mixture:
        catalog.dataset(entry.dataset)


def test_recipes_are_called_as_their_files_are():
    assert {name: r.name for name, r in catalog.entries("recipes").items()} == {
        n: n for n in catalog.entries("recipes")
    }


def test_what_a_benchmark_names_is_in_the_catalog():
    for entry in catalog.entries("benchmarks").values():
        catalog.dataset(entry.prior)


def test_short_names_differ_so_variant_names_do():
    for kind in ("vision", "llm", "connectors"):
        shorts = [e.short for e in catalog.entries(kind).values()]
        assert len(set(shorts)) == len(shorts)


def test_templates_say_what_the_prompter_reads():
    for entry in catalog.entries("templates").values():
        assert entry.user.count("{image}") == 1 and entry.user.count("{text}") <= 1
        assert entry.assistant.count("{text}") == 1
        assert all(token in entry.system + entry.user + entry.assistant for token in entry.tokens)
        assert entry.stop is None or entry.stop in entry.tokens


@pytest.mark.parametrize(("name", "entry"), catalog.entries("llm").items(), ids=catalog.entries("llm"))
def test_a_language_model_has_the_parameters_that_its_entry_says(name, entry):
    with torch.device("meta"):
        assert parameters(AutoModelForCausalLM.from_config(AutoConfig.for_model(**entry.config))) == entry.parameters


def test_the_demo_model_is_built_as_its_entry_says(tmp_path):
    entry = catalog.llm("demo-2m")
    create_from_scratch(entry, ["a few words"], 0, tmp_path / "llm")
    model, _ = load_llm(tmp_path / "llm")
    assert parameters(model) == entry.parameters
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (entry.hidden, entry.layers)
    assert (model.config.vocab_size, model.config.max_position_embeddings) == (entry.vocabulary, 512)


@pytest.mark.parametrize(("name", "entry"), catalog.entries("vision").items(), ids=catalog.entries("vision"))
def test_an_encoder_is_as_its_entry_says(name, entry):
    tower = build_tower(entry, pretrained=False)
    assert parameters(tower) == entry.parameters
    assert len(tower.blocks) == entry.blocks
    with torch.inference_mode():
        tokens = tower(torch.zeros(1, 3, entry.image_size, entry.image_size))
    assert tokens.shape == (1, entry.tokens, entry.width)


@pytest.mark.parametrize(("name", "entry"), catalog.entries("connectors").items(), ids=catalog.entries("connectors"))
def test_a_connector_makes_as_many_embeddings_as_its_entry_says(name, entry):
    assert build_connector(entry, 16, 24)(torch.zeros(2, 9, 16)).shape == (2, tokens_out(entry, 9), 24)


@pytest.mark.parametrize(
    ("get", "wrong", "right"),
    [
        (catalog.vision, "efficientnet-lite-0", "efficientnet-lite0"),
        (catalog.llm, "demo2m", "demo-2m"),
        (catalog.connector, "mlp2x-gelu", "mlp2x_gelu"),
        (catalog.template, "vicunna", "vicuna"),
        (catalog.dataset, "demo-caption", "demo-captions"),
        (catalog.benchmark, "easyvqa", "easy-vqa"),
        (catalog.recipe, "shared", "share"),
        (catalog.entries, "visions", "vision"),
    ],
)
def test_an_unknown_name_tells_the_nearest_and_all_there_are(get, wrong, right):
    with pytest.raises(UnknownName) as caught:
        get(wrong)
    message = str(caught.value)
    assert f"{wrong!r}; did you mean {right!r}?; known: " in message
    assert get(right) is not None
    known = (
        catalog.KINDS
        if get is catalog.entries
        else next(e for k in catalog.KINDS if right in (e := catalog.entries(k)))
    )
    assert all(name in message for name in known)


def test_a_name_like_nothing_gets_no_hint():
    with pytest.raises(UnknownName, match=r"unknown llm 'zzz'; known: demo-2m, "):
        catalog.llm("zzz")


def test_a_recipe_may_be_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nstages: [{name: s, mixture: [demo-captions], lr: 1e-3, steps: 2}]\n")
    assert catalog.recipe(str(file)).stages[0].steps == 2
    with pytest.raises(SpecError, match="cannot read"):
        catalog.recipe(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("kind", "facts", "why"),
    [
        ("connectors", {"kind": "resampler", "depth": 1}, "needs queries"),
        ("connectors", {"kind": "mlp", "depth": 1, "queries": 3}, "has no queries"),
        ("llm", {**catalog.llm("demo-2m").model_dump(), "loader": "gguf"}, "gguf needs package"),
        ("llm", {**catalog.llm("demo-2m").model_dump(), "stage": None}, "needs the stage"),
    ],
)
def test_entries_that_contradict_themselves_are_refused(kind, facts, why):
    with pytest.raises(ValueError, match=why):
        catalog.KINDS[kind].model_validate({"short": "s", "source": "t", **facts})
