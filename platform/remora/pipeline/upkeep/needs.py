"""Who needs what of a run folder: the reason why something is not deleted.

Bundles, searches, variants that are not finished, registered versions and commands at work are needed by themselves;
what they were made of is needed through them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from remora.data.index_state import STATE
from remora.errors import DataError, RemoraError
from remora.evaluation.sheet import read_about
from remora.files import digest, is_held, read_object, strings_in
from remora.inference.bundle import FILE, read_bundle_file
from remora.pipeline.command_records import commands_at_work
from remora.pipeline.search import space_file
from remora.pipeline.search.search import lease_of, result_file
from remora.pipeline.upkeep.holdings import INDEX, Holding, holdings, torn_apart
from remora.pipeline.upkeep.locks import HeldLock, held_locks
from remora.pipeline.upkeep.registered import lineage_of, names_bundle, stages_of, weights_of
from remora.tracking.every_version import Registered
from remora.tracking.record import Record, file_of, lives, read_record, record_files

_STAGE = re.compile(r"stage/([0-9a-f]{12})")
OWN = frozenset({"bundle", "search"})
"""Kinds that are there for themselves: only a person deletes them."""
MODELS = frozenset({"bundle", "weights", "download"})
"""Kinds that are whole models, whose weights have a digest."""


@dataclass(frozen=True)
class User:
    """Who needs a holding."""

    shown: str
    """`bundle share-Sig-Phi-…`, `remora version 3 (champion)`, `search demo, which runs`."""
    place: str | None = None
    """Its own place, if it is a holding too."""


@dataclass
class Needs:
    """The holdings of a run folder, and who needs each of them."""

    runs: Path
    holdings: list[Holding]
    users: dict[str, list[User]] = field(default_factory=dict)
    """Place -> who needs it."""
    kept: set[str] = field(default_factory=set)
    """Places of what is needed, by itself or through something that is."""
    at_work: list[str] = field(default_factory=list)
    """Commands that work in the run folder now."""
    serving: dict[str, str] = field(default_factory=dict)
    """Place -> the endpoint that serves what is there now."""
    unread: list[Path] = field(default_factory=list)
    """Files that would say what is needed, and cannot be read."""

    def of(self, holding: Holding) -> list[User]:
        return self.users.get(holding.place, [])

    def unneeded(self) -> list[Holding]:
        """What nobody needs any more."""
        return [h for h in self.holdings if h.place not in self.kept]


def needs(runs: Path, versions: Sequence[Registered], stopped: bool = False) -> Needs:
    """Who needs what, by the files of the run folder and the registry's versions.

    Args:
        stopped: Leave out what is there only for variants that a finished search has stopped: it could go on with them.
    """
    found = Needs(runs, holdings(runs))
    _Counted(found, versions, stopped).count()
    return found


class _Counted:
    """The count of one run folder."""

    def __init__(self, found: Needs, versions: Sequence[Registered], stopped: bool) -> None:
        self.found, self.runs, self.versions, self.stopped = found, found.runs, versions, stopped
        self.weights_of = cache(weights_of)
        self.places = {h.place for h in found.holdings}
        self.stages: dict[str, list[str]] = {}
        """A stage run's name, and the start of its identity -> its place, published or not."""
        for h in found.holdings:
            if h.kind in ("stage run", "unfinished stage run"):
                name = h.path.name.removesuffix(".work")
                for called in (name, name.rpartition("-")[2]):
                    self.stages.setdefault(called, []).append(h.place)
        self.records = list(self._read_records())
        self.trained = {r.name for r in self.records if r.key.startswith("variant/")}

    def count(self) -> None:
        for holding in self.found.holdings:
            user = User(holding.shown, holding.place)
            for place in self._uses(holding):
                self._add(place, user)
        self.found.unread += [folder / file for folder, file in torn_apart(self.runs) if file != INDEX]
        self._weighed()
        self._variants()
        self._registered()
        self._datasets()
        self._at_work()
        self._mark()

    def _add(self, place: str, user: User) -> None:
        users = self.found.users.setdefault(place, [])
        if place in self.places and place != user.place and user not in users:
            users.append(user)

    def _uses(self, holding: Holding) -> Iterator[str]:
        """Places of what a holding needs, by its own files."""
        if holding.kind in ("stage run", "unfinished stage run"):
            job = self._object(holding.path / "job.json")
            parent = self._object(holding.path / "record.json").get("parent")
            if isinstance(parent, str):
                yield from self._named(parent)
            yield from self._read_by(job)
        elif holding.kind == "bundle":
            try:
                read_bundle_file(holding.path)
            except DataError:
                self.found.unread.append(holding.path / FILE)
            else:  # by its weights its scores are found; a part that no catalog here has takes them away, too
                self.found.unread += [] if self.weights_of(holding.path) else [holding.path]
            for name in lineage_of(holding.path):
                yield from self._named(name)
        elif holding.kind == "search":
            yield from self._searched(holding)

    def _object(self, file: Path) -> Mapping[str, object]:
        found = read_object(file)
        if not found and file.exists():
            self.found.unread.append(file)
        return found

    def _named(self, name: str) -> list[str]:
        return self.stages.get(name, [])

    def _read_by(self, job: object) -> Iterator[str]:
        """Indexes and stage runs whose folders a job names."""
        for text in strings_in(job):
            place = Path(text)
            if place.is_absolute() and place.is_relative_to(self.runs):
                place = place.relative_to(self.runs)
            match place.parts:
                case ("data", "index", home, content, *_):
                    yield f"data/index/{home}/{content}"
                case ("stages", name, *_):
                    yield from self._named(name.removesuffix(".work"))

    def _searched(self, holding: Holding) -> Iterator[str]:
        folder, name = holding.path, holding.path.name
        try:
            found = space_file.read(folder)
        except (RemoraError, OSError):
            self.found.unread.append(folder / space_file.SPACE)
            return
        if found is None:
            return
        others = read_object(result_file(self.runs, name)).get("others")
        over = {o["name"] for o in others if isinstance(o, dict)} if isinstance(others, list) and self.stopped else ()
        if is_held(lease_of(self.runs, name)):
            over = ()
        for variant, lineage in found.lineages.items():
            if variant not in over:
                for run in lineage:
                    yield from self._named(run)

    def _weighed(self) -> None:
        """Scores and 8-bit weights belong to the bundles whose weights they are of."""
        bundles = [h for h in self.found.holdings if h.kind == "bundle"]
        made = [h for h in self.found.holdings if h.kind in ("scores", "weights")]
        if not made:
            return
        own = {self.weights_of(b.path): b for b in bundles}
        eight = {self.weights_of(h.path): h for h in made if h.kind == "weights"}
        for holding in made:
            if holding.kind == "weights":
                short = holding.path.name.rpartition("-")[2]
                of = [b for weights, b in own.items() if weights[:12] == short]
            else:
                about = read_about(holding.path)
                if about is None:  # answers that took hours to give
                    self._add(holding.place, User("a model that its about.json does not tell"))
                of = [b for b in (own.get(about.weights), eight.get(about.weights)) if b] if about else []
                if about and not of and about.model.removesuffix("-int8") not in self.trained:
                    self._add(holding.place, User(f"evaluation of {about.model}, which was not trained here"))
            for bundle in of:
                self._add(holding.place, User(bundle.shown, bundle.place))

    def _variants(self) -> None:
        """A variant that is not finished goes on with its stage runs by the same command."""
        for record in self.records:
            if not record.key.startswith("variant/") or record.status == "FINISHED":
                continue
            running = lives(self.runs, record.key)
            user = User(f"variant {record.name}, which {'runs' if running else 'is not finished'}")
            if running:
                self.found.at_work.append(f"variant {record.name}")
            for text in (record.key.replace("variant/", "stage/", 1), *record.tags.values()):
                for found in _STAGE.findall(text):
                    for place in self._named(found):
                        self._add(place, user)

    def _registered(self) -> None:
        bundles = [h for h in self.found.holdings if h.kind == "bundle"]
        claims = [(c.model, c.digest, Path(c.folder).name) for r in self.records for c in r.claims]
        for version in self.versions:
            aliases = f" ({', '.join(version['aliases'])})" if version["aliases"] else ""
            user = User(f"{version['name']} version {version['version']}{aliases}")
            claimed = {name for model, of, name in claims if (model, of) == (version["name"], version["digest"])}
            mine = [b for b in bundles if names_bundle(version, b.path, claimed)]
            for place in [b.place for b in mine]:
                self._add(place, user)
            for name in stages_of(version, mine):
                for place in self._named(name):
                    self._add(place, user)
            self._beside(version, mine, user)
        self._asked_for()

    def _asked_for(self) -> None:
        """A version that MLflow does not have, since it was away, or that another server has."""
        there = {(version["name"], version["digest"]) for version in self.versions}
        for record in self.records:
            for claim in record.claims:
                if (claim.model, claim.digest) not in there:
                    file = file_of(self.runs, record.key).name
                    user = User(f"record {file}, of which `remora sync` makes a version of {claim.model}")
                    self._add(claim.folder, user)

    def _beside(self, version: Registered, bundles: Sequence[Holding], user: User) -> None:
        """A version's scores and its download."""
        folders = [b.path for b in bundles] + ([version["folder"]] if version["folder"] else [])
        weights = {self.weights_of(folder) for folder in folders} - {""}
        variant = version["tags"].get("variant")
        download = f"{version['name']}-v{version['version']}-{digest(version['source'])[:8]}"
        for h in self.found.holdings:
            if h.kind == "scores" and (about := read_about(h.path)):
                if about.weights in weights or (not weights and about.model == variant):
                    self._add(h.place, user)
            elif h.kind == "download" and h.path.name == download:
                self._add(h.place, user)

    def _datasets(self) -> None:
        """The newest index of a dataset that is there and unchanged: it would be built again."""
        for h in self.found.holdings:
            if h.kind != "index":
                continue
            state = read_object(h.path.parent / STATE)
            files = state.get("files")
            if state.get("index") != h.path.name or not isinstance(files, list) or not files:
                continue
            if all(_there(self.runs, file) for file in files):
                self._add(h.place, User(f"dataset {files[0][0]}"))

    def _read_records(self) -> Iterator[Record]:
        for file in record_files(self.runs):
            try:
                yield read_record(file)
            except FileNotFoundError:
                continue
            except (OSError, ValueError):  # `remora sync` and `remora runs verify` name it
                self.found.unread.append(file)

    def _at_work(self) -> None:
        """What commands hold now."""
        self.found.at_work += commands_at_work(self.runs)
        for held in held_locks(self.runs, self.found.holdings):
            places = [h.place for h in (*held.holdings, *self._models_of(held))]
            if held.serves:
                self.found.serving |= dict.fromkeys(places or [held.name], held.work)
            else:
                self.found.at_work.append(held.work)
            user = User(f"{held.work}, which {'serves it' if held.serves else 'is worked at'}")
            for place in places:
                self.found.users.setdefault(place, []).insert(0, user)

    def _models_of(self, held: HeldLock) -> list[Holding]:
        """The models that are asked, and those whose weights are made or served in 8 bits."""
        asked = {about.weights for h in held.holdings if h.kind == "scores" and (about := read_about(h.path))}
        short = held.name.rpartition("-")[2] if "-int8-" in held.name else None
        models = [h for h in self.found.holdings if (asked or short) and h.kind in MODELS]
        return [h for h in models if (of := self.weights_of(h.path)) in asked or of[:12] == short]

    def _mark(self) -> None:
        """Everything that can be reached from what is needed by itself."""
        kept, users = self.found.kept, self.found.users
        kept |= {h.place for h in self.found.holdings if h.kind in OWN}
        kept |= {place for place, by in users.items() if any(user.place is None for user in by)}
        while True:
            more = {place for place, by in users.items() if any(user.place in kept for user in by)} - kept
            if not more:
                return
            kept |= more


def _there(runs: Path, file: object) -> bool:
    """Whether a file of a dataset is there and as long as it was; a URL is not asked."""
    if not isinstance(file, list) or len(file) < 2 or not isinstance(file[0], str):
        return False
    if "://" in file[0]:
        return True
    try:
        return (runs / file[0]).stat().st_size == file[1]
    except OSError:
        return False
