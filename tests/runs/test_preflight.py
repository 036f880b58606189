"""Checks before a run: errors and notes in one line with the stage's name."""

from __future__ import annotations

import json

import pytest
import yaml
from PIL import Image

from remora import catalog
from remora.errors import DataError, SpecError
from remora.runs import Store, check_stages, graph, preflight, resolve_stages
from remora.runs.tuning_check import ROTARY
from remora.spec import Lora, MixtureEntry, Stage, Variant

PARTS = {"vision": "efficientnet-lite0", "connector": "mlp2x_gelu", "llm": "demo-2m", "recipe": "base"}


@pytest.fixture(autouse=True)
def no_weights_are_read(monkeypatch):
    monkeypatch.setattr(graph, "source_digest", lambda part, name: f"{part}/{name}")


def records(folder, count, answer="a cat", pictures=True, broken=0):
    """A JSON of `count` records; the first `broken` of them have an empty answer."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, 20, 20)).save(folder / "a.png")
    made = []
    for i in range(count):
        said = "" if i < broken else answer
        turns = [{"from": "human", "value": "<image>\nWhat?" * pictures or "What?"}, {"from": "gpt", "value": said}]
        made.append({"id": f"r{i}", "conversations": turns} | ({"image": "a.png"} if pictures else {}))
    (folder / "records.json").write_text(json.dumps(made))
    return {"path": str(folder / "records.json")}


@pytest.fixture
def spec(tmp_path):
    """Overrides that give each stage 40 suitable records and enough steps; `more` changes one stage."""
    words, shown = records(tmp_path / "words", 40, pictures=False), records(tmp_path / "shown", 40)

    def make(stage="align", parts=None, **more):
        each = {
            "language": {"mixture": [words]},
            "align": {"mixture": [shown], "template": "brief", "batch": 4},
            "finetune": {"mixture": [shown], "batch": 4},
        }
        if parts and parts.get("llm", "demo-2m") != "demo-2m":
            del each["language"]
        each[stage] |= more
        return Variant.model_validate({**PARTS, **(parts or {}), "overrides": each})

    return make


def look(variant, tmp_path):
    return preflight([variant], Store(tmp_path / "runs"))


def test_what_is_well_has_its_steps_and_nothing_to_say(spec, tmp_path):
    known = look(spec(), tmp_path)
    (lineage,) = known.paths.values()
    assert [known.lengths[r.id] for r in lineage] == [(2, 60), (10, 40), (10, 40)]
    assert known.notes == ()


@pytest.mark.parametrize(
    ("stage", "more", "why"),
    [
        ("align", {"epochs": 0.01}, "stage 'align' has no step: epochs 0.01 of 40 samples are less than half a sample"),
        ("align", {"batch": 256}, "stage 'align' has 1 step, and the rate of every one is 0"),
        ("finetune", {"epochs": 0.05}, "stage 'finetune' has 1 step, and the rate of every one is 0"),
        ("finetune", {"epochs": 1e6, "mixture": [{"dataset": "x", "weight": 1e6}]}, "unknown dataset 'x'"),
        ("align", {"template": "tokenizer"}, "stage 'align': template 'tokenizer' does not fit llm 'demo-2m'"),
        ("align", {"max_length": 9}, "stage 'align': a picture becomes 9 embeddings, and max_length 9 leaves no room"),
        (
            "finetune",
            {"tune": {"llm": {"lora": {"targets": ["qproj"]}}}},
            "'qproj' is not a linear layer; did you mean",
        ),
        (
            "finetune",
            {"tune": {"llm": {"lora": {"targets": ["lm_head"]}}}},
            "'lm_head' is not a linear layer; llm has",
        ),
        ("finetune", {"tune": {"vision": "lora"}}, "tune.vision: lora adapts linear layers, and this vision has none"),
        ("finetune", {"tune": {"llm": {"last": 5}}}, "stage 'finetune': tune.llm: {last: 5} leaves nothing"),
    ],
)
def test_what_would_stop_a_later_stage_is_refused_before_the_first(spec, tmp_path, stage, more, why):
    with pytest.raises((SpecError, DataError)) as caught:
        look(spec(stage, **more), tmp_path)
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_a_text_only_stage_with_pictures_and_a_stage_of_pictures_without_any(spec, tmp_path):
    words, shown = records(tmp_path / "w", 9, pictures=False), records(tmp_path / "s", 9)
    with pytest.raises(SpecError, match=r"'language' reads only text .* record 0 of .* shows a picture"):
        look(spec("language", mixture=[words, shown]), tmp_path)
    with pytest.raises(SpecError, match=r"stage 'align' trains connector, which learn only from pictures"):
        look(spec("align", mixture=[words]), tmp_path)
    (note,) = look(spec("finetune", mixture=[words]), tmp_path).notes
    assert note.startswith("stage 'finetune': no record of ") and note.endswith("trains only the language model")


def test_an_entry_whose_records_are_all_skipped_is_named(spec, tmp_path):
    gone = records(tmp_path / "gone", 5, broken=5) | {"skip": ["empty-answer"], "max_skipped": 1}
    with pytest.raises(DataError, match=r"gone/records.json: no sample is left to read"):
        look(spec("finetune", mixture=[gone], steps=4), tmp_path)


def test_a_rate_that_never_comes_to_its_peak_is_said(spec, tmp_path):
    (note,) = look(spec("align", warmup=0.95), tmp_path).notes
    assert note.startswith("stage 'align' has 10 steps and warms up over 10, so its rate never comes above 90% of")


def tokenizer_of_its_own(tmp_path, monkeypatch, chat=False):
    """An own language model in a local folder, with a tokenizer; the catalog entry's name is `own`."""
    from remora.model.llm import create_from_scratch

    demo = catalog.llm("demo-2m")
    small = demo.config | {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
    small |= {"num_key_value_heads": 2, "intermediate_size": 32}
    create_from_scratch(
        demo.model_copy(update={"config": small}), ["USER: What? ASSISTANT: a cat"] * 4, 0, tmp_path / "m"
    )
    if chat:
        said = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
        template = "{% for m in messages %}{{ m.role }} {{ m.content }}</s>{% endfor %}"
        (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(said | {"chat_template": template}))
    entry = {"short": "Own", "loader": "transformers", "hub": str(tmp_path / "m"), "config": small, "parameters": 1}
    entry |= {"licence": "none", "source": "a test"}
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "llm.yaml").write_text(yaml.safe_dump({"own": entry}))
    monkeypatch.setenv(catalog.OWN, str(tmp_path / "catalog"))
    return {"llm": "own"}


def test_a_template_that_the_tokenizer_does_not_have_is_refused_before_any_data_is_read(tmp_path, monkeypatch):
    parts = tokenizer_of_its_own(tmp_path, monkeypatch)
    variant = Variant.model_validate(PARTS | parts | {"overrides": {"finetune": {"template": "tokenizer"}}})
    with pytest.raises(SpecError, match=r"stage 'finetune': template 'tokenizer' .* llm 'own' \(.*/m\) has none; set"):
        check_stages(variant, resolve_stages(variant))
    with pytest.raises(DataError, match="next:"):  # it fits, so that its data is looked for
        chatty = Variant.model_validate(PARTS | parts)
        preflight([chatty], Store(tmp_path / "runs"))


def test_samples_that_are_too_long_are_counted_and_refused_before_step_one(spec, tmp_path, monkeypatch):
    parts = tokenizer_of_its_own(tmp_path, monkeypatch)
    long = records(tmp_path / "long", 10, answer="a cat " * 40)
    fine = records(tmp_path / "fine", 30)
    both = {"mixture": [fine, long], "max_length": 64, "template": "brief"}
    with pytest.raises(DataError) as caught:
        look(spec("finetune", parts, **both), tmp_path)
    said = str(caught.value)
    assert (
        "long/records.json: 10 over-length-first of 10 samples, more than max_skipped 0.01 allows; the first is" in said
    )
    assert said.startswith("stage 'finetune': ") and "sample 'r0': its first question and answer have" in said
    both["mixture"] = [fine, long | {"max_skipped": 1}]
    (note,) = look(spec("finetune", parts, **both), tmp_path).notes
    assert "long/records.json: 10 over-length-first dropped, of 10 samples; the longest has " in note


def test_adapters_are_found_by_the_end_of_a_name_and_by_pefts_word():
    assert Lora.model_validate({"targets": "all-linear"}) == Lora() == Lora.model_validate({"targets": ["all-linear"]})
    model = Variant.model_validate(PARTS | {"overrides": {"finetune": {"tune": {"llm": {"lora": {"targets": ["x"]}}}}}})
    for targets, fits in ((["self_attn.q_proj", "up_proj"], True), (["attn.q_proj"], False), ("all-linear", True)):
        tune = {"finetune": {"tune": {"llm": {"lora": {"targets": targets}}}}}
        variant = model.model_copy(update={"overrides": tune})
        if fits:
            check_stages(variant, resolve_stages(variant))
        else:
            with pytest.raises(SpecError, match=r"stage 'finetune': tune.llm: lora target 'attn.q_proj' is not a"):
                check_stages(variant, resolve_stages(variant))


def test_an_own_config_that_makes_no_model_is_one_line(tmp_path, monkeypatch):
    parts = tokenizer_of_its_own(tmp_path, monkeypatch)
    file = tmp_path / "catalog" / "llm.yaml"
    file.write_text(file.read_text().replace("model_type: llama", "model_type: lama"))
    catalog._entries.cache_clear()
    variant = Variant.model_validate(PARTS | parts | {"overrides": {"finetune": {"tune": {"llm": "lora"}}}})
    with pytest.raises(SpecError, match="llm Own: cannot build its config") as caught:
        check_stages(variant, resolve_stages(variant))
    assert "\n" not in str(caught.value)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "name", sorted({json.dumps(m.config["model_type"]): n for n, m in catalog.shipped("llm").items()}.values())
)
def test_every_shipped_family_has_linear_layers_for_adapters(name):
    from remora.model.lora import linear_layers
    from remora.model.parts import sketch

    model = sketch(catalog.vision("efficientnet-lite0"), catalog.connector("mlp2x_gelu"), catalog.llm(name))
    assert len(linear_layers(model.llm)) > 3


def test_a_stage_reads_what_acts_of_its_length():
    stage = Stage(name="s", mixture=(MixtureEntry(dataset="x"),), steps=1, lr=1, max_length=3072)
    assert [stage.length(n) for n in (None, 2048, 4096)] == [3072, 2048, 3072]
    assert [stage.whole(n) for n in (None, 2048, 4096)] == [3072, 2048, 3072]
    beside = stage.model_copy(update={"count_pictures": False})
    assert [beside.whole(n) for n in (None, 2048, 4096)] == [None, 2048, 4096]
    assert beside.model_copy(update={"past_context": True}).whole(2048) is None


LEARNED = {"model_type": "gpt2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 340}


def test_only_rotary_positions_may_be_passed(tmp_path, monkeypatch, spec):
    entry = catalog.llm("demo-2m").model_dump(mode="json", exclude_none=True)
    entry |= {"short": "Own", "config": LEARNED | {"max_position_embeddings": 128}}
    (tmp_path / "llm.yaml").write_text(yaml.safe_dump({"own": entry}))
    monkeypatch.setenv("REMORA_CATALOG", str(tmp_path))
    catalog._entries.cache_clear()
    more = {"count_pictures": False, "past_context": True}
    with pytest.raises(SpecError, match=r"'finetune': past_context: true needs .* and gpt2 is not known") as caught:
        variant = spec("finetune", {"llm": "own"}, **more)
        check_stages(variant, resolve_stages(variant))
    assert "\n" not in str(caught.value) and "overrides: {finetune: {past_context: false}}" in str(caught.value)
    for parts, said in (({"llm": "own"}, more | {"past_context": False}), ({}, more)):
        variant = spec("finetune", parts, **said)
        check_stages(variant, resolve_stages(variant))
    with pytest.raises(SpecError, match="past_context: true is for stages with count_pictures: false"):
        resolve_stages(spec("finetune", past_context=True))


def test_the_rotary_models_are_those_of_the_catalog_and_of_transformers():
    from transformers import AutoConfig

    assert {m.config["model_type"] for m in catalog.shipped("llm").values()} <= ROTARY
    for kind in ROTARY:
        assert hasattr(AutoConfig.for_model(kind), "rope_parameters"), kind
    assert not hasattr(AutoConfig.for_model("gpt2"), "rope_parameters")


def test_what_a_stage_is_validated_by_is_looked_at_before_it_runs(spec, tmp_path):
    other = records(tmp_path / "other", 3, answer="a dog")
    beside = {"mixture": [other, records(tmp_path / "same", 5)]}
    known = look(spec(validate=beside), tmp_path)
    (said,) = known.notes
    assert said.startswith("stage 'align': 5 samples of validate.mixture are left out of it, because the stage trains")
    assert said.endswith("on them as well; held out are 1")
    (lineage,) = known.paths.values()
    assert [known.lengths[r.id] for r in lineage] == [(2, 60), (10, 40), (10, 40)]
    refused = {
        "stage 'align': validate.share 1e-09 holds out none of 40 samples; raise it": spec(validate={"share": 1e-9}),
        "stage 'language' reads only text": spec("language", validate={"mixture": [other]}),
        "cannot be asked validate.benchmark 'easy-vqa'": spec(
            "language", validate={"share": 0.5, "benchmark": {"name": "easy-vqa"}}
        ),
        "unknown benchmark 'easy-vqq'": spec(validate={"share": 0.5, "benchmark": {"name": "easy-vqq"}}),
    }
    for message, variant in refused.items():
        with pytest.raises(SpecError) as caught:
            look(variant, tmp_path)
        assert message in str(caught.value) and "\n" not in str(caught.value)
