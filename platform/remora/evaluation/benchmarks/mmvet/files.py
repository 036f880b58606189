"""MM-Vet's files: mm-vet.json or the hub's Parquet, and the answers or grades to its questions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.answers import AnswerLine, Records, Warnings, answer_lines
from remora.evaluation.benchmarks.files import find, read_json
from remora.evaluation.benchmarks.protocol import Truth
from remora.evaluation.hub_tables import parquet_files, parquet_rows
from remora.evaluation.question import Shown

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")


@dataclass(frozen=True)
class Grade:
    """An answer's scores, one per run; `parsed` is the text they were read from."""

    scores: tuple[float, ...]
    parsed: str


def source(data: Path) -> list[Truth]:
    """The questions in the file's order. A question's id is `v1_0`, its breakdowns are its capabilities.

    Raises:
        DataError: MM-Vet's file is missing, or has other contents.
    """
    path = find(data, "mm-vet.json", "test-*.parquet", what="MM-Vet's questions")
    if path.suffix == ".parquet":
        rows = parquet_rows(parquet_files(path if data.is_file() else data, "test"), ("image",))
        return [_truth(path, str(r.get("question_id")), r, r["image"]) for r in rows]
    raw: object = read_json(path, object, "give mm-vet.json, which holds the answers too")
    if not isinstance(raw, dict) or not raw:
        raise DataError(f"{path}: not MM-Vet's questions; expected mm-vet.json, an object of v1_0, v1_1, …")
    folder = path.parent / "images"
    return [_truth(path, i, r, Picture(str(folder / str(_get(r, "imagename"))))) for i, r in raw.items()]


def _get(row: object, key: str) -> object:
    return row.get(key) if isinstance(row, dict) else None


def _truth(path: Path, identity: str, row: object, shown: Shown) -> Truth:
    question, gold, named = (_get(row, k) for k in ("question", "answer", "capability"))
    if isinstance(named, str):  # the hub's column
        named = [c.strip() for c in named.split(",")]
    if not isinstance(question, str) or not isinstance(gold, str) or not isinstance(named, list):
        raise DataError(f"{path}: {identity} is not a question; expected question, answer and capability")
    known = {c: n for n, c in enumerate(CAPABILITIES)}
    ordered = sorted({str(c) for c in named}, key=lambda c: (known.get(c, len(known)), c))
    labels = (*(f"capability.{c}" for c in ordered), f"combination.{'_'.join(ordered)}")
    return Truth(identity, question, gold, str(_get(row, "imagename") or identity), labels, shown)


def answers(records: Records, warnings: Warnings) -> list[AnswerLine]:
    """From LLaVA's lines or MM-Vet's results `{"v1_0": text}`."""
    if records.mapping is None:
        found = answer_lines(records, ("question_id", "id"), ("text", "prediction", "answer"), warnings)
    else:
        found = []
        for identity, said in records.mapping.items():
            where = f"{records.path.name}: {identity}"
            if isinstance(said, (str, int, float)):
                found.append(AnswerLine(identity, str(said), where))
            else:
                warnings.add("answers without a text", f"{where}: no text: {str(said)[:60]}")
    return [replace(a, id=f"v1_{a.id}" if re.fullmatch("[0-9]+", a.id) else a.id) for a in found]


def is_graded(records: Records) -> bool:
    """Whether this is the evaluator's grade file."""
    return any(isinstance(_get(v, "score"), list) for v in (records.mapping or {}).values())


def grades(records: Records, warnings: Warnings) -> dict[str, Grade]:
    """The scores in a grade file by id; of each answer, as many runs as the answer with the fewest has."""
    found: dict[str, tuple[float, ...]] = {}
    for identity, graded in (records.mapping or {}).items():
        scores = _get(graded, "score")
        if isinstance(scores, list) and scores and all(_is_number(s) for s in scores):
            found[identity] = tuple(float(s) for s in scores)
        else:
            warnings.add("answers without a score", f"{records.path.name}: {identity}: no score: {str(graded)[:60]}")
    runs = min((len(s) for s in found.values()), default=0)
    if any(len(s) != runs for s in found.values()):
        warnings.add(
            "other numbers of runs",
            f"{records.path.name}: some have more runs than {runs}; only the first {runs} count",
        )
    return {i: Grade(s[:runs], " ".join(str(x) for x in s[:runs])) for i, s in found.items()}


def judges(records: Records) -> str | None:
    """The models that graded, according to a grade file."""
    named = (_get(graded, "model") for graded in (records.mapping or {}).values())
    models: Mapping[str, None] = {str(m): None for models in named if isinstance(models, list) for m in models}
    return ", ".join(models) or None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e9  # excludes inf and NaN
