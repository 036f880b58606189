"""The output of a condensation: the kept records as a dataset ready for training, and how they were selected.

<out>/dataset/kept.jsonl          the kept records
<out>/dataset/kept-images/        their pictures, if the source contains them; picture files stay where they are
<out>/dataset/rows.npy            their numbers in the source (or in the given embeddings), int64, ascending
<out>/dataset/left-out.jsonl      every row without an embedding, and why
<out>/dataset/condensation.json   spec, digests and counts of every step, what to write into a mixture
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from remora.condense.steps import Step
from remora.data.targets import Item, JsonTarget
from remora.files import publishing, write_json
from remora.spec import Condensation

RECORD = "condensation.json"
EXAMPLES = 5


class LeftOutRow(TypedDict):
    """A row without an embedding."""

    row: int
    id: NotRequired[str]
    kind: str
    reason: str


class StepRecord(TypedDict):
    """A step as condensation.json names it."""

    step: str
    digest: str
    counts: Mapping[str, float]


class LeftOut(TypedDict):
    """Rows that a condensation left out: their number by kind, and the first few."""

    counts: Mapping[str, int]
    examples: list[LeftOutRow]


class MixtureRecord(TypedDict):
    """What to write into a mixture."""

    path: str
    images: str


class CondensationRecord(TypedDict):
    """The content of condensation.json."""

    name: str
    kept: int
    steps: list[StepRecord]
    left_out: LeftOut
    spec: dict[str, object]
    mixture: NotRequired[MixtureRecord]


def write_output(
    out: Path,
    spec: Condensation,
    steps: Sequence[Step],
    left_out: Iterable[LeftOutRow],
    records: Iterable[Item] | None,
    images: str | None,
) -> CondensationRecord:
    """Publish `<out>/dataset`; without records, only the row numbers. Returns the content of condensation.json.

    The same spec, source and steps give the same bytes.
    """
    final = out / "dataset"
    rows = steps[-1].load("rows")
    with publishing(final) as folder:
        np.save(folder / "rows.npy", rows)
        kinds: Counter[str] = Counter()
        with (folder / "left-out.jsonl").open("w") as f:
            for line in left_out:
                kinds[line["kind"]] += 1
                f.write(json.dumps(line) + "\n")
        with (folder / "left-out.jsonl").open() as f:
            examples = [json.loads(line) for line in islice(f, EXAMPLES)]
        record: CondensationRecord = {
            "name": spec.name,
            "kept": len(rows),
            "steps": [{"step": s.name, "digest": s.digest, "counts": s.counts} for s in steps],
            "left_out": {"counts": kinds, "examples": examples},
            "spec": spec.model_dump(mode="json"),
        }
        if records is not None:
            assert images is not None
            with JsonTarget(folder / "kept.jsonl", images) as target:
                for item in records:
                    target.add(item)
            place = str(final) if target.embedded else images
            record["mixture"] = {"path": str(final / "kept.jsonl"), "images": place}
        write_json(folder / RECORD, record)
    return record
