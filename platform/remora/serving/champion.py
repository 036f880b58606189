"""The model that a replica serves, loaded once when the replica starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remora.files import MANIFEST, sha256_file
from remora.serving.args import EndpointArgs

if TYPE_CHECKING:
    from remora.inference import Answerer
    from remora.tracking import Model


@dataclass(frozen=True)
class ServedModel:
    """A model in memory and where it came from."""

    answerer: Answerer
    version: str
    run_id: str | None = None


def find(args: EndpointArgs) -> dict[str, Any]:
    """The version that is served: `version`, `run_id`, … Cheap: ask before a cluster is started.

    Raises:
        TrackingError: no registry, no such model or alias.
    """
    from remora import tracking

    args = args.resolved()
    assert args.runs is not None
    tracker = tracking.Tracker(args.runs, args.tracking_uri)
    return tracking.version_info(tracker, args.model, args.version or args.alias)


def pinned(args: EndpointArgs) -> EndpointArgs:
    """With the version that the alias points at now. Who deploys asks, once: replicas that start later, by autoscaling
    or after a death, load that version, wherever the alias has gone.

    Raises:
        TrackingError: as `find`.
    """
    return args.resolved().model_copy(update={"version": find(args)["version"]})


def load(args: EndpointArgs) -> ServedModel:
    """Load `args.version`, or what the alias points at.

    Raises:
        TrackingError: as `find`, or its files are gone.
    """
    from remora import tracking
    from remora.inference import Answerer

    args = args.resolved()
    assert args.runs is not None
    cache = args.runs / "cache"
    tracker = tracking.Tracker(args.runs, args.tracking_uri)
    info = find(args)
    folder = tracking.fetch(tracker, info, into=cache / "champions")
    return ServedModel(Answerer.load(folder, cache), info["version"], info["run_id"])


def loader(model: Model) -> Callable[[EndpointArgs], ServedModel]:
    """How a replica loads `model`, which whoever deploys has found, once: replicas that start later serve the same."""
    version = model.version or sha256_file(model.folder / MANIFEST)[:12]
    return partial(_load_bundle, folder=model.folder, version=version, run_id=model.run_id)


def _load_bundle(args: EndpointArgs, folder: Path, version: str, run_id: str | None) -> ServedModel:
    from remora.inference import Answerer

    runs = args.resolved().runs
    assert runs is not None
    return ServedModel(Answerer.load(folder, runs / "cache"), version, run_id)
