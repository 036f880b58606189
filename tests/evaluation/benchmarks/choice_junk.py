"""Junk in answer files: records with values of other types, and files with other bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

VALUES: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        3,
        10**30,
        1.5,
        float("nan"),
        float("inf"),
        "",
        "A",
        "3",
        "3.0",
        "nan",
        "\ud800",
        "a\nb",
        "\x00",
    ),
    *([], ["A"], ["B", "A"], [1], [["A"]], [None], {}, {"A": "x"}, {"A": None}, {"B": ["x"]}, {"3": "B"}, "=1", "["),
]


def mangled(records: Sequence[dict[str, Any]], rng: random.Random) -> str:
    """Records as lines or as an array, some of them with values of another kind or without a key."""
    found: list[Any] = [dict(r) for r in records]
    for _ in range(rng.randrange(1, 4)):
        record = rng.choice(found)
        if not isinstance(record, dict) or not record:
            continue
        key = rng.choice([*record])
        change = rng.randrange(5)
        if change == 0:
            del record[key]
        elif change == 1:
            found[found.index(record)] = deepcopy(rng.choice(VALUES))
        else:
            record[key] = deepcopy(rng.choice(VALUES))
    if rng.random() < 0.5:
        return json.dumps(found)
    return "\n".join(json.dumps(r) for r in found)


def broken(content: bytes, junk: Sequence[bytes], rng: random.Random) -> bytes:
    """Some of it replaced by some of `junk`."""
    found = bytearray(content)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(found) + 1)
        found[at : at + rng.randrange(15)] = rng.choice(junk)
    return bytes(found)
