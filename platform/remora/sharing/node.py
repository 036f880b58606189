"""The folder of this machine in which commands work whose run folder is a URL."""

from __future__ import annotations

import json
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from remora.errors import StoreError
from remora.files import digest, disk_errors, exclusive, write_json

SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:/+", re.IGNORECASE)
"""How a URL begins; a Path that was made of one has lost a slash."""
BINDING = ".url.json"
"""In a node folder: the URL that it belongs to, and the node's name."""


LOCK = ".url.lock"


@dataclass(frozen=True)
class Binding:
    """What a node folder belongs to."""

    url: str
    node: str
    """A name that no other node folder has."""


def is_url(given: str | os.PathLike[str]) -> bool:
    return SCHEME.match(str(given)) is not None


def node_folder(given: str | os.PathLike[str]) -> Path:
    """The local folder of a run folder: its own path, or for a URL the node folder, which is made.

    A node folder is REMORA_NODE_FOLDER, or one below ~/.cache/remora that is named after the URL.

    Raises:
        StoreError: REMORA_NODE_FOLDER belongs to another URL, or cannot be written.
    """
    text = str(given)
    if not is_url(text):
        return Path(text).expanduser().absolute()
    scheme, rest = text.split(":", 1)
    if scheme.lower() == "file":
        return Path("/" + rest.lstrip("/"))
    url = f"{scheme.lower()}://{rest.strip('/')}"
    named = re.sub(r"[^\w.-]+", "-", rest.strip("/"))[-40:].strip("-")
    own = os.environ.get("REMORA_NODE_FOLDER")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(own).expanduser().absolute() if own else cache / "remora" / f"{named}-{digest(url)[:8]}"
    known = binding(folder)
    if known is None:
        with exclusive(folder / LOCK), disk_errors(folder):  # or two processes would be two nodes of one folder
            known = binding(folder)
            if known is None:
                write_json(folder / BINDING, {"url": url, "node": uuid.uuid4().hex})
    if known is not None and known.url != url:
        raise StoreError(
            f"REMORA_NODE_FOLDER {folder} belongs to {known.url}, not to {url}; give each URL a node folder of its own"
        )
    return folder


def run_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """A run folder as an absolute path; REMORA_RUNS, or `remora` in the home folder, if none is given. Of a URL it is
    this node's folder (docs/shared-runs.md).

    Raises:
        StoreError: as `node_folder`.
    """
    return node_folder(given or os.environ.get("REMORA_RUNS") or Path.home() / "remora")


def binding(folder: Path) -> Binding | None:
    """What a folder belongs to; None if it is no node folder.

    Raises:
        StoreError: its file is unreadable.
    """
    try:
        said = json.loads((folder / BINDING).read_text())
        return Binding(str(said["url"]), str(said["node"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise StoreError(f"{folder / BINDING}: unreadable ({e}); delete it and give --runs its URL again") from None
