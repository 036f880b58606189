"""A mistake in a YAML file is one line that names the file, the line, the key and what is known."""

from __future__ import annotations

import pytest

from remora.errors import SpecError
from remora.spec import PartTuning, Recipe, Space, Stage, Variant, load, parse_yaml, validate

RECIPE = """\
name: mine
stages:
  - name: align
    mixture: [demo-captions]
    lr: 1e-3
    epochs: 1
"""
STAGE = {"name": "align", "mixture": ["demo-captions"], "lr": 1e-3}


def refused(model, text: str, folder) -> str:
    file = folder / "spec.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        load(model, file)
    return str(caught.value).replace(str(file), "spec.yaml")


def test_a_good_file_is_read_with_floats_as_people_write_them(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    stage = load(Recipe, tmp_path / "recipe.yaml").stages[0]
    assert stage.lr == 0.001  # YAML 1.1 reads 1e-3 as a string
    assert stage.mixture[0].dataset == "demo-captions"


def test_an_unknown_key_names_the_nearest_one_the_file_and_the_line(tmp_path):
    message = refused(Recipe, RECIPE + "    epoch: 1\n", tmp_path)
    assert message.startswith("spec.yaml:7: unknown key 'stages.0.epoch'; did you mean 'epochs'? (known: name, mixture")


def test_an_unknown_key_far_below_knows_the_keys_of_its_own_place(tmp_path):
    message = refused(Recipe, RECIPE + "    tune:\n      visoin: frozen\n", tmp_path)
    assert message == (
        "spec.yaml:8: unknown key 'stages.0.tune.visoin'; did you mean 'vision'? (known: vision, connector, llm)"
    )


def test_every_mistake_of_a_file_is_told_at_once(tmp_path):
    message = refused(Recipe, RECIPE.replace("lr", "rate").replace("name: mine", "nam: mine"), tmp_path)
    lines = message.splitlines()
    assert len(lines) == 4 and all(line.startswith("spec.yaml") for line in lines)
    assert "spec.yaml:3: key 'stages.0.lr' is missing" in lines
    assert "spec.yaml: key 'name' is missing" in lines


def test_a_key_written_twice_is_refused(tmp_path):
    assert refused(Recipe, RECIPE + "    lr: 2e-3\n", tmp_path) == (
        "spec.yaml:7: not valid YAML: key 'lr' is written twice"
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("batch: many", "spec.yaml:7: stages.0.batch: Input should be a valid integer"),
        ("batch: 0", "spec.yaml:7: stages.0.batch: Input should be greater than or equal to 1 (found 0)"),
        ("schedule: cosin", "spec.yaml:7: stages.0.schedule: Input should be 'cosine', 'linear', 'constant' or 'wsd'"),
        ("weight_decay: .inf", "spec.yaml:7: stages.0.weight_decay: Input should be a finite number"),
        ("template: [a]", "spec.yaml:7: stages.0.template: Input should be a valid string"),
        ("tune: {vision: sleeping}", "spec.yaml:7: stages.0.tune.vision.mode: Input should be 'absent', 'frozen'"),
        ("betas: [0.9]", "spec.yaml:7: key 'stages.0.betas.1' is missing"),
    ],
)
def test_a_wrong_value_is_shown_with_its_line(line, expected, tmp_path):
    message = refused(Recipe, RECIPE + f"    {line}\n", tmp_path)
    assert message.startswith(expected) and "\n" not in message


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b", "42"])
def test_a_file_that_is_no_mapping_says_which_keys_it_wants(text, tmp_path):
    assert refused(Recipe, text, tmp_path).startswith(
        "spec.yaml: expected keys and values (name, source, stages), found"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1", 1),
        ("a: 1\n b: 2", 2),
        ("a: 1\nb: {{ lr }}", 2),  # a template that was never filled in: a mapping as a key
        ("a: 2024-13-45", 1),
        ("a: \x00", 1),
        ("? [1]\n: 2", 1),
        ("a: !!python/object:os.system {}", 1),
    ],
)
def test_what_is_not_yaml_is_one_line_with_its_place(text, line):
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, "f.yaml")
    assert str(caught.value).startswith(f"f.yaml:{line}: not valid YAML: ")
    assert "\n" not in str(caught.value)


def test_a_path_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "picture.yaml"):
        with pytest.raises(SpecError, match="give the path of a YAML file") as caught:
            load(Recipe, path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("written", "mode", "blocks"),
    [
        ("frozen", "frozen", None),
        ("full", "full", None),
        ({"last": 6}, "last", 6),
        ({"from": 12}, "from", 12),
        ({"mode": "last", "blocks": 2}, "last", 2),
        ({"from": 0, "lr": "1e-4"}, "from", 0),
    ],
)
def test_shorthand_tunings(written, mode, blocks):
    tuning = PartTuning.model_validate(written)
    assert (tuning.mode, tuning.blocks) == (mode, blocks)
    assert PartTuning.model_validate(tuning.model_dump()) == tuning


@pytest.mark.parametrize(
    "written",
    [
        "last",
        {"last": -1},
        {"mode": "full", "blocks": 2},
        {"last": 2, "from": 3},
        {"mode": "full", "last": 2},
        {"last": 2, "blocks": 3},
        {"last": None},
    ],
)
def test_tunings_that_contradict_themselves_are_refused(written):
    with pytest.raises(SpecError):
        validate(PartTuning, {"mode": written} if isinstance(written, str) else written, "here")


@pytest.mark.parametrize(
    ("tune", "why"),
    [
        ({"connector": "frozen"}, "nothing trains"),
        ({"llm": "absent"}, "the llm cannot be absent"),
        ({"vision": "absent", "llm": "full"}, "absent together"),
        ({"connector": {"last": 1}}, "a connector trains whole"),
    ],
)
def test_tunings_of_a_stage_that_make_no_sense_are_refused(tune, why):
    with pytest.raises(SpecError, match=why):
        validate(Stage, {**STAGE, "epochs": 1, "tune": tune}, "here")


def test_a_stage_has_either_epochs_or_steps():
    for length in ({}, {"epochs": 1, "steps": 10}):
        with pytest.raises(SpecError, match=r"^here: spec: give either epochs or steps$"):
            validate(Stage, {**STAGE, **length}, "here")
    assert validate(Stage, {**STAGE, "steps": 10}, "here").epochs is None


def test_rates_and_decay_fall_back_to_the_stage():
    stage = validate(
        Stage,
        {**STAGE, "steps": 1, "weight_decay": 0.1, "tune": {"vision": {"last": 1, "lr": 5e-6, "weight_decay": 0}}},
        "here",
    )
    assert (stage.lr_of("vision"), stage.lr_of("connector")) == (5e-6, 1e-3)
    assert (stage.weight_decay_of("vision"), stage.weight_decay_of("connector")) == (0.0, 0.1)


def test_a_mixture_entry_has_one_source():
    for entry in ({}, {"dataset": "a", "path": "b"}):
        with pytest.raises(SpecError, match="either dataset"):
            validate(Stage, {**STAGE, "steps": 1, "mixture": [entry]}, "here")


def test_stages_of_a_recipe_have_names_of_their_own():
    twice = {**STAGE, "steps": 1}
    with pytest.raises(SpecError, match="two stages share a name: align, align"):
        validate(Recipe, {"name": "r", "stages": [twice, twice]}, "here")


def test_overrides_are_kept_by_stage_and_must_be_mappings(tmp_path):
    parts = "vision: v\nconnector: c\nllm: m\nrecipe: r\n"
    (tmp_path / "v.yaml").write_text(parts + "overrides: {align: {lr: 1e-4}}\n")
    assert load(Variant, tmp_path / "v.yaml").overrides == {"align": {"lr": "1e-4"}}
    message = refused(Variant, parts + "overrides:\n  align: fast\n", tmp_path)
    assert message == "spec.yaml:6: overrides.align: Input should be a valid dictionary (found 'fast')"


def test_a_space_is_every_combination_recipe_slowest(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "name: s\nvision: [v]\nconnector: [a, b]\nllm: [m]\nrecipe: [r1, r2]\nseed: 7\nchampion: {benchmark: x}\n"
    )
    variants = load(Space, tmp_path / "s.yaml").variants()
    assert [(v.recipe, v.connector) for v in variants] == [("r1", "a"), ("r1", "b"), ("r2", "a"), ("r2", "b")]
    assert {v.seed for v in variants} == {7}


def test_a_spec_cannot_be_changed_afterwards():
    stage = validate(Stage, {**STAGE, "steps": 1}, "here")
    with pytest.raises(ValueError, match="frozen"):
        stage.lr = 1.0


def test_an_empty_list_is_told_as_such(tmp_path):
    assert "at least 1 item" in refused(Recipe, "name: r\nstages: []\n", tmp_path)


def test_lora_is_a_word_or_its_settings():
    word = PartTuning.model_validate("lora")
    assert (word.mode, word.trains, word.lora.r, word.lora.alpha, word.lora.dropout) == ("lora", True, 128, 256, 0.05)
    full = PartTuning.model_validate({"lora": {"r": 8, "bits": 4}, "lr": 1e-4})
    assert (full.mode, full.lora.r, full.lora.bits, full.lr) == ("lora", 8, 4, 1e-4)
    assert PartTuning.model_validate(full.model_dump(mode="json")) == full
    for wrong in ({"lora": {"r": 8}, "last": 2}, {"lora": {"r": 8}, "mode": "full"}, {"lora": {"r": 0}}):
        with pytest.raises(ValueError, match=r"exclude each other|do not fit|greater than"):
            PartTuning.model_validate(wrong)
