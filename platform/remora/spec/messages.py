"""Messages for pydantic's errors, in the terms of the YAML files that users write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

TEXT = 60
"""Maximum characters of a value shown in a message."""

MESSAGES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "bool_parsing": lambda c: "must be true or false",
    "bool_type": lambda c: "must be true or false",
    "dataclass_type": lambda c: "must be keys with values",
    "dict_type": lambda c: "must be keys with values",
    "enum": lambda c: f"must be {c['expected']}",
    "finite_number": lambda c: "must be a finite number",
    "float_parsing": lambda c: "must be a number",
    "float_type": lambda c: "must be a number",
    "greater_than": lambda c: f"must be above {c['gt']:g}",
    "greater_than_equal": lambda c: f"must be {c['ge']:g} or more",
    "int_from_float": lambda c: "must be a whole number",
    "int_parsing": lambda c: "must be a whole number",
    "int_parsing_size": lambda c: "must be a smaller number",
    "int_type": lambda c: "must be a whole number",
    "less_than": lambda c: f"must be below {c['lt']:g}",
    "less_than_equal": lambda c: f"must be {c['le']:g} or less",
    "list_type": lambda c: "must be a list",
    "literal_error": lambda c: f"must be {c['expected']}",
    "missing": lambda c: "is missing",
    "model_type": lambda c: "must be keys with values",
    "string_pattern_mismatch": lambda c: f"must match {c['pattern']}",
    "string_type": lambda c: "must be text",
    "string_unicode": lambda c: "must be text",
    "too_long": lambda c: f"has {c['actual_length']} items, and must have {c['max_length']} at most",
    "too_short": lambda c: f"has {c['actual_length']} items, and must have {c['min_length']} or more",
    "tuple_type": lambda c: "must be a list",
    "value_error": lambda c: str(c["error"]),
}
"""pydantic's error type to a message made from the error's context. A test checks that none is missing."""


def broken_rule(error: ErrorDetails) -> str:
    """The message for one of pydantic's errors: what the value must be, and what it is."""
    say = MESSAGES.get(error["type"])
    rule = say(error.get("ctx", {})) if say else f"breaks the rule {error['type']!r}"
    shown = found(error["input"])
    return rule if error["type"] in ("value_error", "missing") else f"{rule} (found {shown})"


def found(value: object) -> str:
    """A value as shown in a message."""
    if isinstance(value, dict):
        return "keys with values" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= TEXT else f"{text[: TEXT - 3]}..."
