"""What an assignment makes: the variant's stages, its name and choice, and the combinations that make no model."""

from __future__ import annotations

from typing import Any

import pytest

from remora.errors import SpecError, UnknownName
from remora.runs import (
    path,
    pruned,
    read_space,
    read_variant,
    read_variants,
    resolve_stages,
    survey,
    variant_at,
    variant_name,
    variants_of,
)
from remora.spec import Space, Variant

PARTS = {"vision": "efficientnet-lite0", "connector": "mlp2x_gelu", "llm": "demo-2m"}
CHAMPION = {"benchmark": "easy-vqa-val"}


def space(**more: Any) -> Space:
    lists = {k: [v] for k, v in PARTS.items()}
    return Space.model_validate({"name": "s", **lists, "recipe": ["base"], "champion": CHAMPION, **more})


def stages(variant: Variant) -> dict[str, Any]:
    return {s.name: s for s in resolve_stages(variant)}


def test_axes_set_keys_of_stages_and_name_the_variant():
    axes = {"finetune.lr": [1e-4, 3e-5], "align.batch": [64], "finetune.tune.llm.lr": [1e-6], "aspect": ["pad"]}
    first, _, third, _ = variants_of(space(axes=axes, seeds=2))
    assert variant_name(first) == "base-Eff-2M-mlp-finetune.lr=1e-4-batch=64-llm.lr=1e-6-aspect=pad-s0"
    assert variant_name(third).endswith("-finetune.lr=3e-5-batch=64-llm.lr=1e-6-aspect=pad-s0")
    assert third.choice == {
        **{"finetune.lr": 3e-5, "align.batch": 64, "finetune.tune.llm.lr": 1e-6, "aspect": "pad"},
        "seed": 0,
    }
    found = stages(third)
    assert (found["align"].batch, found["finetune"].batch, found["finetune"].lr) == (64, 128, 3e-5)
    assert found["finetune"].tune.llm.lr == 1e-6 and found["finetune"].tune.llm.mode == "full"
    assert found["align"].aspect == found["finetune"].aspect == "pad"
    assert found["language"].aspect == "square"  # the language model's own stage is not the recipe's
    assert third.seed == 0 and variants_of(space(seeds=[4]))[0].seed == 4


def test_recipe_overrides_cases_and_axes_lie_on_each_other():
    found = variants_of(
        space(
            recipe=["base", "share"],
            overrides={"align": {"lr": 1.0, "steps": 5, "tune": {"vision": {"last": 2}}}},
            cases=[
                {"when": {"recipe": "share"}, "overrides": {"align": {"lr": 2.0, "epochs": 1}}},
                {"when": {"align.batch": 8}, "overrides": {"align": {"lr": 3.0, "tune": {"llm": {"last": 1}}}}},
            ],
            axes={"align.batch": [4, 8], "align.eps": [1e-7]},
        )
    )
    got = [(s.lr, s.steps, s.epochs, s.batch, s.eps) for v in found for s in [stages(v)["align"]]]
    assert got == [(1.0, 5, None, 4, 1e-7), (3.0, 5, None, 8, 1e-7), (2.0, None, 1, 4, 1e-7), (3.0, None, 1, 8, 1e-7)]
    both = stages(found[1])["align"].tune
    assert (both.vision.blocks, both.llm.blocks) == (2, 1)


def test_a_mixtures_entry_is_named_by_its_dataset():
    mixture = [{"dataset": "demo-captions", "weight": 0.5}, {"dataset": "demo-finetune"}]
    axes = {"finetune.mixture.demo-captions.weight": [0.25, 1, 0]}
    found = variants_of(space(overrides={"finetune": {"mixture": mixture}}, axes=axes))
    got = [[(e.dataset, e.weight) for e in stages(v)["finetune"].mixture] for v in found]
    rest = ("demo-finetune", 1)
    assert got == [[("demo-captions", 0.25), rest], [("demo-captions", 1), rest], [rest]]
    assert [variant_name(v).rpartition("-")[2] for v in found] == ["weight=0.25", "weight=1", "weight=0"]
    with pytest.raises(SpecError, match="no dataset 'demo-caption' in the mixture; did you mean 'demo-captions'"):
        variants_of(space(overrides={"align": {"mixture": mixture}}, axes={"align.mixture.demo-caption.cap": [1]}))


def test_one_value_may_set_several_keys_and_tunings_are_written_as_in_a_recipe():
    data = {"a": {"align.mixture": ["demo-finetune"], "finetune.lr": 1.0}, "b": {"finetune.tune.vision.last": 3}}
    one, other = variants_of(space(axes={"data": data}))
    assert [variant_name(v) for v in (one, other)] == ["base-Eff-2M-mlp-data=a", "base-Eff-2M-mlp-data=b"]
    assert one.choice == {"data": "a"}
    assert stages(one)["align"].mixture[0].dataset == "demo-finetune" and stages(one)["finetune"].lr == 1.0
    assert stages(other)["finetune"].tune.vision.blocks == 3
    rank = space(recipe=["llava-1.5-lora"], axes={"finetune.tune.llm.lora.r": [8, 16]})
    assert [stages(v)["finetune"].tune.llm.lora.r for v in map(lambda a: variant_at(rank, a), rank.grid())] == [8, 16]


def test_what_is_written_as_the_recipe_has_it_is_the_same_stage_run(catalog_data):
    mixtures = {"align": {"mixture": ["demo-captions"]}, "finetune": {"mixture": ["demo-captions"]}}
    plain = variants_of(space(overrides=mixtures))[0]
    axes = {"finetune.lr": [2e-5], "finetune.tune.vision": ["frozen"], "align.batch": [256]}
    chosen = variants_of(space(overrides=mixtures, axes=axes))[0]
    assert variant_name(chosen) != variant_name(plain)
    assert [r.id for r in path(chosen, catalog_data)] == [r.id for r in path(plain, catalog_data)]


def test_an_assignment_may_be_of_labels_and_lacks_nothing():
    drawn = space(
        axes={
            "finetune.lr": {"low": 1e-5, "high": 1e-3},
            "align.mixture": {"a": ["demo-captions"], "b": ["demo-finetune"]},
        },
        sampler={"kind": "random", "trials": 3},
        exclude=[{"align.mixture": "a"}],
    )
    whole = {"recipe": "base", **PARTS, "finetune.lr": 1.23456e-4, "align.mixture": "b"}
    assert variant_at(drawn, whole).choice == {"finetune.lr": 1.235e-4, "align.mixture": "b"}
    with pytest.raises(SpecError, match=r"leaves it out \(exclude: align.mixture a\)"):
        variant_at(drawn, whole | {"align.mixture": ["demo-captions"]})
    with pytest.raises(SpecError, match=r"no variant of space s: 0.1 is no number from 1e-5 to 1e-3"):
        variant_at(drawn, whole | {"finetune.lr": 0.1})
    with pytest.raises(SpecError, match=r"has no value for finetune.lr"):
        variant_at(drawn, {k: v for k, v in whole.items() if k != "finetune.lr"})
    with pytest.raises(SpecError, match="a grid has no end"):
        variants_of(drawn)
    assert len(survey(drawn).variants) == 2  # both ends


def test_what_makes_no_model_is_pruned_with_its_reason():
    found = space(
        connector=["mlp2x_gelu", "ldp"], axes={"finetune.tune.vision": ["frozen", {"last": 16}, {"last": 17}]}
    )
    assert [variant_name(v) for v in variants_of(found)] == [
        "base-Eff-2M-mlp-vision=frozen",
        "base-Eff-2M-mlp-vision=last16",
    ]
    reasons = dict(pruned(found))
    assert len(reasons) == 4
    assert reasons["base-Eff-2M-mlp-vision=last17"].startswith("stage 'finetune': tune.vision: {last: 17} leaves")
    assert reasons["base-Eff-2M-ldp-vision=frozen"].startswith("ldp makes one of 2 x 2 tokens, and 9 are 3 x 3")
    with pytest.raises(SpecError, match=r"^ldp makes one of .* \(and 2 more variants make no model\)$"):
        variants_of(space(connector=["ldp"], axes={"align.lr": [1, 2, 3]}))
    with pytest.raises(UnknownName, match="unknown connector 'mlp2x'"):
        pruned(space(connector=["mlp2x", "linear"]))
    with pytest.raises(UnknownName, match="unknown template 'v1'"):
        pruned(space(axes={"align.template": ["v1", "brief"]}))


def test_values_that_fit_with_some_others_are_pruned_and_those_that_never_fit_are_mistakes():
    freeze = {f"align.tune.{part}": ["frozen", "full"] for part in ("vision", "connector", "llm")}
    assert [name for name, _ in pruned(space(axes=freeze))] == [
        "base-Eff-2M-mlp-vision=frozen-connector=frozen-llm=frozen"
    ]
    assert len(variants_of(space(axes=freeze))) == 7
    with pytest.raises(SpecError, match=r"^axes: align.lr=-1: align: lr: must be above 0 \(found -1\)$"):
        variants_of(space(axes={"align.lr": [1, -1]}))


def test_a_published_model_is_a_spec_by_its_name():
    found = read_variant("Bunny-phi-1.5-eva")
    assert variant_name(found) == "Bunny-phi-1.5-eva" and stages(found)["align"].lr == 1e-3
    assert read_variants("Bunny-phi-1.5-eva") == [found]
    assert [variant_name(v) for v in read_variants("Bunny-v1.0-4B")] == ["Bunny-v1.0-4B", "Bunny-v1.0-4B-1"]
    with pytest.raises(SpecError, match=r"is an average of 2 models.* next: remora render Bunny-v1.0-4B$"):
        read_variant("Bunny-v1.0-4B")
    with pytest.raises(SpecError, match=r"Bunny-v9: cannot read"):
        read_variants("Bunny-v9")


HEAD = "name: s\nvision: [efficientnet-lite0]\nconnector: [linear]\nllm: [demo-2m]\nrecipe: [base, share]\n"
HEAD += "champion: {benchmark: easy-vqa-val}\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "axes:\n  pretrain.lr: [1]",
            "spec.yaml:8: axes: pretrain.lr: recipe 'base' has no stage 'pretrain' (it has align, finetune); say for",
        ),
        ("axes:\n  align.lr: [0]", "spec.yaml:8: axes: align.lr=0: align: lr: must be above 0"),
        ("axes:\n  align.tune.llm: [none]", "spec.yaml:8: axes: align.tune.llm=none: align: tune.llm.mode: must be"),
        ("cases:\n- when: {recipe: base}\n  overrides: {aling: {lr: 1}}", "spec.yaml:9: overrides: no stage 'aling'"),
        (
            "cases:\n- when: {recipe: share}\n  overrides:\n    align: {lrr: 1}",
            "spec.yaml:10: unknown key 'cases.0.overrides.align.lrr'; did you mean 'lr'?",
        ),
        ("only: [{recipe: base}]\nexclude: [{recipe: base}]", "space s has no variant: only and exclude leave none"),
        (
            "axes: {data: {" + "x" * 40 + ": {}}, more: {" + "y" * 40 + ": {}}}",
            "variant name base-Eff-2M-lin-data=" + "x" * 40 + "-more=" + "y" * 40 + " has more than 100 bytes",
        ),
    ],
)
def test_a_mistake_has_its_line(more, message, tmp_path):
    (tmp_path / "spec.yaml").write_text(HEAD + more)
    for read in (read_space, read_variants):
        with pytest.raises(SpecError) as caught:
            read(tmp_path / "spec.yaml")
        found = str(caught.value).replace(f"{tmp_path}/", "")
        assert found.startswith(message) and "\n" not in found
