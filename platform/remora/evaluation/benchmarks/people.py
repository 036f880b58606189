"""What VQAv2, TextVQA and VizWiz have in common: questions that ten people answered, and two conventions of scoring.

LLaVA sends its answers through EvalAIAnswerProcessor before it submits them, and the official scorer normalises them
again, otherwise; the figure differs by points from that of the text as it is. Which of the two is meant, the file's
format says unless `--protocol` does: LLaVA's lines carry `text`, the official formats `answer`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from remora.errors import DataError
from remora.evaluation.answers import Records, Warnings, find, read_records
from remora.evaluation.asking import parquet_files, parquet_rows
from remora.evaluation.benchmarks.layout import read_json

AUTO, LLAVA, OFFICIAL = "auto", "llava", "official"
PROTOCOLS = (AUTO, LLAVA, OFFICIAL)


def by_format(protocol: str, records: Records) -> str:
    """The protocol meant: the one asked for, or that of the file's format."""
    if protocol != AUTO:
        return protocol
    return LLAVA if any("text" in r for r in records.objects) else OFFICIAL


def say_conversion(protocol: str, chosen: str, warnings: Warnings) -> None:
    if protocol != AUTO:
        return
    done = {
        LLAVA: "LLaVA's lines, sent through its EvalAIAnswerProcessor first as LLaVA does before it submits",
        OFFICIAL: "in the official format, scored as they are",
    }[chosen]
    other = {
        LLAVA: "--protocol official scores them as they are",
        OFFICIAL: "--protocol llava sends them through LLaVA's EvalAIAnswerProcessor first",
    }[chosen]
    warnings.add("conventions", f"answers are {done} (protocol {chosen}); {other}")


def read_answers(path: Path, warnings: Warnings) -> Records:
    """An answer file of records; DataError if it is one mapping, which none of the three formats is."""
    records = read_records(path, warnings)
    if records.mapping is not None:
        raise DataError(f"{path}: one object and no records; expected LLaVA's lines or the official JSON array")
    return records


def belong(known: Collection[str], said: Collection[str], answers: Path) -> None:
    """DataError if no answer is to any of these questions: the files are of other splits."""
    if not set(known) & set(said):
        wanted = f"{next(iter(known))!r} and the like" if known else "none"
        had = f"{next(iter(said))!r} and the like" if said else "none of them"
        raise DataError(
            f"{answers}: no answer to any of the {len(known)} questions; their ids are {wanted}, those answered {had};"
            " give --data and --answers of one split"
        )


def rows(data: Path, names: Sequence[str], key: str, split: str, what: str) -> tuple[Path, list[dict[str, Any]]]:
    """A file and its records: a JSON array, an array under `key`, or the hub's Parquet of that split.

    Raises:
        DataError: no such file, or it holds no records.
    """
    tables = [data] if data.suffix == ".parquet" else parquet_files(data, split)
    if tables:
        return tables[0], list(parquet_rows(tables, ("image",)))
    path = find(data, *names, f"{split}-*.parquet", what=what)
    raw: Any = read_json(path, object, f"expected {what}")
    held = raw.get(key) if isinstance(raw, dict) else raw
    if not isinstance(held, list) or not held:
        has = f"keys {', '.join(list(raw)[:8])}" if isinstance(raw, dict) else type(raw).__name__
        raise DataError(f"{path}: no records under {key!r} ({has}); expected {what}: {' or '.join(names)}")
    for i, row in enumerate(held, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: record {i} is no object: {str(row)[:60]!r}; download the file again")
    return path, held


def unique(path: Path, held: Sequence[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """Records by id; DataError if one has none or two have the same, as then the official scripts count one twice."""
    found: dict[str, dict[str, Any]] = {}
    for i, row in enumerate(held, 1):
        identity = row.get(key)
        if not isinstance(identity, (str, int)) or isinstance(identity, bool):
            raise DataError(f"{path}: record {i} has no {key}: {str(row)[:60]}; download the file again")
        if str(identity) in found:
            raise DataError(f"{path}: record {i} repeats {key} {identity}; download the file again")
        found[str(identity)] = row
    return found


def people(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """What each of them said, as a record with `answer`; some files have only the texts.

    Raises:
        DataError: there are none, as in a test split.
    """
    raw = row.get("answers")
    found = []
    for n, one in enumerate(raw if isinstance(raw, list) else (), 1):
        record = one if isinstance(one, dict) else {"answer": one, "answer_id": n}
        if not isinstance(record.get("answer"), str):
            raise DataError(f"{where}: a person's answer is no text: {str(one)[:60]!r}; download the file again")
        found.append(record)
    if not found:
        raise DataError(f"{where}: no people's answers to score by; test splits are scored by the benchmark's server")
    return found


def commonest(answers: Sequence[str]) -> str:
    return Counter(answers).most_common(1)[0][0]


def text_of(row: Mapping[str, Any], key: str, where: str) -> str:
    if not isinstance(row.get(key), str):
        raise DataError(f"{where}: no text in {key!r}: {str(row)[:60]}; download the file again")
    return str(row[key])


def pictures_folder(path: Path, name: str) -> Path:
    """Where a distributed file's pictures are: a folder next to it, or next to its own (`Annotations/val.json`)."""
    places = [path.parent / name, path.parent.parent / name]
    return next((place for place in places if place.is_dir()), places[0])


def write(folder: Path, name: str, entries: list[dict[str, Any]]) -> list[Path]:
    """A server's JSON array, byte for byte as LLaVA's scripts write it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return [path]
