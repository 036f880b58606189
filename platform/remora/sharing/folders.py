"""Folders that are published at a URL: sent whole, then named by a manifest; brought whole, or not at all.

    <url>/<key>/<attempt>/<file>           content, under a name that no other attempt has
    <url>/<key>/manifest-00000001.json     the attempt, and of each file its bytes and its sha256

A manifest is created last, unless there is one. So of two publishers one wins, and what a killed one uploaded nobody
ever reads. What grows has several versions, each with a number; the newest counts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from remora.errors import StoreError
from remora.files import is_published, scratch, sha256_file
from remora.sharing.leases import SharedLeases
from remora.sharing.node import BINDING, binding
from remora.sharing.objects import Objects

log = logging.getLogger(__name__)
NAME = re.compile(r"manifest-(\d{8,})\.json")


@dataclass(frozen=True)
class SharedFile:
    """A file of a version."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class SharedVersion:
    """What a manifest says."""

    number: int
    attempt: str
    """The name that its files are below."""
    files: Mapping[str, SharedFile]
    """By path below the folder."""
    about: Mapping[str, object]
    """What its publisher says of it."""


class SharedRuns:
    """A run folder at a URL, and the node folder `root` that works with it."""

    def __init__(self, url: str, root: Path, node: str) -> None:
        self.url, self.root = url, root
        self.objects = Objects(url)
        self.leases = SharedLeases(self.objects, node)
        self._there: set[str] = set()

    def key(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    def has(self, folder: Path) -> bool:
        """Whether a folder is published at the URL."""
        key = self.key(folder)
        if key not in self._there and self.numbers(key):
            self._there.add(key)
        return key in self._there

    def names(self, key: str) -> list[str]:
        """The names below `key` that may be published."""
        return self.objects.names(key)

    def numbers(self, key: str) -> list[int]:
        """The numbers of all versions, in order."""
        return sorted(int(found[1]) for name in self.objects.names(key) if (found := NAME.fullmatch(name)))

    def version(self, key: str, number: int) -> SharedVersion | None:
        """A version; None if it is gone.

        Raises:
            StoreError: its manifest is unreadable.
        """
        data = self.objects.read(f"{key}/{_manifest(number)}")
        if data is None:
            return None
        try:
            said = json.loads(data)
            files = {str(name): SharedFile(int(f["bytes"]), str(f["sha256"])) for name, f in said["files"].items()}
            return SharedVersion(number, str(said["attempt"]), files, dict(said["about"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StoreError(f"{self.url}/{key}/{_manifest(number)}: unreadable; {again(self.url, key)}") from None

    def newest(self, key: str) -> SharedVersion | None:
        """The newest version; None if there is none."""
        return next((found for n in reversed(self.numbers(key)) if (found := self.version(key, n))), None)

    def send(
        self, folder: Path, number: int = 1, about: Mapping[str, object] | None = None, of: Path | None = None
    ) -> bool:
        """Publish a folder at the URL; False if that version is there already.

        Args:
            folder: Its place in the node folder.
            number: Of the version.
            about: Kept in the manifest.
            of: Where the files are, if not in `folder`. They do not change meanwhile.

        Raises:
            StoreError: what the store says.
        """
        source, key, attempt = of or folder, self.key(folder), uuid.uuid4().hex
        files = {}
        for file in sorted(p for p in source.rglob("*") if p.is_file()):
            name = file.relative_to(source).as_posix()
            self.objects.upload(file, f"{key}/{attempt}/{name}")
            files[name] = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
        said = {"attempt": attempt, "files": files, "about": dict(about or {})}
        made = self.objects.create(f"{key}/{_manifest(number)}", json.dumps(said, indent=1).encode())
        if not made:
            self.objects.remove(f"{key}/{attempt}")
        self._there.add(key)
        return made

    def send_missing(self, folder: Path) -> None:
        """Publish a folder of the node folder at the URL, unless it is there."""
        if not self.has(folder):
            self.send(folder)

    def bring(self, folder: Path) -> bool:
        """Make a published folder of this node of the newest version at the URL; whether it is there now.

        Raises:
            StoreError: the store's, or the files are not those of the manifest.
        """
        if is_published(folder):
            return True
        found = self.newest(self.key(folder))
        if found is None:
            self._there.discard(self.key(folder))  # a person deleted it, to have it made again
            return False
        with self.fetched(folder, found) as tmp:
            try:
                tmp.rename(folder)
            except OSError:  # another process of this node brought it
                if not is_published(folder):
                    raise
        self._there.add(self.key(folder))
        return True

    @contextlib.contextmanager
    def fetched(self, folder: Path, version: SharedVersion) -> Iterator[Path]:
        """A version's files in a temporary folder beside `folder`, each checked.

        Raises:
            StoreError: a file is missing or differs.
        """
        key = self.key(folder)
        with scratch(folder) as tmp:
            for name, file in version.files.items():
                place, wrong = tmp / name, f"{self.url}/{key}: {name}"
                if not place.resolve().is_relative_to(tmp.resolve()):
                    raise StoreError(f"{wrong} is no path below it; {again(self.url, key)}")
                try:
                    self.objects.download(f"{key}/{version.attempt}/{name}", place)
                except FileNotFoundError:
                    raise StoreError(f"{wrong} is missing; {again(self.url, key)}") from None
                if place.stat().st_size != file.bytes or sha256_file(place) != file.sha256:
                    raise StoreError(f"{wrong} does not match its sha256; {again(self.url, key)}")
            yield tmp

    def replace(self, folder: Path, version: SharedVersion) -> None:
        """Make a folder of this node of a version, whatever it was before."""
        with self.fetched(folder, version) as tmp:
            shutil.rmtree(folder, ignore_errors=True)
            tmp.rename(folder)

    def keep_newest(self, key: str, count: int) -> None:
        """Delete all versions but the newest: the manifest first, so that nobody reads half of one."""
        for number in self.numbers(key)[:-count]:
            old = self.version(key, number)
            self.objects.remove(f"{key}/{_manifest(number)}")
            if old:
                self.objects.remove(f"{key}/{old.attempt}")

    def remove(self, key: str) -> None:
        """Delete everything at the URL below `key`."""
        for number in self.numbers(key):
            self.objects.remove(f"{key}/{_manifest(number)}")
        self.objects.remove(key)
        self._there.discard(key)


def _manifest(number: int) -> str:
    return f"manifest-{number:08d}.json"


def again(url: str, key: str) -> str:
    """What to do about a publication that is damaged."""
    return f"delete {url}/{key}, it will be made again"


def around(folder: Path) -> SharedRuns | None:
    """The URL that a run folder, or a folder in it, shares its results at; None for a plain one."""
    for root in (folder, *folder.parents):
        if (root / BINDING).is_file() and (found := binding(root)):
            return _shared(found.url, root, found.node)
    return None


@cache
def _shared(url: str, root: Path, node: str) -> SharedRuns:
    return SharedRuns(url, root, node)
