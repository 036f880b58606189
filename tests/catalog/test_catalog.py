"""The catalog: every entry loads, what it names exists, and its figures agree with each other."""

from __future__ import annotations

import re

import pytest

from remora import catalog
from remora.errors import SpecError, UnknownName
from remora.runs import resolve_stages

STAGES = [(r.name, s) for r in catalog.entries("recipes").values() for s in r.stages]
STAGES += [(n, e.stage) for n, e in catalog.entries("llm").items() if e.stage]
# Bytes of the published weight files over the bytes of a number. The headers are what is left over: below 100 kB.
FILES = {
    "tinyllama-1.1b-chat": (2_200_119_864, 2),
    "qwen3-1.7b": (4_063_479_808, 2),  # of all tensors; the tied head is in the files twice
    "dinov2-l-224": (1_217_522_888, 4),
}
# Pythia's Table 1 and the models' cards. timm's of eva02_large_patch14_clip_336 counts the projection to 768 channels.
STATED = {"pythia-1.4b": 1_414_647_808, "pythia-2.8b": 2_775_208_960, "smollm2-360m-instruct": 361_821_120}
STATED |= {"smollm2-1.7b-instruct": 1_711_376_384, "qwen2.5-0.5b": 494_032_768}


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


@pytest.mark.parametrize(("name", "bytes_", "each"), [(n, *f) for n, f in FILES.items()], ids=FILES)
def test_counts_agree_with_published_files(name, bytes_, each):
    held = (catalog.llm if name in catalog.entries("llm") else catalog.vision)(name).parameters
    if name.startswith("qwen3"):
        held += catalog.llm(name).vocabulary * catalog.llm(name).hidden
    assert 0 <= bytes_ - held * each < 100_000


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
