"""Whatever the files of the judged benchmarks contain, the only error is a DataError of one line."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import llava_bench_case
import mmvet_case
import pytest

from remora.errors import DataError
from remora.evaluation.benchmarks import Benchmark, benchmark
from remora.evaluation.figures import value
from remora.evaluation.report import Graded

ROUNDS = 80
JUNK: list[Any] = [None, True, 0, -1.5, "", "v1_0", "0", "0.5", "conv", [], {}, [8, 7], [1, "x"], float("nan"), 10**400]
JUNK += [{"score": [0.5]}, {"score": []}, {"text": 1}, "\ud800", "\x00", json.loads("[" * 900 + "]" * 900)]
KEYS = ["question_id", "text", "score", "tuple", "model", "question", "answer", "capability", "imagename", "category"]
KEYS += ["image", "caption", "v1_0", "v1_2"]

MMVET = {
    i: {"imagename": f"{i}.png", "question": q, "answer": a, "capability": c}
    for i, (q, a, c) in mmvet_case.QUESTIONS.items()
}
QUESTIONS = [{"question_id": i, "image": m, "category": c, "text": t} for i, m, c, t in llava_bench_case.QUESTIONS]
FILES: dict[str, dict[str, Any]] = {
    "mmvet": {"mm-vet.json": MMVET},
    "llava-bench": {
        "questions.jsonl": QUESTIONS,
        "context.jsonl": [{"image": m, "caption": c} for m, c in llava_bench_case.CONTEXT.items()],
        "answers_gpt4.jsonl": [{"question_id": i, "text": t} for i, t in enumerate(llava_bench_case.REFERENCE)],
    },
}
GIVEN: dict[str, list[Any]] = {
    "mmvet": [
        mmvet_case.ANSWERS,
        {i: {"model": ["m"] * 3, "score": s} for i, s in mmvet_case.GRADED.items()},
        [{"question_id": int(i[3:]), "text": t} for i, t in mmvet_case.ANSWERS.items()],
    ],
    "llava-bench": [
        [{"question_id": i, "text": t} for i, t in enumerate(llava_bench_case.ANSWERS)],
        [{"question_id": i, "category": "llava_bench_conv", "tuple": [8, 7]} for i in range(9)],
    ],
}


class Babbler:
    """A judge that says anything."""

    model = "babbler"

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def ask(self, messages: list[dict[str, str]], *, temperature: float, max_tokens: int) -> str:
        return self.rng.choice(["0.5", "8 7\nx", "", "nan", "nan nan", " ", "1" * 500, "\ud800 1", "1e999 0"])


def junk(rng: random.Random, depth: int = 2) -> Any:
    if depth and rng.random() < 0.5:
        return {rng.choice(KEYS): junk(rng, depth - 1) for _ in range(rng.randrange(5))}
    return rng.choice(JUNK)


def hurt(rng: random.Random, whole: Any) -> Any:
    """The same with one value replaced or removed."""
    if rng.random() < 0.1:
        return junk(rng)
    whole = copy.copy(whole)
    for _ in range(rng.randrange(3)):
        if not whole:
            break
        place = rng.choice(list(whole)) if isinstance(whole, dict) else rng.randrange(len(whole))
        if isinstance(whole[place], dict) and rng.random() < 0.7:
            whole[place] = {**whole[place], rng.choice(list(whole[place]) or KEYS): junk(rng)}
        else:
            whole[place] = junk(rng)
    return whole


def write(rng: random.Random, path: Path, whole: Any) -> None:
    if isinstance(whole, list) and rng.random() < 0.9:
        text = "".join(json.dumps(line) + rng.choice(["\n", "\r\n", "\n\n"]) for line in whole)
    else:
        text = json.dumps(whole)
    raw = bytearray(text.encode())
    for _ in range(rng.choice([0, 0, 0, 1, 4]) if raw else 0):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    path.write_bytes(rng.choice([b"", b"", b"\xef\xbb\xbf"]) + raw[: rng.choice([None, None, len(raw) // 2])])


def summed(chosen: Benchmark, graded: Graded) -> None:
    assert all(math.isfinite(value(f)) for f in chosen.figures(graded.items).values())
    json.dumps([asdict(i) for i in graded.items], allow_nan=False)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", FILES)
def test_no_file_breaks_a_judged_benchmark(tmp_path, name, seed):
    rng, chosen = random.Random(seed), benchmark(name)
    given, scored, refused = tmp_path / "given", 0, 0
    (tmp_path / "data").mkdir()
    for _ in range(ROUNDS):
        for file, content in FILES[name].items():
            write(rng, tmp_path / "data" / file, content if rng.random() < 0.7 else hurt(rng, content))
        write(rng, given, hurt(rng, rng.choice(GIVEN[name])))
        attempts: list[Callable[[], object]] = [
            lambda: summed(chosen, chosen.grade(tmp_path / "data", given, "official", None, Babbler(rng))),
            lambda: chosen.questions(tmp_path / "data"),
            lambda: chosen.submission(tmp_path / "data", given, tmp_path / "out"),
        ]
        for attempt in attempts:
            try:
                attempt()
                scored += 1
            except DataError as e:
                refused += 1
                assert "\n" not in str(e)
    assert scored > ROUNDS / 4 and refused > ROUNDS / 10
