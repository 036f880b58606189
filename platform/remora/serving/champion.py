"""The model that a replica serves: the champion of the registry, loaded once when the replica starts."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from remora.serving.args import EndpointArgs

if TYPE_CHECKING:
    from remora.inference import Answerer


@dataclass(frozen=True)
class Champion:
    """A model in memory and where it came from."""

    answerer: Answerer
    version: str
    run_id: str | None = None


def load(args: EndpointArgs) -> Champion:
    """Load what `args.alias` of `args.model` names in the registry.

    Raises:
        TrackingError: no registry, no such model or alias.
    """
    from remora import tracking
    from remora.inference import Answerer

    args = args.resolved()
    assert args.runs is not None
    tracker = tracking.Tracker(args.runs, args.tracking_uri)
    info = tracking.champion_info(tracker, args.model, args.alias)
    # A folder of its own: two replicas on one node must not write into each other's. Not needed once it is loaded.
    with tempfile.TemporaryDirectory(prefix="remora-champion-") as folder:
        path = tracking.champion(tracker, name=args.model, alias=args.alias, into=Path(folder))
        answerer = Answerer.load(path, args.runs / "cache")
    return Champion(answerer, str(info["version"]), info.get("run_id"))
