"""Keys of the endpoint: a file of names, each with the hash of its key and its limits. No Ray, no HTTP.

    # keys.yaml, or the same as JSON; `remora keys add alice --file keys.yaml` writes it
    keys:
      alice: {sha256: 5e88…, requests_per_minute: 60, concurrent: 4}

The hash is one SHA-256. A key is 256 random bits, so nobody can try all of them, and a slow hash (scrypt) would only
give strangers a way to keep the endpoint busy: it is computed before anything is known about the sender.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml
from pydantic import Field

from remora.errors import ServingError, SpecError, nearest
from remora.files import exclusive, write_atomic
from remora.spec.base import FileName, Spec, validate
from remora.spec.strict_yaml import parse_yaml, read_yaml

LOG = logging.getLogger(__name__)
PREFIX = "rmr-"
"""Keys begin with it, so that scanners of leaked secrets can find them."""
LOOK_S = 1.0
"""A change of the file is noticed within so many seconds of the next request."""


class ApiKey(Spec):
    """One key: its hash and the limits of who holds it."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """SHA-256 of the key, in hexadecimal."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Questions a minute, in any pace: a minute's worth may come at once. Default: no limit."""
    concurrent: int | None = Field(default=None, ge=1)
    """Questions in work at a time. Default: no limit."""


class KeyFile(Spec):
    """Contents of a key file."""

    keys: dict[FileName, ApiKey] = Field(min_length=1)
    """Whose key -> its hash and limits."""


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine's own: localhost, 127.0.0.1, ::1."""
    if host.lower().removesuffix(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def new_key() -> str:
    """A key, as it is given to its holder."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str | bytes) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def read_keys(file: Path) -> dict[str, ApiKey]:
    """The keys of a file, by name.

    Raises:
        SpecError: not a key file; no part of a hash is repeated.
    """
    raw, lines = read_yaml(file)
    return validate(KeyFile, raw, str(file), lines).keys


def add_key(file: Path, name: str, requests_per_minute: int | None = None, concurrent: int | None = None) -> str:
    """Make a key for `name` and add its hash to the file, which is created if it does not exist. Returns the key.

    Raises:
        ServingError: the name has a key already.
        SpecError: not a key file, or a limit or name that breaks a rule.
        StoreError: the file cannot be written.
    """
    key = new_key()
    with exclusive(file.with_name(f".{file.name}.lock")):
        there = read_keys(file) if file.exists() else {}
        if name in there:
            raise ServingError(
                f"{file}: {name!r} has a key already, and it is not kept; next: remora keys remove {name} --file {file}"
            )
        made = {"sha256": hash_of(key), "requests_per_minute": requests_per_minute, "concurrent": concurrent}
        _write(file, validate(KeyFile, {"keys": {**_plain(there), name: made}}, str(file)).keys)
    return key


def remove_key(file: Path, name: str) -> None:
    """Remove a key: it is refused within a second.

    Raises:
        ServingError: no key has that name.
        SpecError: not a key file.
    """
    with exclusive(file.with_name(f".{file.name}.lock")):
        there = read_keys(file)
        if name not in there:
            raise ServingError(
                f"{file}: no key is named {name!r}{nearest(name, there)}; names: {', '.join(there)}; "
                f"next: remora keys ls --file {file}"
            )
        if len(there) == 1:
            raise ServingError(f"{file}: {name!r} is the only key, and an endpoint needs one; add another first")
        _write(file, {other: key for other, key in there.items() if other != name})


def _plain(keys: Mapping[str, ApiKey]) -> dict[str, dict[str, object]]:
    return {name: key.model_dump(exclude_none=True) for name, key in keys.items()}


def _write(file: Path, keys: Mapping[str, ApiKey]) -> None:
    plain = {"keys": _plain(keys)}
    text = json.dumps(plain, indent=1) + "\n" if file.suffix == ".json" else yaml.safe_dump(plain, sort_keys=False)
    write_atomic(file, text)


def written(keys: Path | Mapping[str, ApiKey]) -> str:
    """Keys as the value of an environment variable: the file's path, or their hashes as JSON."""
    return str(keys) if isinstance(keys, Path) else json.dumps({"keys": _plain(keys)})


def from_written(text: str) -> Path | dict[str, ApiKey]:
    """Keys from the value of an environment variable; see `written`.

    Raises:
        SpecError: JSON that holds no keys.
    """
    if not text.startswith("{"):
        return Path(text)
    return validate(KeyFile, parse_yaml(text, "keys")[0], "keys").keys


class KeyRing:
    """The keys of a file, read again when it has changed, or a fixed set of them."""

    def __init__(self, source: Path | Mapping[str, ApiKey], clock: Callable[[], float] = time.monotonic) -> None:
        """Raises:
        SpecError: not a key file.
        """
        self._file = source if isinstance(source, Path) else None
        self._clock = clock
        self._reading = threading.Lock()
        self._looked, self._stamp = clock(), self._stat()
        self._keys: Mapping[str, ApiKey] = read_keys(source) if isinstance(source, Path) else source

    def find(self, key: bytes) -> tuple[str, ApiKey] | None:
        """The name and entry of a key. It is compared with each hash in constant time, and always with all of them."""
        given, found = hash_of(key), None
        for name, entry in self._now().items():
            if secrets.compare_digest(given, entry.sha256):
                found = name, entry
        return found

    def _now(self) -> Mapping[str, ApiKey]:
        if self._file is not None and self._clock() - self._looked >= LOOK_S:
            with self._reading:
                self._looked = self._clock()
                stamp = self._stat()
                if stamp != self._stamp:
                    self._stamp = stamp
                    try:
                        self._keys = read_keys(self._file)
                    except SpecError as e:  # while somebody writes or moves it
                        LOG.warning("the keys read before stay valid: %s", e)
        return self._keys

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            found = self._file.stat() if self._file is not None else None
        except OSError:
            return None
        return (found.st_ino, found.st_mtime_ns, found.st_size) if found else None
