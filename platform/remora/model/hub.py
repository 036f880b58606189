"""Files of a published model: a local folder, or a Hugging Face id that is downloaded once and cached (HF_HOME)."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from remora.errors import DataError, first_line
from remora.files import sha256_file

FILES = ("*.json", "*.safetensors", "*.bin", "*.pt", "*.model", "*.txt", "*.jinja")
"""Files to download: configs, weights, tokenizers. Never code: nothing of a repository is executed."""

SECONDS = 5.0
"""That the hub, or the proxy on the way to it, may take to accept a connection."""


def cached(hub: str, revision: str | None = None, files: Sequence[str] = FILES) -> Path | None:
    """The local folder of `hub` if it is in the cache; does not use the network."""
    folder = Path(hub).expanduser()
    if folder.is_dir():
        return folder.absolute()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub, revision=revision, local_files_only=True, allow_patterns=list(files)))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def snapshot(hub: str, revision: str | None = None, gated: bool = False, files: Sequence[str] = FILES) -> Path:
    """The folder with the files of `hub`, a Hugging Face id or a local folder; `files` are glob patterns.

    Raises:
        DataError: it is neither a folder nor a reachable repository; the message says what to do.
    """
    if folder := cached(hub, revision, files):
        return folder
    if hub.startswith((".", "/", "~")):
        raise DataError(f"no folder {hub}; give a Hugging Face id or the folder of a downloaded model")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        if not constants.HF_HUB_OFFLINE:
            _reach(constants.ENDPOINT)
        return Path(snapshot_download(hub, revision=revision, allow_patterns=list(files)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as e:
        reason = first_line(e)
        login = f" Its licence must be accepted at huggingface.co/{hub} and `hf auth login` run." if gated else ""
        raise DataError(
            f"{hub} is not in the cache and cannot be downloaded: {reason}.{login} "
            f"Next: `hf download {hub}` on a machine with access and copy its HF_HOME here, "
            f"or a catalog entry whose hub is the folder of the files (docs/catalog.md)"
        ) from e


def _reach(endpoint: str) -> None:
    """Connect once. The hub's client tries a pinned revision six times, which takes 23 s where there is no network.

    Raises:
        OSError: no connection within SECONDS.
    """
    hub = urlsplit(endpoint)
    name = hub.hostname or ""
    proxy = None if proxy_bypass(name) else getproxies().get(hub.scheme)
    there = urlsplit(proxy if "//" in proxy else f"//{proxy}") if proxy else hub
    port = there.port or (443 if there.scheme == "https" else 80)
    try:
        socket.create_connection((there.hostname or "", port), SECONDS).close()
    except OSError as e:
        raise OSError(f"{there.hostname}:{port} does not answer ({e})") from None


def resolved_revision(hub: str, revision: str | None) -> str:
    """An identifier of the files: a digest of a folder's contents, the pinned revision, or the cached commit;
    `unresolved` before the first download."""
    if (own := Path(hub).expanduser()).is_dir():
        files = sorted(p for pattern in FILES for p in own.glob(pattern))
        return _contents(tuple((p, p.stat().st_mtime_ns) for p in files))
    if revision:
        return revision
    folder = cached(hub)
    return folder.name if folder else "unresolved"


@lru_cache(maxsize=64)
def _contents(files: tuple[tuple[Path, int], ...]) -> str:
    said = "".join(f"{path.name} {sha256_file(path)}\n" for path, _ in files)
    return hashlib.sha256(said.encode()).hexdigest()
