"""MM-Vet's files: mm-vet.json or the hub's Parquet, and the answers or grades to its questions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.answers import Records, Warnings, by_id, find
from remora.evaluation.asking import Shown, parquet_files, parquet_rows
from remora.evaluation.benchmarks.layout import read_json

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")


@dataclass(frozen=True)
class Entry:
    """One question. `id` is `v1_0`, of which LLaVA's files and lines have the number."""

    id: str
    question: str
    gold: str
    capabilities: tuple[str, ...]
    group: str
    shown: Shown

    @property
    def number(self) -> str | int:
        return int(self.id[3:]) if re.fullmatch(r"v1_(0|[1-9][0-9]{0,9})", self.id) else self.id


@dataclass(frozen=True)
class Grade:
    """An answer's scores, one a run; `parsed` is what they were read from."""

    scores: tuple[float, ...]
    parsed: str


def entries(data: Path) -> dict[str, Entry]:
    """The questions by id, in the file's order.

    Raises:
        DataError: no file of MM-Vet is there, or it holds something else.
    """
    path = find(data, "mm-vet.json", "test-*.parquet", what="MM-Vet's questions")
    if path.suffix == ".parquet":
        files = [path] if data.is_file() else parquet_files(data, "test")
        rows = [(str(r.get("question_id")), r, r["image"]) for r in parquet_rows(files, ("image",))]
    else:
        raw: Any = read_json(path, object, "give mm-vet.json, which holds the answers too")
        if not isinstance(raw, dict) or not raw:
            raise DataError(f"{path}: not MM-Vet's questions; expected mm-vet.json, an object of v1_0, v1_1, …")
        folder = path.parent / "images"
        rows = [(i, r, Picture(str(folder / str(_get(r, "imagename"))))) for i, r in raw.items()]
    return {identity: _entry(path, identity, row, shown) for identity, row, shown in rows}


def _get(row: object, key: str) -> Any:
    return row.get(key) if isinstance(row, dict) else None


def _entry(path: Path, identity: str, row: Any, shown: Shown) -> Entry:
    question, gold, named = (_get(row, k) for k in ("question", "answer", "capability"))
    if isinstance(named, str):  # the hub's column
        named = [c.strip() for c in named.split(",")]
    if not isinstance(question, str) or not isinstance(gold, str) or not isinstance(named, list):
        raise DataError(f"{path}: {identity} is not a question; expected question, answer and capability")
    known = {c: n for n, c in enumerate(CAPABILITIES)}
    ordered = sorted({str(c) for c in named}, key=lambda c: (known.get(c, len(known)), c))
    return Entry(identity, question, gold, tuple(ordered), str(_get(row, "imagename") or identity), shown)


def answers(records: Records, warnings: Warnings) -> dict[str, str]:
    """Text by id, from LLaVA's lines or MM-Vet's results `{"v1_0": text}`."""
    if records.mapping is None:
        found = by_id(records, ("question_id", "id"), ("text", "prediction", "answer"), warnings)
        return {_whole_id(i): text for i, text in found.items()}
    texts = {}
    for identity, said in records.mapping.items():
        if isinstance(said, (str, int, float)):
            texts[_whole_id(identity)] = str(said)
        else:
            warnings.add("answers without a text", f"{records.path.name}: {identity}: no text: {str(said)[:60]}")
    return texts


def _whole_id(identity: str) -> str:
    return f"v1_{identity}" if re.fullmatch("[0-9]+", identity) else identity


def is_graded(records: Records) -> bool:
    """Whether this is the evaluator's grade file."""
    return any(isinstance(_get(v, "score"), list) for v in (records.mapping or {}).values())


def grades(records: Records, warnings: Warnings) -> dict[str, Grade]:
    """The scores in a grade file by id. All answers have as many runs as the one with the fewest."""
    found: dict[str, tuple[float, ...]] = {}
    for identity, graded in (records.mapping or {}).items():
        scores = _get(graded, "score")
        if isinstance(scores, list) and scores and all(_is_number(s) for s in scores):
            found[identity] = tuple(float(s) for s in scores)
        else:
            warnings.add("answers without a score", f"{records.path.name}: {identity}: no score: {str(graded)[:60]}")
    runs = min((len(s) for s in found.values()), default=0)
    if any(len(s) != runs for s in found.values()):
        warnings.add("other numbers of runs", f"{records.path.name}: some have more runs than {runs}; the first count")
    return {i: Grade(s[:runs], " ".join(str(x) for x in s[:runs])) for i, s in found.items()}


def judges(records: Records) -> str | None:
    """The models that a grade file says gave its scores."""
    named = (_get(graded, "model") for graded in (records.mapping or {}).values())
    models: Mapping[str, None] = {str(m): None for models in named if isinstance(models, list) for m in models}
    return ", ".join(models) or None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e9  # which neither inf nor nan is
