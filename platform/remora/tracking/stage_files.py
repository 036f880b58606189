"""Facts about a stage run from its own files, which are not recorded a second time.

Its journal has the steps, the notes, the tuning table and what was skipped; its manifest has the digests of its
weights.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from remora.files import is_published, manifest
from remora.training import journal, totals
from remora.training.events import JournalEvent
from remora.training.job import PARTS_FOLDER

WEIGHTS = "parts.json"
"""The artifact with the location of the weights. They are not copied: a store of gigabytes would double."""
_TAIL = 256  # bytes that tell, with its size, whether a journal is still the one that was read


@dataclass(frozen=True)
class StageFiles:
    """The folder of a stage run, published or in progress."""

    folder: Path
    """Where it is, or will be, published."""

    @property
    def published(self) -> bool:
        return is_published(self.folder)

    @property
    def journal(self) -> Path:
        done = self.folder / journal.JOURNAL
        return done if done.exists() else self.folder.with_name(f"{self.folder.name}.work") / journal.JOURNAL

    @property
    def later(self) -> Path:
        """Where validations are that were made once it was published."""
        return self.folder.with_name(f"{self.folder.name}.validations.jsonl")

    def mark(self) -> str:
        """A string that changes whenever the journal does; empty without a journal."""
        return "".join(map(_mark, (self.journal, self.later)))

    def events(self) -> list[JournalEvent]:
        return [*journal.read(self.journal), *journal.read(self.later)]

    def weights(self, runs: Path) -> str:
        """A reference to the trained weights: the folder, and each file's sha256 and bytes."""
        files = {
            name: {"sha256": sha, "bytes": (self.folder / name).stat().st_size}
            for name, sha in manifest(self.folder).items()
            if name.startswith(f"{PARTS_FOLDER}/")
        }
        return json.dumps({"folder": str(self.folder.relative_to(runs)), "files": files}, indent=1) + "\n"


def _mark(file: Path) -> str:
    try:
        with file.open("rb") as f:
            size = f.seek(0, 2)
            f.seek(max(0, size - _TAIL))
            return f"{size}-{hashlib.sha256(f.read()).hexdigest()[:8]}"
    except OSError:
        return ""


def tuning(events: Iterable[JournalEvent]) -> str:
    """A stage run's modes, parameters and rates by part, as a Markdown table."""
    rows = ["| part | mode | parameters | trained | rate |", "|---|---|---:|---:|---:|"]
    started = [e["table"] for e in events if e["event"] == "started" and "table" in e]
    for row in started[0] if started else []:  # a torn journal may have lost it
        rate = f"{row['lr']:g}" if row["lr"] else ""
        rows.append(f"| {row['part']} | {row['mode']} | {row['parameters']:,} | {row['trained']:,} | {rate} |")
    return "\n".join(rows) + "\n"


def left_out(events: Iterable[JournalEvent]) -> dict[str, float]:
    """Records of each dataset, and those that were left out by kind, as metrics; and bad steps, by what was done about
    them."""
    events = list(events)
    found = Counter(f"steps/{e['event']}" for e in events if e["event"] in ("left_out", "rolled_back"))
    for data in totals.left_out(events):
        found[f"data/{data['dataset']}/records"] += data["records"]
        for kind, n in data["skipped"].items():
            found[f"data/{data['dataset']}/skipped.{kind}"] += n
    return dict(found)
