"""What a condensation leaves: the kept records as a dataset that trains at once, and how it came about.

<out>/dataset/kept.jsonl          the kept records, as they were; their pictures stay where they are
<out>/dataset/rows.npy            their numbers in the source (or in the given embeddings), int64, ascending
<out>/dataset/left-out.jsonl      every row that has no embedding, and why
<out>/dataset/condensation.json   spec, digests and counts of every step, what to write into a mixture
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from remora.data.condense.steps import Step
from remora.files import publishing, write_json
from remora.spec import Condensation

RECORD = "condensation.json"
EXAMPLES = 5


def write_output(
    out: Path,
    spec: Condensation,
    steps: Sequence[Step],
    left_out: Iterable[dict[str, Any]],
    records: Sequence[Any] | None,
    images: Path | None,
) -> dict[str, Any]:
    """Publish `<out>/dataset`; without records only the row numbers are written. Returns what condensation.json holds.

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
        record: dict[str, Any] = {
            "name": spec.name,
            "kept": len(rows),
            "steps": [{"step": s.name, "digest": s.digest, "counts": s.counts} for s in steps],
            "left_out": {"counts": kinds, "examples": examples},
            "spec": spec.model_dump(mode="json"),
        }
        if records is not None:
            with (folder / "kept.jsonl").open("w") as f:
                f.writelines(json.dumps(records[row], ensure_ascii=False) + "\n" for row in rows)
            record["mixture"] = {"path": str(final / "kept.jsonl"), "images": str(images)}
        write_json(folder / RECORD, record)
    return record
