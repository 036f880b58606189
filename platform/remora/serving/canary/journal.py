"""The journal of an endpoint's canaries: serving/<endpoint>/canary.jsonl in the run folder, one record a line.

    {"what": "begin", "at": …, "id": …, "endpoint": "remora", "stable": "3", "candidate": "4", "plan": {…}}
    {"what": "comparison", "at": …, "comparison": {…}}         no words of any request or answer
    {"what": "look", "at": …, "look": {…}, "share": 0.05}      figures, level, verdict
    {"what": "end", "at": …, "phase": "promoted", "why": …}

Several canaries follow each other. One process writes (the judge), and what it acts upon is on disk before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from remora.errors import RemoraError, StoreError
from remora.files import disk_errors, lines
from remora.files.lines import utc_now
from remora.serving.canary.args import CanaryArgs
from remora.serving.canary.course import Phase
from remora.serving.canary.observed import Comparison
from remora.serving.canary.rule import CanaryLook
from remora.spec.base import validate

FILE = "canary.jsonl"
FOLDER = "serving"
_COMPARISON, _LOOK = TypeAdapter(Comparison), TypeAdapter(CanaryLook)
_PHASE: TypeAdapter[Phase] = TypeAdapter(Phase)


@dataclass
class Canary:
    """One canary of a journal."""

    id: str
    endpoint: str
    stable: str
    candidate: str
    """Versions."""
    plan: CanaryArgs
    began: str
    comparisons: list[Comparison] = field(default_factory=list)
    looks: list[CanaryLook] = field(default_factory=list)
    phase: Phase | None = None
    """How it ended."""
    why: str = ""
    ended: str = ""


def journal_of(runs: Path, endpoint: str) -> Path:
    """An endpoint's journal; its name may have characters that files may not."""
    return runs / FOLDER / re.sub(r"[^\w.@-]|^\.+", "_", endpoint) / FILE


def journals(runs: Path) -> dict[str, Path]:
    """By the folder's name."""
    return {file.parent.name: file for file in sorted((runs / FOLDER).glob(f"*/{FILE}"))}


def begin(file: Path, canary: Canary) -> None:
    """Raises:
    StoreError: the disk is full or read-only.
    """
    with disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    said = {"id": canary.id, "endpoint": canary.endpoint, "stable": canary.stable, "candidate": canary.candidate}
    write(file, [{"what": "begin", "at": canary.began, **said, "plan": canary.plan.model_dump(mode="json")}])


def compared(comparison: Comparison) -> dict[str, object]:
    return {"what": "comparison", "at": utc_now(), "comparison": asdict(comparison)}


def looked(look: CanaryLook, share: float) -> dict[str, object]:
    return {"what": "look", "at": utc_now(), "look": look.as_json(), "share": share}


def ended(phase: Phase, why: str) -> dict[str, object]:
    return {"what": "end", "at": utc_now(), "phase": phase, "why": why}


def write(file: Path, records: Sequence[Mapping[str, object]]) -> None:
    """Append records; they are on disk when this returns.

    Raises:
        StoreError: the disk is full or read-only.
    """
    lines.append(file, records, sync=True)


def read(file: Path) -> list[Canary]:
    """The canaries of a journal, the oldest first. What a crash left half is left out.

    Raises:
        StoreError: it cannot be read.
    """
    found: list[Canary] = []
    for record in lines.read(file, "what").records:
        try:
            if record["what"] == "begin":
                plan = validate(CanaryArgs, record["plan"], str(file))
                identity, endpoint = str(record["id"]), str(record["endpoint"])
                versions = str(record["stable"]), str(record["candidate"])
                found.append(Canary(identity, endpoint, *versions, plan, str(record["at"])))
            elif found:
                _add(found[-1], record)
        except (KeyError, ValidationError, RemoraError):
            continue
    return found


def is_of(file: Path, id: str) -> bool:
    """Whether the last canary of a journal is that of this id."""
    canaries = read(file) if file.exists() else []
    return bool(canaries) and canaries[-1].id == id


def last(runs: Path, endpoint: str | None) -> Canary:
    """The last canary of an endpoint; of the only one, if none is named.

    Raises:
        StoreError: there is none, or several endpoints have one.
    """
    there = journals(runs)
    if endpoint is None and len(there) == 1:
        (endpoint,) = there
    file = journal_of(runs, endpoint) if endpoint else None
    canaries = read(file) if file and file.exists() else []
    if not canaries:
        what = f"no canary of an endpoint {endpoint!r}" if endpoint else "name an endpoint with a canary"
        raise StoreError(f"{what}; there are: {', '.join(there) or 'none'}; next: remora serve --canary MODEL")
    return canaries[-1]


def _add(canary: Canary, record: Mapping[str, object]) -> None:
    if record["what"] == "comparison":
        canary.comparisons.append(_COMPARISON.validate_python(record["comparison"]))
    elif record["what"] == "look":
        canary.looks.append(_LOOK.validate_python(record["look"]))
    elif record["what"] == "end":
        canary.phase, canary.why = _PHASE.validate_python(record["phase"]), str(record["why"])
        canary.ended = str(record["at"])
