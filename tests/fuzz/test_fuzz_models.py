"""Names of models and edited bundles: whatever is typed or edited, one line says what is wrong, and nothing is made."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from cases import cases

from remora.errors import RemoraError
from remora.files import publishing
from remora.inference.bundle import check_bundle
from remora.tracking import find_model

PARTS = {part: {"name": "x", "folder": None, "adapters": []} for part in ("vision", "connector", "llm")}
SAID = {"name": "mid", "parts": PARTS, "template": "brief", "aspect": "square", "seed": 0, "about": {}}
PIECES = [
    "mid",
    "-",
    "/",
    "@",
    "~",
    "..",
    ".",
    "\0",
    "\n",
    "*",
    "[",
    "é",
    "\ud800",
    "x" * 300,
    "1",
    "v",
    "champion",
    " ",
    "%",
]
VALUES = [None, True, -1, 2**70, 1.5, float("nan"), "", "x" * 400, "../up", "/", "\0", [], {}, [[]], {"a": []}]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    with publishing(tmp_path / "runs" / "bundles" / "mid-0123456789ab") as folder:
        (folder / "bundle.json").write_text(json.dumps(SAID))
    return tmp_path / "runs"


def files(runs: Path) -> set[Path]:
    return set(runs.rglob("*"))


def test_any_name_is_a_model_or_one_line(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    before, found = files(runs), 0
    for seed in range(cases(2000)):
        rng = random.Random(seed)
        name = "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 5)))
        try:
            found += find_model(name, runs).name == "mid"
        except RemoraError as e:
            assert str(e) and len(str(e).splitlines()) == 1, (seed, name)
    assert found, "no name named the model"
    assert files(runs) == before


def test_any_bundle_json_is_read_or_refused_by_name(runs: Path) -> None:
    folder = runs / "bundles" / "mid-0123456789ab"
    text = json.dumps(SAID)
    for seed in range(cases(2000)):
        rng = random.Random(seed)
        (folder / "bundle.json").write_bytes(_edited(text, rng))
        try:
            find_model(folder, runs)
            check_bundle(folder)
        except RemoraError as e:
            assert str(folder) in str(e), seed
            assert len(str(e).splitlines()) == 1, seed


def _edited(text: str, rng: random.Random) -> bytes:
    """bundle.json with a value replaced or removed somewhere, or with bytes changed."""
    if rng.random() < 0.5:
        data = bytearray(text.encode())
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data[: rng.randint(0, len(data))] if rng.random() < 0.2 else data)
    said = json.loads(text)
    at = said
    while True:
        key = rng.choice(sorted(at))
        if isinstance(at[key], dict) and at[key] and rng.random() < 0.7:
            at = at[key]
            continue
        break
    if rng.random() < 0.2:
        del at[key]
    else:
        at[key] = rng.choice(VALUES)
    return json.dumps(said).encode()
