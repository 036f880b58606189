"""The JSON schemas against every shipped YAML, and against keys that their readers refuse."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml

from remora.catalog import KINDS
from remora.catalog.schema import CATALOG, FILES, modeline
from remora.commands.schema import schema_for
from remora.errors import SpecError
from remora.spec import Space, Stage, Variant, read_yaml, validate
from remora.spec.kinds import kind_of

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "platform" / "remora"
SPECS = [*ROOT.glob("jobs/*.yaml"), *ROOT.glob("tune/*.yaml"), *PACKAGE.glob("catalog/recipes/*.yaml")]
SPECS += [PACKAGE / "commands" / "demo.yaml", *ROOT.glob("tests/e2e/*.yaml")]
HEAD = {"vision": "clip-l-336", "connector": "linear", "llm": "phi-2", "recipe": "base"}
SPACE = {**{k: [v] for k, v in HEAD.items()}, "name": "s", "champion": {"benchmark": "gqa"}}


@cache
def checker(kind: str) -> jsonschema.Draft202012Validator:
    schema = schema_for(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def accepts(kind: str, content: object) -> bool:
    return checker(kind).is_valid(content)


@pytest.mark.parametrize("file", SPECS, ids=lambda file: file.name)
def test_a_shipped_spec_is_accepted_and_a_wrong_key_is_not(file):
    raw, _ = read_yaml(file)
    kind = kind_of(raw)
    checker(kind).validate(raw)
    assert not accepts(kind, raw | {"lrr": 1})


@pytest.mark.parametrize("kind", CATALOG)
def test_so_is_each_file_of_the_catalog(kind):
    raw, _ = read_yaml(PACKAGE / "catalog" / f"{kind}.yaml")
    checker(f"catalog-{kind}").validate(raw)
    first = next(iter(raw))
    assert not accepts(f"catalog-{kind}", {first: raw[first] | {"lrr": 1}})


@pytest.mark.parametrize("file", [*ROOT.glob("serve/*.yaml")], ids=lambda file: file.name)
def test_so_is_each_serve_config(file):
    raw = yaml.safe_load(file.read_text())
    checker("endpoint").validate(raw)
    raw["applications"][0]["args"]["lrr"] = 1
    assert not accepts("endpoint", raw)


@pytest.mark.parametrize(
    ("overrides", "good"),
    [
        (
            {"finetune": {"tune": {"llm": "lora", "vision": {"last": 6}, "connector": {"mode": "full", "lr": 1e-4}}}},
            True,
        ),
        ({"finetune": {"tune": {"llm": {"lora": {"r": 8, "targets": "all-linear"}, "lr": 1e-4}}}}, True),
        ({"finetune": {"tune": {"llm": {"from": 2, "dropout": False}}}}, True),
        ({"finetune": {"mixture": ["llava-mix-665k", {"path": "a.json", "images": "b"}], "clip": None}}, True),
        ({"finetune": {"validate": {"share": 0.02, "every": 100, "benchmark": {"name": "gqa"}}}}, True),
        ({"finetune": {"lrr": 1}}, False),
        ({"finetune": {"tune": {"llm": "half"}}}, False),
        ({"finetune": {"tune": {"llm": {"lora": {"rank": 8}}}}}, False),
        ({"finetune": {"mixture": [{"path": "a.json", "image": "b"}]}}, False),
        ({"finetune": {"lr": "fast"}}, False),
        ({"finetune": {"batch": 0}}, False),
        ({"finetune": {"lr": True}}, False),
        ({"finetune": {"batch": True}}, False),
        ({"finetune": {"clip": False}}, False),
        ({"finetune": {"betas": [0.9, 0.95], "count_pictures": False}}, True),
        ({"finetune": {"tune": {"llm": {"last": True}}}}, False),
    ],
)
def test_overrides_are_held_to_the_keys_of_a_stage(overrides, good):
    """As the reader judges them, on a stage that has all that it needs."""
    assert accepts("variant", HEAD | {"overrides": overrides}) is good
    whole = {"name": "x", "mixture": ["m"], "lr": 1.0, "steps": 1} | overrides["finetune"]
    try:
        validate(Stage, whole, "it")
        read = True
    except SpecError:
        read = False
    assert read is good


@pytest.mark.parametrize(
    ("more", "good"),
    [
        ({"axes": {"finetune.lr": [1, 2], "data": {"a": {"align.lr": 1.0}, "b": {"align.lr": 2.0}}}}, True),
        ({"axes": {"finetune.lr": {"low": 1e-5, "high": 1e-4, "log": True}}}, True),
        ({"axes": {"finetune.lr": {"values": [1, 2], "when": {"recipe": "base"}}}}, True),
        ({"axes": {"finetune.lr": {"low": 1e-5, "highest": 1e-4}}}, False),
        ({"seeds": 3, "exclude": [{"llm": ["phi-2"]}], "objectives": ["gqa", {"figure": "parameters"}]}, True),
        ({"smoke": {"concurrent": None, "recipe": ["share"]}}, True),
        ({"smoke": {"concurent": 1}}, False),
        ({"sampler": {"kind": "grit"}}, False),
        ({"llm": "phi-2"}, False),
    ],
)
def test_the_short_forms_of_a_space(more, good):
    assert accepts("space", SPACE | more) is good


@pytest.mark.parametrize(("said", "good"), [("auto", True), ({"auto": True, "zero": 3}, True), ("none", False)])
def test_a_cluster_that_is_chosen(said, good):
    assert accepts("variant", HEAD | {"cluster": said}) is good
    assert accepts("space", SPACE | {"cluster": said, "smoke": {"cluster": said}}) is good


def test_an_editor_completes_names_and_says_what_a_key_means():
    variant = schema_for("variant")
    assert "phi-2" in variant["properties"]["llm"]["anyOf"][0]["enum"]
    assert accepts("variant", HEAD | {"llm": "my-own"})  # of a catalog that the schema does not know
    silent = [
        (kind, name, key)
        for kind in (*FILES, "endpoint")
        for name, model in schema_for(kind)["$defs"].items()
        for key, said in model.get("properties", {}).items()
        if not said.get("description")
    ]
    assert not silent
    assert modeline("a.json") == "# yaml-language-server: $schema=a.json"


def test_the_verb_lists_prints_and_writes(tmp_path, capsys):
    from remora.cli import main

    main(["schema", "--runs", str(tmp_path)])
    assert capsys.readouterr().out.startswith("schemas: variant, space, recipe, ")
    main(["schema", "space", "--runs", str(tmp_path)])
    assert json.loads(capsys.readouterr().out) == schema_for("space")
    main(["schema", "--out", str(tmp_path / "s"), "--runs", str(tmp_path)])
    assert f"variant: # yaml-language-server: $schema={tmp_path}/s/variant.json" in capsys.readouterr().out
    assert {f.stem for f in (tmp_path / "s").iterdir()} >= {"variant", "space", "endpoint"}
    with pytest.raises(SystemExit) as e:
        main(["schema", "spaces", "--runs", str(tmp_path)])
    assert "no schema 'spaces'; did you mean 'space'?; there are: variant, " in str(e.value.code)


def test_every_model_of_a_file_has_one():
    assert set(KINDS) - {"recipes"} == set(CATALOG)
    assert FILES["variant"] is Variant and FILES["space"] is Space
