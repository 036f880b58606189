"""A new output folder for exports, imports and averages: existing files are never replaced, a full disk is one line."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from remora.errors import DataError, StoreError
from remora.files import scratch


def refuse_full(out: Path) -> None:
    """Refuse a folder with files, since publishing would replace it.

    Raises:
        DataError: `out` is not empty.
    """
    with output_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out} exists and is not empty; give a new folder with --out")


@contextlib.contextmanager
def writing(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`, removed when the block ends.

    Raises:
        StoreError: nothing can be written there.
    """
    with output_errors(out), scratch(out) as tmp:
        yield tmp


@contextlib.contextmanager
def output_errors(out: Path) -> Iterator[None]:
    """Turn disk errors, including safetensors' own, into one line about `out`."""
    try:
        yield
    except OSError as e:
        if e.errno is None:
            raise
        raise StoreError(f"{out} cannot be written: {_reason(e)}; give another folder with --out") from e
    except SafetensorError as e:
        raise StoreError(f"{out} cannot be written: {e}; free space, or give another folder with --out") from e


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full, or out of inodes"
    return (error.strerror or str(error)).lower()
