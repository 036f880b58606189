"""How a stage says that it is validated: one source, steps or shares, and when that is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remora.errors import SpecError
from remora.spec import Stage, Validation, validate
from remora.spec.axes import stage_key

STAGE = {"name": "align", "mixture": ["demo-captions"], "lr": 1e-3, "epochs": 1}


def stage(said: object) -> Stage:
    return validate(Stage, STAGE | {"validate": said}, "spec.yaml")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "validate: give either share (of the stage's own records) or mixture (other datasets)"),
        ({"share": 0.1, "mixture": ["demo-finetune"]}, "validate: give either share"),
        ({"share": 1}, "validate.share: must be below 1 (found 1)"),
        (
            {"share": 0.1, "every": 0},
            "validate.every: 0 is neither steps (1, 2, …) nor a share of the stage (above 0.0",
        ),
        ({"share": 0.1, "every": 1.5}, "validate.every: 1.5 is neither steps"),
        ({"share": 0.1, "every": True}, "validate.every: True is neither steps"),
        ({"share": 0.1, "limit": 0}, "validate.limit: must be 1 or more (found 0)"),
        ({"share": 0.1, "evry": 3}, "unknown key 'validate.evry'; did you mean 'every'? (known: mixture, share, every"),
        ({"share": 0.1, "benchmark": {"nam": "x"}}, "unknown key 'validate.benchmark.nam'; did you mean 'name'?"),
        ({"mixture": [{"dataset": "a", "weight": 2}]}, "each held-out sample is read once: leave out weight and cap"),
        ({"mixture": [{"dataset": "a", "cap": 2}]}, "each held-out sample is read once: leave out weight and cap"),
        ("often", "validate: must be keys with values (found 'often')"),
    ],
)
def test_a_mistake_is_a_line_that_names_the_key(said, message):
    with pytest.raises(SpecError) as caught:
        stage(said)
    assert str(caught.value).splitlines()[0].startswith("spec.yaml: ") and message in str(caught.value)


def test_a_stage_comes_back_from_what_is_kept_of_it():
    said = stage({"share": 0.1, "every": 1.0, "benchmark": {"name": "easy-vqa"}})
    assert Stage.model_validate_json(said.model_dump_json()) == said
    assert said.model_dump(mode="json")["validate"]["every"] == 1.0  # a share of the stage, not a step
    assert "validation" not in said.model_dump() and Stage(**STAGE).validation is None


@pytest.mark.parametrize(
    ("every", "steps", "due"),
    [
        (0.25, 8, [1, 3, 5, 7]),
        (0.1, 30, [2, 5, 8, 11, 14, 17, 20, 23, 26, 29]),
        (0.4, 10, [3, 7, 9]),
        (1.0, 10, [9]),
        (0.01, 3, [0, 1, 2]),
        (3, 10, [2, 5, 8, 9]),
        (5, 10, [4, 9]),
        (100, 10, [9]),
        (1, 3, [0, 1, 2]),
    ],
)
def test_when_a_stage_is_validated(every, steps, due):
    assert Validation(share=0.1, every=every).due(steps) == due


@given(st.one_of(st.integers(1, 10**9), st.floats(1e-9, 1)), st.integers(1, 5000))
def test_the_last_step_is_always_validated_and_none_twice(every, steps):
    due = Validation(share=0.1, every=every).due(steps)
    assert due[-1] == steps - 1 and due == sorted(set(due)) and due[0] >= 0


def test_a_search_may_vary_how_a_stage_is_validated():
    assert stage_key("finetune.validate.every").path == ("validate", "every")
    assert stage_key("validate.share").stage is None
    with pytest.raises(ValueError, match=r"unknown key .evry.; did you mean .every."):
        stage_key("finetune.validate.evry")
