"""Seeded answers that trigger the VQA scorers' oddities, and files that are broken in every way.

The golden values of the tests that use this were got by running the official scripts over what is made here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

from remora.errors import DataError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "words.json"
WORDS: list[list[str]] = json.loads(GOLDEN.read_text())
"""[text, by vqaEval.py, by EvalAIAnswerProcessor, by the VizWiz API] (test_short_answers.py says of which commits)."""
TEXTS = [row[0] for row in WORDS]


def text(rng: Random) -> str:
    """One of TEXTS, or two of them joined."""
    one = rng.choice(TEXTS)
    return one if rng.random() < 0.7 else one + rng.choice([" ", "", ", ", ". "]) + rng.choice(TEXTS)


def ten(rng: Random, *more: str) -> list[str]:
    """Ten people's answers: sometimes all equal, otherwise of a few kinds."""
    kinds = [rng.choice([text(rng), *more]) for _ in range(rng.choice([1, 2, 3, 4]))]
    return [rng.choice(kinds) for _ in range(10)]


def said(rng: Random, people: list[str]) -> str:
    """A person's answer, unchanged or decorated, or any text."""
    one = rng.choice(people)
    dressed = [one, one, one.upper(), f"{one}.", f"the {one}", f" {one}\n", one.replace(" ", "-"), text(rng)]
    return rng.choice(dressed)


JUNK = [
    None,
    True,
    0,
    -1,
    1.5,
    float("nan"),
    10**400,
    "",
    "x",
    [],
    [[]],
    {},
    {"answer": 3},
    ["a"],
    [None] * 10,
    "\ud800",
]


def broken(rng: Random, good: object, lines: bool) -> bytes:
    """A file with that JSON, a few of its values replaced, and sometimes its bytes."""
    spoilt = json.loads(json.dumps(good))
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        spoilt = _spoilt(rng, spoilt)
    written = "\n".join(map(json.dumps, spoilt)) if lines and isinstance(spoilt, list) else json.dumps(spoilt)
    content = bytearray(written.encode())
    kind = rng.randrange(8)
    if kind == 0:
        content = content[: rng.randrange(len(content) + 1)]
    elif kind == 1 and content:
        for _ in range(3):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif kind == 2:
        content = bytearray(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    elif kind == 3:
        content += b"\n\n not json \n[1, 2]\n" + b"[" * 5000
    return bytes(content)


def tried(act: Callable[..., object], *given: object) -> str:
    """Whether that is `read` or `refused`: by a DataError of one line, and by nothing else."""
    try:
        act(*given)
    except DataError as e:
        assert "\n" not in str(e)
        return "refused"
    return "read"


def _spoilt(rng: Random, value: object) -> object:
    """The same with one value in it, at any depth, replaced, removed or repeated."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.1:
        return copy.deepcopy(rng.choice(JUNK))
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    if rng.random() < 0.1:
        del value[key]
    elif isinstance(value, list) and rng.random() < 0.1:
        value.append(value[key])
    else:
        value[key] = _spoilt(rng, value[key])
    return value
