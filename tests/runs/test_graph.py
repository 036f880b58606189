"""Identity: equal work has equal names, and everything that decides a result changes them."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from PIL import Image

from remora import catalog
from remora.errors import DataError, SpecError, UnknownName
from remora.model import refs
from remora.planning import plan_of
from remora.runs import (
    Store,
    graph,
    path,
    read_space,
    read_variant,
    read_variants,
    resolve_stages,
    union,
    variant_name,
    variants_of,
)
from remora.spec import Space, Variant

PARTS = {"vision": "efficientnet-lite0", "connector": "mlp2x_gelu", "llm": "demo-2m"}


def variant(recipe="base", **more) -> Variant:
    return Variant.model_validate({**PARTS, "recipe": recipe, **more})


def ids(variant: Variant, data) -> list[str]:
    return [run.id for run in path(variant, data)]


def changed(one: list[str], other: list[str]) -> list[bool]:
    return [a != b for a, b in zip(one, other, strict=True)]


@pytest.fixture(autouse=True)
def weights_digest_once(monkeypatch):
    """Without it, these tests would spend their time reading 13 MB of weights for every stage."""
    known = {}

    def source_digest(part, name):
        return known.setdefault((part, name), f"{part}/{name}")

    monkeypatch.setattr(graph, "source_digest", source_digest)


def test_equal_specs_have_equal_identities(catalog_data):
    runs = path(variant(), catalog_data)
    assert [r.stage.name for r in runs] == ["language", "align", "finetune"]
    assert ids(variant(), catalog_data) == [r.id for r in runs]
    assert len({r.id for r in runs}) == 3
    assert [r.parent for r in runs] == [None, *runs[:2]]
    assert runs[2].lineage == runs
    assert re.fullmatch(r"finetune-[0-9a-f]{12}", runs[2].name)
    assert dict(runs[0].parts) == {"llm": "demo-2m"} and dict(runs[1].parts) == PARTS


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"seed": 1}, [True, True, True]),
        ({"overrides": {"align": {"lr": 2e-3}}}, [False, True, True]),
        ({"overrides": {"finetune": {"lr": 2e-3}}}, [False, False, True]),
        ({"overrides": {"finetune": {"template": "brief"}}}, [False, False, True]),
        ({"overrides": {"align": {"batch": 8}}}, [False, True, True]),
        ({"overrides": {"language": {"epochs": 2}}}, [True, True, True]),
        ({"overrides": {"align": {"tune": {"vision": {"last": 2}}}}}, [False, True, True]),
        ({"overrides": {"align": {"mixture": [{"dataset": "llava-mix-665k", "cap": 2}]}}}, [False, True, True]),
        ({"overrides": {"align": {"lr": 1e-3, "epochs": 1}}}, [False, False, False]),  # what it is anyway
        ({"overrides": {"align": {"validate": {"mixture": ["llava-mix-665k"], "every": 7}}}}, [False, False, False]),
        ({"overrides": {"align": {"validate": {"share": 0.5}}}}, [False, True, True]),
        ({"connector": "linear"}, [False, True, True]),
        ({"cluster": {"workers": 4, "zero": 3, "micro_batch": 2, "rows": "padded"}}, [False, False, False]),
        ({"name": "mine", "benchmarks": ["easy-vqa"]}, [False, False, False]),
    ],
    ids=str,
)
def test_what_decides_the_result_decides_the_identity_from_there_on(more, expected, catalog_data):
    assert changed(ids(variant(), catalog_data), ids(variant(**more), catalog_data)) == expected


def test_of_a_share_that_is_held_out_nothing_but_the_share_decides(catalog_data):
    def of(**said):
        return ids(variant(overrides={"align": {"validate": said}}), catalog_data)

    benchmark = {"name": "easy-vqa", "limit": 3}
    assert of(share=0.25) == of(share=0.25, every=3, limit=1, benchmark=benchmark)
    assert of(share=0.25) != of(share=0.5)
    whole = {"recipe": "base", **PARTS}
    assert ids(Variant.model_validate(whole), catalog_data) == of(mixture=["demo-captions"], every=1, limit=7)


def test_an_override_changes_how_a_stage_is_validated_key_by_key(tmp_path):
    recipe = tmp_path / "own.yaml"
    stage = {"name": "align", "mixture": ["demo-captions"], "lr": 1e-3, "epochs": 1, "validate": {"share": 0.1}}
    recipe.write_text(json.dumps({"name": "own", "stages": [stage]}))

    def said(changes):
        resolved = resolve_stages(variant(str(recipe), overrides={"align": {"validate": changes}}))[-1]
        return resolved.validation and resolved.validation.model_dump(exclude_defaults=True)

    assert said({"every": 5}) == {"share": 0.1, "every": 5}
    assert said({"mixture": ["llava-mix-665k"]})["mixture"][0]["dataset"] == "llava-mix-665k"
    assert said({"mixture": ["demo-finetune"], "limit": 9}).keys() == {"mixture", "limit"}
    assert said(None) is None
    with pytest.raises(SpecError, match=r"unknown key 'validate.shar'; did you mean 'share'"):
        said({"shar": 0.1})


def permuted(value):
    """The same mappings, written the other way round at every depth."""
    if isinstance(value, dict):
        return {k: permuted(v) for k, v in reversed(value.items())}
    return [permuted(v) for v in value] if isinstance(value, list) else value


def test_the_order_of_keys_in_a_spec_decides_nothing(catalog_data):
    spec = {
        **PARTS,
        "recipe": "share",
        "cluster": {"workers": 2, "precision": "bf16"},
        "overrides": {
            "align": {"lr": 1e-4, "mixture": [{"dataset": "llava-pretrain-558k", "cap": 3, "weight": 2}]},
            "finetune": {"tune": {"llm": {"lora": {"r": 8, "alpha": 4}, "lr": 1e-3}, "vision": {"last": 1}}},
        },
    }
    other = permuted(spec)
    assert [*other] != [*spec] and [*other["overrides"]["align"]] != [*spec["overrides"]["align"]]
    assert ids(Variant.model_validate(other), catalog_data) == ids(Variant.model_validate(spec), catalog_data)


@pytest.mark.parametrize("part", ["vision", "connector", "llm"])
def test_the_order_of_keys_in_an_own_entry_decides_nothing(part, tmp_path, monkeypatch):
    kind, name = {"vision": ("vision", "clip-l-336"), "connector": ("connectors", "resampler")}.get(
        part, ("llm", "qwen3-0.6b")
    )
    entry = catalog.entries(kind)[name].model_dump(mode="json", exclude_none=True) | {"short": "Own"}
    nested = {"rope_scaling": {"type": "linear", "factor": 2.0, "more": {"a": 1, "b": [{"c": 2, "d": 3}]}}}
    if "config" in entry:
        entry["config"] |= nested
    digests = set()
    for i, written in enumerate((entry, permuted(entry))):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump({"own": written}, sort_keys=False))
        monkeypatch.setenv(catalog.OWN, str(folder))
        digests.add(refs.source_digest(part, "own"))
    assert len(digests) == 1


def test_data_decides_by_its_bytes_not_by_its_place(catalog_data, tmp_path_factory):
    before = ids(variant(), catalog_data)
    elsewhere = catalog_data.rename(tmp_path_factory.mktemp("moved") / "data")
    assert ids(variant(), elsewhere) == before

    file = elsewhere / catalog.dataset("llava-pretrain-558k").path
    records = json.loads(file.read_text())
    records[1]["conversations"][1]["value"] = "Thing 1"
    file.write_text(json.dumps(records))
    assert changed(before, ids(variant(), elsewhere)) == [False, True, True]


def test_a_pixel_decides_too(catalog_data):
    before = ids(variant(), catalog_data)
    picture = next((catalog_data / catalog.dataset("llava-mix-665k").images).glob("1.png"))
    Image.new("RGB", (8, 6), (20, 100, 51)).save(picture)
    assert changed(before, ids(variant(), catalog_data)) == [False, False, True]


def test_a_template_and_numerics_decide(catalog_data, monkeypatch):
    before = ids(variant(), catalog_data)
    plain = catalog.template("plain")
    with monkeypatch.context() as patched:
        other = {"plain": plain.model_copy(update={"assistant": "{text}"})}
        patched.setattr(catalog, "template", lambda n: other.get(n) or catalog.entries("templates")[n])
        assert changed(before, ids(variant(), catalog_data)) == [False, True, True]
    monkeypatch.setattr(graph, "NUMERICS", graph.NUMERICS + 1)
    assert changed(before, ids(variant(), catalog_data)) == [True, True, True]


def test_recipes_share_what_they_have_in_common(catalog_data):
    same = {"finetune": {"mixture": ["llava-mix-665k"]}}  # share's own is ShareGPT4V's
    base, share = path(variant("base"), catalog_data), path(variant("share", overrides=same), catalog_data)
    assert base[:2] == share[:2]
    assert base[2].stage == share[3].stage and base[2].id != share[3].id  # the parent differs
    runs = list(union([share, base]).values())
    assert len(runs) == 5
    assert all(run.parent is None or runs.index(run.parent) < i for i, run in enumerate(runs))


def test_a_plan_counts_what_sharing_saves(catalog_data):
    store = Store(catalog_data / "runs")
    store.data = catalog_data
    only = {"warmup": 0}  # one step is all there is
    once = {"overrides": {"language": {"epochs": 1} | only, "align": only, "finetune": only}}
    longer = {"overrides": once["overrides"] | {"pretrain": only}}
    plan = plan_of([variant("base", **once), variant("share", **longer)], store)
    assert (plan.distinct, plan.uses, plan.to_train) == (5, 7, 5)
    assert (plan.samples, plan.samples_without_sharing) == (5 * 3, 7 * 3)
    assert plan.rows[0].variants == ("base-Eff-2M-mlp", "share-Eff-2M-mlp")
    assert all(row.steps == 1 and not row.finished for row in plan.rows)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (variant(), "base-Eff-2M-mlp"),
        (variant("share", connector="resampler", llm="smollm2-135m"), "share-Eff-SmolLM2-res"),
        (variant("recipes/mine.yaml", connector="linear"), "mine-Eff-2M-lin"),
        (variant("recipes/mine.v1.yaml", connector="linear"), "mine.v1-Eff-2M-lin"),
        (variant("llava-1.5"), "llava-1.5-Eff-2M-mlp"),
        (variant("llava-1.5-lora"), "llava-1.5-lora-Eff-2M-mlp"),
        (variant(name="the-one"), "the-one"),
    ],
)
def test_variants_are_named_as_the_papers_name_them(spec, name):
    assert variant_name(spec) == name


def test_a_pretrained_model_has_no_stage_of_its_own():
    assert [s.name for s in resolve_stages(variant(llm="smollm2-135m"))] == ["align", "finetune"]


def test_overrides_are_merged_key_by_key():
    stages = resolve_stages(
        variant(overrides={"align": {"lr": 1e-4}, "finetune": {"steps": 5, "tune": {"vision": {"from": 2}}}})
    )
    _, align, finetune = stages
    assert align.lr == 1e-4 and align.epochs == 1 and align.batch == 256
    assert (finetune.steps, finetune.epochs) == (5, None)
    tune = finetune.tune
    assert (tune.vision.mode, tune.vision.blocks, tune.llm.mode) == ("from", 2, "full")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"algn": {}}, "overrides: no stage 'algn'; did you mean 'align'?; there are: language, align, finetune"),
        ({"align": {"lrr": 1}}, "overrides: align: unknown key 'lrr'; did you mean 'lr'? (known: name, mixture"),
        ({"align": {"lr": -1}}, "overrides: align: lr: must be above 0 (found -1)"),
        ({"align": {"steps": 1, "epochs": 1}}, "overrides: align: give either epochs or steps"),
        ({"align": {"tune": "full"}}, "overrides: align: tune: must be keys with values (found 'full')"),
        ({"align": {"tune": {"lm": "full"}}}, "overrides: align: unknown key 'tune.lm'; did you mean 'llm'?"),
        ({"align": {"tune": {"connector": "frozen"}}}, "overrides: align: tune: nothing trains"),
        ({"align": {"mixture": []}}, "overrides: align: mixture: has 0 items, and must have 1 or more"),
    ],
    ids=str,
)
def test_an_override_that_breaks_a_rule_names_its_stage_and_key(overrides, message):
    with pytest.raises(SpecError) as caught:
        resolve_stages(variant(overrides=overrides))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def space(**more) -> Space:
    lists = {k: [v] for k, v in PARTS.items()}
    champion = {"benchmark": "easy-vqa-val"}
    return Space.model_validate({"name": "s", **lists, "recipe": ["base", "share"], "champion": champion, **more})


@pytest.mark.parametrize("kind", ["variant", "space"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lrr: 1", "spec.yaml:8: unknown key 'overrides.align.lrr'; did you mean 'lr'? (known: name, mixture"),
        ("lr: -1", "spec.yaml:8: overrides.align.lr: must be above 0 (found -1)"),
        ("steps: 1, epochs: 1", "spec.yaml:7: overrides.align: give either epochs or steps"),
        ("tune: {llm: {last: x}}", "spec.yaml:8: overrides.align.tune.llm.blocks: must be a whole number (found 'x')"),
        ("tune: {connector: frozen}", "spec.yaml:8: overrides.align.tune: nothing trains"),
        (
            "mixture: []",
            "spec.yaml:8: overrides.align.mixture: has 0 items, and must have 1 or more (fo",
        ),
    ],
)
def test_an_override_that_breaks_a_rule_has_its_line_of_the_file(kind, line, message, tmp_path):
    spec = {k: [v] if kind == "space" else v for k, v in (PARTS | {"recipe": "base"}).items()}
    text = "".join(f"{k}: {v}\n" for k, v in spec.items())
    text += "name: s\n" + ("champion: {benchmark: x}\n" if kind == "space" else "")
    text += "" if kind == "space" else "seed: 1\n"
    (tmp_path / "spec.yaml").write_text(text + f"overrides: {{align: {{\n  {line}}}}}\n")
    reader = {"variant": read_variant, "space": read_space}[kind]
    for read in (reader, read_variants):
        with pytest.raises(SpecError) as caught:
            read(tmp_path / "spec.yaml")
        assert str(caught.value).replace(f"{tmp_path}/", "").startswith(message)
    (tmp_path / "spec.yaml").write_text(text + "overrides: {algn: {lr: 1}}\n")
    with pytest.raises(SpecError, match=r"spec.yaml:7: overrides: no stage 'algn'; did you mean 'align'"):
        reader(tmp_path / "spec.yaml")


def test_a_spaces_overrides_go_to_the_recipes_that_have_the_stage():
    base, share = variants_of(space(overrides={"pretrain": {"lr": 1e-5}, "align": {"lr": 1e-4}}))
    assert base.overrides == {"align": {"lr": 1e-4}} and set(share.overrides) == {"pretrain", "align"}
    with pytest.raises(SpecError, match="no stage 'pretran'; did you mean 'pretrain'"):
        variants_of(space(overrides={"pretran": {}}))


def test_recipes_that_differ_behind_a_dot_are_two_variants():
    names = [variant_name(v) for v in variants_of(space(recipe=["llava-1.5", "llava-1.5-lora"]))]
    assert names == ["llava-1.5-Eff-2M-mlp", "llava-1.5-lora-Eff-2M-mlp"]


def test_no_two_recipes_of_the_catalog_give_one_name():
    assert len({variant_name(variant(r)) for r in catalog.entries("recipes")}) == len(catalog.entries("recipes"))


def test_variants_that_share_a_name_are_refused_by_whoever_reads_the_spec(tmp_path, catalog_data):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text(
            "name: mine\nstages: [{name: s, mixture: [demo-captions], lr: 1e-3, steps: 2}]\n"
        )
    twins = [str(tmp_path / f / "mine.yaml") for f in ("a", "b")]
    said = f"two variants share a name: mine-Eff-2M-mlp: recipe {twins[0]} and {twins[1]}; give them different names"
    with pytest.raises(SpecError, match=re.escape(said)):
        variants_of(space(recipe=twins))
    with pytest.raises(SpecError, match="base-Eff-2M-mlp: one choice is listed twice"):
        variants_of(space(recipe=["base", "base"]))
    named = [variant(name="one", connector=c) for c in ("linear", "mlp2x_gelu")]
    with pytest.raises(SpecError, match="two variants share a name: one: connector linear and mlp2x_gelu"):
        plan_of(named, Store(catalog_data / "runs"))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"vision": "clip"}, "unknown vision encoder 'clip'"),
        ({"connector": "mlp"}, "unknown connector 'mlp'"),
        ({"recipe": "bunny"}, "unknown recipe 'bunny'"),
        ({"benchmarks": ["gqq"]}, "unknown benchmark 'gqq'"),
        ({"overrides": {"align": {"template": "v1"}}}, "unknown template 'v1'"),
        ({"overrides": {"align": {"mixture": ["coco"]}}}, "unknown dataset 'coco'"),
    ],
)
def test_a_name_that_is_not_there_is_found_before_anything_trains(more, why, catalog_data):
    with pytest.raises(UnknownName, match=why):
        path(variant(**more), catalog_data)


def test_so_is_data_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="next: remora data demo"):
        path(variant(), tmp_path)


@pytest.mark.parametrize(
    ("parts", "overrides", "why"),
    [
        ({}, {"pretrain": {"tune": {"vision": {"from": 16}}}}, r"'pretrain': tune.vision: \{from: 16\} leaves nothing"),
        ({}, {"finetune": {"tune": {"llm": {"last": 9}}}}, r"'finetune': tune.llm: \{last: 9\} .* blocks 0 to 3"),
        ({"vision": "clip-l-336"}, {"pretrain": {"tune": {"vision": {"last": 1}}}}, "those after 22 are not read"),
        ({"vision": "clip-l-336"}, {}, "a picture becomes 576 embeddings, which leaves no room .* context of 512"),
        ({"connector": "ldp"}, {}, "ldp makes one of 2 x 2 tokens, and 9 are 3 x 3; these fit: "),
        ({"vision": "clip-l-336", "connector": "identity", "llm": "qwen3-0.6b"}, {}, "has no weights; take a recipe"),
        (
            {"llm": "phi-2"},
            {"align": {"template": "chatml"}},
            "template 'chatml' does not fit llm 'phi-2', which takes",
        ),
    ],
)
def test_parts_and_stages_that_do_not_fit_are_refused_before_any_data_is_read(parts, overrides, why, tmp_path):
    asked = {"vision": "efficientnet-lite0", "connector": "mlp2x_gelu", "llm": "demo-2m", "recipe": "share"}
    if parts.get("vision") and parts.get("connector") is None and overrides:
        parts = {**parts, "llm": "tinyllama-1.1b-chat"}
    with pytest.raises(SpecError, match=why):
        path(Variant(**asked | parts, overrides=overrides), tmp_path)


def test_a_dataset_that_moved_is_the_same_dataset(tiny_data, catalog_data):
    runs = []
    for place in ("here", "there"):
        file = tiny_data(f"{place}/train.json", images=f"{place}/images")
        entry = {"path": str(file), "images": str(file.parent / "images")}
        mixture = {"mixture": [entry], "template": "plain"}
        runs.append(ids(variant(overrides={"align": mixture, "finetune": mixture}), catalog_data))
    assert runs[0] == runs[1]
