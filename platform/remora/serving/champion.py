"""The model that an engine replica serves, loaded once when the replica starts, and what others know of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from remora.errors import RemoraError
from remora.files import MANIFEST, sha256_file
from remora.serving.args import EndpointArgs
from remora.serving.lineage import Lineage, lineage

if TYPE_CHECKING:
    from PIL import Image

    from remora.inference import Answerer
    from remora.tracking import Model
    from remora.tracking.registry import VersionInfo


@dataclass(frozen=True)
class ModelFacts:
    """What a process without a model's weights knows of it: enough to read requests, and to say what is served."""

    name: str
    version: str
    max_length: int
    """Tokens of its context."""
    vocabulary: int
    """Number of tokens that it can generate."""
    fitted: Callable[[Image.Image], Image.Image]
    """Shrinks an RGB picture to the size that its encoder needs. Can be pickled."""
    run_id: str | None = None
    lineage: Lineage = field(default_factory=Lineage)


@dataclass(frozen=True)
class ServedModel:
    """A model in memory, and its origin."""

    answerer: Answerer
    version: str
    run_id: str | None = None
    lineage: Lineage = field(default_factory=Lineage)
    folder: Path | None = None
    """Its bundle."""

    @property
    def facts(self) -> ModelFacts:
        of = self.answerer
        return ModelFacts(of.name, self.version, of.max_length, of.vocabulary, of.fitted, self.run_id, self.lineage)


def find(args: EndpointArgs) -> VersionInfo:
    """The version to serve. Cheap, so call it before a cluster is started.

    Raises:
        TrackingError: no registry, no such model or alias.
    """
    from remora import tracking

    args = args.resolved()
    assert args.runs is not None
    tracker = tracking.Tracker(args.runs, args.tracking_uri)
    return tracking.version_info(tracker, args.model, args.version or args.alias)


def pinned(args: EndpointArgs) -> EndpointArgs:
    """With the version that the alias names now. Called once, at deployment: replicas that start later, by autoscaling
    or after a crash, load that version even if the alias has moved.

    Raises:
        TrackingError: as `find`.
    """
    return args.resolved().model_copy(update={"version": find(args)["version"]})


def load(args: EndpointArgs) -> ServedModel:
    """Load `args.version`, or the version of the alias.

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
    known = lineage(folder, args.runs, tracker, info["run_id"], info["tags"])
    return ServedModel(Answerer.load(folder, cache), info["version"], info["run_id"], known, folder)


def loader(model: Model) -> Callable[[EndpointArgs], ServedModel]:
    """A function with which replicas load `model`, resolved once at deployment: later replicas serve the same."""
    version = model.version or sha256_file(model.folder / MANIFEST)[:12]
    return partial(_load_bundle, folder=model.folder, version=version, run_id=model.run_id)


def _load_bundle(args: EndpointArgs, folder: Path, version: str, run_id: str | None) -> ServedModel:
    from remora import tracking
    from remora.inference import Answerer

    args = args.resolved()
    runs, tracker, tags = args.runs, None, {}
    assert runs is not None
    if run_id is not None:
        tracker = tracking.Tracker(runs, args.tracking_uri)
        with contextlib.suppress(RemoraError):  # lineage alone: the files are here
            tags = tracking.version_info(tracker, args.model, version)["tags"]
    known = lineage(folder, runs, tracker, run_id, tags)
    return ServedModel(Answerer.load(folder, runs / "cache"), version, run_id, known, folder)
