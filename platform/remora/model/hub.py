"""Files of a published model: a local folder, or a Hugging Face id that is downloaded once and cached (HF_HOME)."""

from __future__ import annotations

from pathlib import Path

from remora.errors import DataError

FILES = ("*.json", "*.safetensors", "*.bin", "*.pt", "*.model", "*.txt", "*.jinja")
"""What is fetched: configs, weights, tokenizers. Never code: nothing of a repository is executed."""


def snapshot(hub: str, revision: str | None = None, gated: bool = False) -> Path:
    """The folder that holds the files of `hub`, a Hugging Face id or a local folder.

    Raises:
        DataError: neither a folder nor a repository that can be reached; says what to do.
    """
    folder = Path(hub).expanduser()
    if folder.is_dir():
        return folder.absolute()
    if hub.startswith((".", "/", "~")):
        raise DataError(f"no folder {folder}; give a Hugging Face id or the folder of a downloaded model")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub, revision=revision, local_files_only=True, allow_patterns=list(FILES)))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(hub, revision=revision, allow_patterns=list(FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as e:
        reason = str(e).strip().splitlines()[0]
        login = f" Its licence must be accepted at huggingface.co/{hub} and `hf auth login` run." if gated else ""
        raise DataError(
            f"{hub} is not in the cache and cannot be downloaded: {reason}.{login} "
            f"Next: `hf download {hub}` on a machine with access and copy its HF_HOME here, "
            f"or a catalog entry whose hub is the folder of the files (docs/catalog.md)"
        ) from e


def resolved_revision(hub: str, revision: str | None) -> str:
    """What identifies the files: the pinned revision, the cached commit, or `unresolved` before the first download."""
    if revision or Path(hub).expanduser().is_dir():
        return revision or "folder"
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub, local_files_only=True)).name
    except LocalEntryNotFoundError:
        return "unresolved"
