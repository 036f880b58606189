"""The JSON schemas against the readers: what one takes for a key, the other takes, whatever value is drawn."""

from __future__ import annotations

from functools import cache

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from remora.catalog.schema import CATALOG, FILES, _all_of, schema_of
from remora.spec.base import models_in

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 200),
    st.integers(10**6 - 1, 10**12 + 1),
    st.floats(-2, 1e7, allow_nan=False),
    st.integers(-1, 3).map(float),
    st.sampled_from(["", " ", "2", "1e-3", "true", "auto", "none", "frozen", "lora", "square", "a/b", ".a", "x" * 101]),
)
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.sampled_from("ab"), st.integers(0, 3), max_size=1)
)
MODELS = {m.__name__: (kind, m) for kind, first in (FILES | CATALOG).items() for m in _all_of(first)}


@cache
def properties(name: str) -> dict[str, jsonschema.Draft202012Validator]:
    """Key -> the check of its value."""
    schema = schema_of(MODELS[name][0])
    definitions = schema["$defs"]
    own = definitions.get(name, schema)
    own = own["anyOf"][-1] if "anyOf" in own else own
    return {
        key: jsonschema.Draft202012Validator({**said, "$defs": definitions}) for key, said in own["properties"].items()
    }


def refusal(model: type[BaseModel], key: str, value: object) -> str | None:
    """Why the reader refuses the value, whatever else is missing; `whole` where it judges by other keys, `joined` where
    it may weigh several values."""
    try:
        model.model_validate({key: value})
    except ValidationError as e:
        for error in e.errors():
            if error["loc"][:1] == (key,):
                return "joined" if error["type"] == "value_error" else error["type"]
            if not error["loc"]:
                return "whole"
    return None


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", MODELS)
def test_a_value_is_taken_by_both_or_by_neither(name):
    """A rule that joins several values (the two numbers of `workers` in order) is the reader's alone."""
    model = MODELS[name][1]
    keys = [(info.alias or key, info) for key, info in model.model_fields.items()]

    @settings(max_examples=60)
    @given(data=st.data())
    def agree(data):
        key, info = data.draw(st.sampled_from(keys))
        value = data.draw(VALUES)
        fits, why = properties(name)[key].is_valid(value), refusal(model, key, value)
        if why == "whole" or (why == "joined" and (isinstance(value, list | dict) or models_in(info.annotation))):
            return
        assert fits is (why is None), (key, value, why)

    agree()
