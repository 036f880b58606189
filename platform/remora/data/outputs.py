"""Errors of writing an output file that the user named, as one line."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from remora.errors import DataError


@contextlib.contextmanager
def writes(path: Path | str, option: str) -> Iterator[None]:
    """Wrap the writing of `path`, which the user gave as `option` (--json, target).

    Raises:
        DataError: it cannot be written. Errors about other files, such as one that is being read, pass unchanged.
    """
    place = Path(path).expanduser().absolute()
    try:
        yield
    except OSError as e:
        if e.filename is not None and not Path(e.filename).absolute().is_relative_to(place.parent):
            raise
        reason = "the disk is full" if e.errno == errno.ENOSPC else e.strerror or type(e).__name__
        raise DataError(f"{option} {path}: cannot be written: {reason}; give another place") from e
