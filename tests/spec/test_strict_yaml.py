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
    assert stage.lr == 0.001  # YAML 1.1 would read 1e-3 as text
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
    # Misspelt keys come first: they are why others are missing.
    assert lines[0].startswith("spec.yaml:1: unknown key 'nam'; did you mean 'name'?")
    assert lines[1].startswith("spec.yaml:5: unknown key 'stages.0.rate'")
    assert lines[2:] == ["spec.yaml: key 'name' is missing", "spec.yaml:3: key 'stages.0.lr' is missing"]


def test_the_first_of_several_mistakes_is_the_first_that_was_written(tmp_path):
    text = "vision: v\nseed: many\nllmm: m\noverrides: {align: fast}\nrecipe: r\n"
    lines = refused(Variant, text, tmp_path).splitlines()
    assert [line.split(":")[1] for line in lines[:3]] == ["2", "3", "4"]
    assert lines[0] == "spec.yaml:2: seed: must be a whole number (found 'many')"
    assert {line.rpartition("key ")[2] for line in lines[3:]} == {"'connector' is missing", "'llm' is missing"}


def test_a_key_written_twice_is_refused(tmp_path):
    assert refused(Recipe, RECIPE + "    lr: 2e-3\n", tmp_path) == (
        "spec.yaml:7: not valid YAML: key 'lr' is written twice"
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("batch: many", "spec.yaml:7: stages.0.batch: must be a whole number (found 'many')"),
        ("batch: 0", "spec.yaml:7: stages.0.batch: must be 1 or more (found 0)"),
        (
            "schedule: cosin",
            "spec.yaml:7: stages.0.schedule: must be 'cosine', 'linear', 'constant' or 'wsd' (found",
        ),
        ("weight_decay: .inf", "spec.yaml:7: stages.0.weight_decay: must be a finite number (found inf)"),
        ("template: [a]", "spec.yaml:7: stages.0.template: must be text (found a list of 1)"),
        ("tune: {vision: sleeping}", "spec.yaml:7: stages.0.tune.vision.mode: must be 'absent', 'frozen'"),
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
        ({"from": 0, "lr": 1e-4}, "from", 0),
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
        with pytest.raises(SpecError, match=r"^here: give either epochs or steps$"):
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
    assert load(Variant, tmp_path / "v.yaml").overrides == {"align": {"lr": 1e-4}}
    message = refused(Variant, parts + "overrides:\n  align: fast\n", tmp_path)
    assert message == "spec.yaml:6: overrides.align: must be keys with values (found 'fast')"


def test_a_space_is_every_combination_recipe_slowest(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "name: s\nvision: [v]\nconnector: [a, b]\nllm: [m]\nrecipe: [r1, r2]\nseed: 7\nchampion: {benchmark: x}\n"
    )
    grid = list(load(Space, tmp_path / "s.yaml").grid())
    assert [(v["recipe"], v["connector"]) for v in grid] == [("r1", "a"), ("r1", "b"), ("r2", "a"), ("r2", "b")]


def test_a_spec_cannot_be_changed_afterwards():
    stage = validate(Stage, {**STAGE, "steps": 1}, "here")
    with pytest.raises(ValueError, match="frozen"):
        stage.lr = 1.0


def test_an_empty_list_is_told_as_such(tmp_path):
    assert "has 0 items, and must have 1 or more" in refused(Recipe, "name: r\nstages: []\n", tmp_path)


def test_lora_is_a_word_or_its_settings():
    word = PartTuning.model_validate("lora")
    assert (word.mode, word.trains, word.lora.r, word.lora.alpha, word.lora.dropout) == ("lora", True, 128, 256, 0.05)
    full = PartTuning.model_validate({"lora": {"r": 8, "bits": 4}, "lr": 1e-4})
    assert (full.mode, full.lora.r, full.lora.bits, full.lr) == ("lora", 8, 4, 1e-4)
    assert PartTuning.model_validate(full.model_dump(mode="json")) == full
    for wrong in ({"lora": {"r": 8}, "last": 2}, {"lora": {"r": 8}, "mode": "full"}, {"lora": {"r": 0}}):
        with pytest.raises(ValueError, match=r"exclude each other|do not fit|greater than"):
            PartTuning.model_validate(wrong)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("010", 10),
        ("0o10", 8),
        ("1e-3", 0.001),
        ("1_000", "1_000"),
        ("{1: a, ~: b, yes: c}", {"1": "a", "~": "b", "yes": "c"}),
        ("{a: &a {x: 1, y: 1}, b: {<<: *a, y: 2}}", {"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 2}}),
        ("{c: {<<: &b {<<: {x: 1}, x: 2}}, d: *b}", {"c": {"x": 2}, "d": {"x": 2}}),
        ("[&a [1], *a]", [[1], [1]]),
    ],
)
def test_values_are_those_of_yaml_1_2(text, value):
    assert parse_yaml(f"v: {text}", "f.yaml")[0] == {"v": value}


def test_a_value_that_was_merged_has_the_line_that_it_stands_on(tmp_path):
    text = "name: mine\nstages:\n  - &a {name: a, mixture: [x], epochs: 1,\n      lr: -1}\n  - {<<: *a, name: b}\n"
    assert refused(Recipe, text, tmp_path).splitlines() == [
        "spec.yaml:4: stages.0.lr: must be above 0 (found -1)",
        "spec.yaml:4: stages.1.lr: must be above 0 (found -1)",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: !!set {b}", "tag 'tag:yaml.org,2002:set' is not known"),
        ("a: !!binary aGk=", "tag 'tag:yaml.org,2002:binary' is not known"),
        ("a: !!bool maybe", "'maybe' is not a readable bool"),
        ("a: !!int x", "'x' is not a readable int"),
        (f"a: {'9' * 5000}", "is not a readable int"),
        (f"a: {'9' * 20}", "a whole number of more than 63 bits"),
        ("a: 1e999", "'1e999' is too large a number"),
        ("a: &a [*a]", "an alias contains itself"),
        ("a: [*b]", "found undefined alias 'b'"),
        ('a: "\\0"', "character '\\x00' is not text"),
        ('a: "\\ud800"', "character '\\ud800' is not text"),
        ("a: 1\n--- \nb: 2", "a second document begins here"),
    ],
)
def test_what_has_no_plain_value_is_refused_by_name(text, problem):
    with pytest.raises(SpecError, match=r"^f\.yaml:\d+: not valid YAML: ") as caught:
        parse_yaml(text, "f.yaml")
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_notepad_wrote_is_read(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xef\xbb\xbf" + RECIPE.replace("\n", "\r\n").encode())
    assert load(Recipe, tmp_path / "recipe.yaml").name == "mine"


PARTS = "vision: v\nconnector: c\nllm: m\nrecipe: r\n"
SPACE = "name: s\nvision: [v]\nconnector: [c]\nllm: [m]\nrecipe: [r]\nchampion: {benchmark: x}\n"


@pytest.mark.parametrize(
    ("model", "text", "kind", "next_step"),
    [
        (Variant, SPACE, "space", "remora search spec.yaml"),
        (Variant, SPACE.replace("champion: {benchmark: x}\n", ""), "space", "remora search spec.yaml"),
        (Space, PARTS, "variant", "remora train spec.yaml"),
        (Variant, RECIPE, "recipe", "name it as the recipe of a variant (recipe: spec.yaml), then remora train that"),
        (Recipe, PARTS, "variant", "remora train spec.yaml"),
        (Space, "name: x\nclusters: {count: 2}\n", "condensation", "remora data condense spec.yaml"),
    ],
)
def test_another_kind_of_spec_is_one_line_with_what_it_is_for(model, text, kind, next_step, tmp_path):
    wanted = model.__name__.lower()
    assert refused(model, text, tmp_path) == f"spec.yaml is a {kind}, not a {wanted}; next: {next_step}"


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", " ", "x" * 101])
def test_a_name_that_cannot_name_files_is_refused(name, tmp_path):
    assert "cannot name files" in refused(Variant, f"name: '{name}'\n{PARTS}", tmp_path)


def test_a_space_that_nobody_could_list_is_refused(tmp_path):
    text = SPACE.replace("[v]", str(["v"] * 200)).replace("[c]", str(["c"] * 200))
    assert "40,000 variants, and a space has 10,000 at most" in refused(Space, text, tmp_path)


def test_an_unknown_key_may_hold_any_character(tmp_path):
    message = refused(Variant, PARTS + "'re[cipe': x\n", tmp_path)
    assert message.startswith("spec.yaml:5: unknown key 're[cipe'; did you mean 'recipe'?")


def test_a_file_full_of_mistakes_tells_the_first_ones(tmp_path):
    lines = refused(Variant, PARTS + "".join(f"k{i}: 1\n" for i in range(50)), tmp_path).splitlines()
    assert len(lines) == 11 and lines[-1] == "spec.yaml: and 40 mistakes more"


@pytest.mark.parametrize("mode", ["frozen", "absent"])
def test_a_rate_of_what_does_not_train_is_refused(mode):
    with pytest.raises(SpecError, match=f"lr: 1e-05 has no effect on a part that is {mode}; leave it out"):
        validate(PartTuning, {"mode": mode, "lr": 1e-5}, "it")


@pytest.mark.parametrize(
    ("key", "value"), [("batch", "16"), ("lr", "1e-4"), ("count_pictures", 1), ("betas", ["0.9", 0.9])]
)
def test_text_is_no_number_and_a_number_is_not_true(key, value):
    with pytest.raises(SpecError, match=f"{key}: must be "):
        validate(Stage, {"name": "x", "mixture": ["m"], "lr": 1.0, "steps": 1, key: value}, "it")
