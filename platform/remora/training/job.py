"""The job of a worker: one stage run as plain values, the same under Ray, torchrun and in a single process."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from remora.model.refs import PartRef
from remora.spec import Cluster, Stage

PARTS_FOLDER = "parts"
CHECKPOINTS = "checkpoints"
"""Folder in a stage run's working folder."""
CHECKPOINT = re.compile(r"step-[0-9]{6,}")
START_FOLDER = Path("start", "llm")
"""Folder in a stage run of the untrained language model that it trains from scratch."""


@dataclass(frozen=True)
class StageJob:
    """Everything that a worker needs to train a stage run."""

    stage: Stage
    parts: Mapping[str, PartRef]
    """Every part of the variant, with the folder of its initial weights."""
    folder: Path
    """The stage run's working folder: journal, checkpoints, and at the end `parts/`."""
    datasets: Sequence[Path]
    """The index folder of each dataset of the stage's mixture, in order. Their content never changes."""
    seed: int
    cluster: Cluster
    others: Sequence[Path] = ()
    """The index of each dataset of the mixture that the stage is validated by, if it is by one."""
    rungs: Sequence[float] = ()
    """Shares of the stage after which it is validated besides, for a search that decides there."""

    def to_json(self, runs: Path | None = None) -> str:
        """As JSON. If `runs` is given, paths below it are written relative to it, so that it can be moved."""

        def say(path: Path) -> str:
            return str(path.relative_to(runs) if runs and path.is_relative_to(runs) else path)

        return json.dumps(
            {
                "stage": self.stage.model_dump(mode="json"),
                "parts": {k: p.to_json(say) for k, p in self.parts.items()},
                "folder": say(self.folder),
                "datasets": [say(folder) for folder in self.datasets],
                "seed": self.seed,
                "cluster": self.cluster.model_dump(mode="json"),
                "rungs": list(self.rungs),
                "others": [say(folder) for folder in self.others],
            }
        )

    @classmethod
    def from_json(cls, text: str, runs: Path = Path()) -> StageJob:
        """`runs` is the current run folder."""
        raw = json.loads(text)
        return cls(
            stage=Stage.model_validate(raw["stage"]),
            parts={k: PartRef.from_json(said, runs.joinpath) for k, said in raw["parts"].items()},
            folder=runs / raw["folder"],
            datasets=tuple(runs / folder for folder in raw["datasets"]),
            seed=raw["seed"],
            cluster=Cluster.model_validate(raw["cluster"]),
            rungs=tuple(raw.get("rungs", ())),
            others=tuple(runs / folder for folder in raw["others"]),
        )


def by_step(root: Path) -> dict[int, Path]:
    """Checkpoints below `root`, oldest first. Other names are users' copies: neither read nor deleted."""
    named = [p for p in root.glob("step-*") if CHECKPOINT.fullmatch(p.name) and p.is_dir()]
    return dict(sorted((int(p.name.removeprefix("step-")), p) for p in named))
