"""What a search is made of, for whoever reads its folder later: `<runs>/searches/<name>/space.json`.

{"space": the space, "variants": {name: {"variant": the variant, "lineage": [names of its stage runs]}},
 "steps": {stage run's name: its steps}}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from remora.errors import StoreError
from remora.files import disk_errors, write_json
from remora.pipeline.search.work import Trial
from remora.runs import StageRun, union
from remora.spec import Space, Variant, validate

SPACE = "space.json"


@dataclass(frozen=True)
class SpaceFile:
    """A space and the variants of it that were taken up."""

    space: Space
    variants: Mapping[str, Variant]
    lineages: Mapping[str, tuple[str, ...]]
    """Variant -> its stage runs' names, the first stage first."""
    steps: Mapping[str, int]
    """Stage run's name -> its steps, to its end."""


def write(folder: Path, space: Space, trials: Collection[Trial], steps: Callable[[StageRun], int]) -> None:
    """Raises:
    StoreError: the disk is full or read-only.
    """
    variants = {
        t.name: {"variant": t.variant.model_dump(mode="json"), "lineage": [run.name for run in t.lineage]}
        for t in trials
    }
    lengths = {run.name: steps(run) for run in union(t.lineage for t in trials).values()}
    with disk_errors(folder):
        write_json(folder / SPACE, {"space": space.model_dump(mode="json"), "variants": variants, "steps": lengths})


def read(folder: Path) -> SpaceFile | None:
    """None if the search wrote none.

    Raises:
        RemoraError: the file cannot be read.
    """
    path = folder / SPACE
    try:
        with disk_errors(path):
            raw = json.loads(path.read_text())
        variants = raw["variants"]
        return SpaceFile(
            validate(Space, raw["space"], str(path)),
            {name: validate(Variant, each["variant"], str(path)) for name, each in variants.items()},
            {name: tuple(each["lineage"]) for name, each in variants.items()},
            raw.get("steps", {}),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StoreError(f"{path} is not a search's space; run the search again, which writes it anew") from None
