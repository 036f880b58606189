"""The model that an engine replica serves: where it comes from, what it is in memory, what others know of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from remora.errors import RemoraError, SpecError
from remora.files import MANIFEST, is_published, sha256_file, verify
from remora.inference.bundle import bundle_name, check_bundle, serving_lock, with_weights
from remora.serving.args import EndpointArgs
from remora.serving.lineage import Lineage, lineage, with_weights_of
from remora.tracking import locks

if TYPE_CHECKING:
    from PIL import Image

    from remora.inference import Answerer
    from remora.tracking import Model, Tracker
    from remora.tracking.registry import VersionInfo

LOG = logging.getLogger(__name__)


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


ModelLoader = Callable[[EndpointArgs], ServedModel]
"""Loads a model where it is called. Can be pickled."""


def find(args: EndpointArgs) -> VersionInfo:
    """The version to serve. Cheap, so call it before a cluster is started.

    Raises:
        TrackingError: no registry, no such model or alias.
    """
    from remora import tracking

    return tracking.version_info(_tracker(args), args.model, args.version or args.alias)


def _tracker(args: EndpointArgs) -> Tracker:
    args = args.resolved()
    assert args.runs is not None
    return _tracker_of(args.runs, args.tracking_uri)


@lru_cache(4)  # an alias is looked up every few seconds
def _tracker_of(runs: Path, uri: str | None) -> Tracker:
    from remora import tracking

    return tracking.Tracker(runs, uri)


def check(args: EndpointArgs) -> None:
    """Raises:
    TrackingError: as `find`, for any of the models.
    DataError, SpecError: as `source_of`.
    """
    for one in args.resolved().each():
        if one.bundle is None:
            find(one)
        else:
            source_of(one)


def pinned(args: EndpointArgs) -> EndpointArgs:
    """With the versions that the aliases name now; a bundle has none.

    Raises:
        TrackingError: as `find`.
    """
    first, *further = (find(one)["version"] if one.bundle is None else None for one in args.each())
    models = tuple(
        one.model_copy(update={"version": version}) for one, version in zip(args.models, further, strict=True)
    )
    return args.resolved().model_copy(update={"version": first, "models": models})


def load(args: EndpointArgs) -> ServedModel:
    """Load `args.version`, or the version of the alias.

    Raises:
        TrackingError: as `find`, or its files are gone.
    """
    args = args.resolved()
    info = find(args)
    folder = _folder(args, info)
    return _served(args, folder, info["version"], info["run_id"], _lineage(args, info, folder))


def _folder(args: EndpointArgs, info: VersionInfo) -> Path:
    from remora import tracking

    assert args.runs is not None, "resolved"
    return tracking.fetch(_tracker(args), info, into=args.runs / "cache" / "champions")


def _lineage(args: EndpointArgs, info: VersionInfo, folder: Path) -> Lineage:
    assert args.runs is not None, "resolved"
    return lineage(folder, args.runs, _tracker(args), info["run_id"], info["tags"])


def _load_version(args: EndpointArgs, info: VersionInfo, known: Lineage) -> ServedModel:
    return _served(args, _folder(args, info), info["version"], info["run_id"], known)


def _served(args: EndpointArgs, whole: Path, version: str, run_id: str | None, known: Lineage) -> ServedModel:
    """The bundle in `whole`, whose lineage is known, with the weights that the arguments ask for."""
    from remora.inference import Answerer

    assert args.runs is not None, "resolved"
    cache = args.runs / "cache"
    folder = with_weights(whole, args.weights, cache)
    known = known if folder == whole else with_weights_of(known, folder, args.runs)
    return ServedModel(Answerer.load(folder, cache), version, run_id, known, folder)


def hold(folder: Path | None, runs: Path) -> contextlib.ExitStack:
    """Hold a bundle's folder, so that `remora runs` neither deletes nor moves it, until this process ends or closes
    what is returned. A folder outside of the run folder is not held: `remora runs` does not know it."""
    held = contextlib.ExitStack()
    place = folder and folder.parent.resolve() / folder.name
    if place is not None and place.is_relative_to(runs):
        try:
            held.enter_context(locks.held(serving_lock(place)))
        except OSError as e:
            LOG.warning("%s is served, and `remora runs` cannot see that: %s", folder, e)
    return held


@dataclass(frozen=True)
class ModelSource:
    """A model to serve: which version of it, and how a replica loads one."""

    args: EndpointArgs
    """Those of this model alone, resolved. Without a `version` the alias is followed."""
    load: ModelLoader = load
    """Loads `args.version`."""

    @property
    def registered(self) -> bool:
        return self.load is load

    @property
    def follows(self) -> bool:
        return self.registered and self.args.version is None

    def wanted(self) -> str:
        """The version to serve.

        Raises:
            TrackingError: as `find`.
        """
        return find(self.args)["version"] if self.follows else self.args.version or ""

    def at(self, version: str) -> EndpointArgs:
        """The settings of a replica that loads this version."""
        return self.args.model_copy(update={"version": version or None})

    def prepared(self, version: str) -> ModelLoader:
        """How replicas load a version. If it is the registry's, its files are read and checked here, and replicas that
        see them need not ask the registry: to import MLflow takes longer than to load a small model.

        Raises:
            TrackingError: it is not there, or its files are not.
            DataError: they are no bundle's.
            TornArtifact: they are not as they were registered.
        """
        if not self.registered:
            return self.load
        args = self.at(version)
        info = find(args)
        folder = _folder(args, info)
        bundle_name(folder)
        if is_published(folder):
            assert args.runs is not None, "resolved"
            downloaded = folder.is_relative_to(args.runs / "cache")
            (verify if downloaded else check_bundle)(folder)  # what was downloaded can be downloaded again
        return partial(_load_version, info=info, known=_lineage(args, info, folder))


def sources(args: EndpointArgs, load: ModelLoader = load) -> tuple[ModelSource, ...]:
    """The models of an endpoint. Those that do not follow their alias have the version that it names now.

    Raises:
        TrackingError: as `find`.
        DataError, SpecError: as `source_of`.
    """
    if load is globals()["load"] and not args.follow:
        args = pinned(args)
    return tuple(source_of(one, load) for one in args.resolved().each())


def source_of(args: EndpointArgs, load: ModelLoader = load) -> ModelSource:
    """The source of one model: registered, or the bundle that its arguments name.

    Args:
        args: Of this model alone, resolved.

    Raises:
        DataError: no variant or bundle has that name.
        SpecError: it names a registered model.
    """
    if args.bundle is None:
        return ModelSource(args, load)
    from remora import tracking

    assert args.runs is not None, "resolved"
    found = tracking.find_model(args.bundle, args.runs, args.tracking_uri)
    if found.registered is not None:
        raise SpecError(
            f"endpoint args: bundle names a variant or a folder; found {args.bundle!r}, a version of "
            f"{found.registered}; next: model: {found.registered}, with an alias or a version"
        )
    own = args.model_copy(update={"alias": args.model, "version": version_of(found)})
    return ModelSource(own, loader(found))


def loader(model: Model) -> ModelLoader:
    """A function with which replicas load `model`, resolved once at deployment: later replicas serve the same."""
    return partial(_load_bundle, folder=model.folder, version=version_of(model), run_id=model.run_id)


def version_of(model: Model) -> str:
    """The registry's version, or that of a bundle's content."""
    return model.version or sha256_file(model.folder / MANIFEST)[:12]


def _load_bundle(args: EndpointArgs, folder: Path, version: str, run_id: str | None) -> ServedModel:
    from remora import tracking

    args = args.resolved()
    runs, tracker, tags = args.runs, None, {}
    assert runs is not None
    if run_id is not None:
        tracker = tracking.Tracker(runs, args.tracking_uri)
        with contextlib.suppress(RemoraError):  # lineage alone: the files are here
            tags = tracking.version_info(tracker, args.model, version)["tags"]
    return _served(args, folder, version, run_id, lineage(folder, runs, tracker, run_id, tags))
