"""Files that somebody asked for at a place of their own: what keeps it from being written is one line."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from remora.errors import DataError


@contextlib.contextmanager
def writes(path: Path | str, option: str) -> Iterator[None]:
    """Around the writing of `path`, which was given as `option` (--json, target).

    Raises:
        DataError: it cannot be written. An error about a file elsewhere, one that is read meanwhile, passes as it is.
    """
    place = Path(path).expanduser().absolute()
    try:
        yield
    except OSError as e:
        if e.filename is not None and not Path(e.filename).absolute().is_relative_to(place.parent):
            raise
        reason = "the disk is full" if e.errno == errno.ENOSPC else e.strerror or type(e).__name__
        raise DataError(f"{option} {path}: cannot be written: {reason}; give another place") from e
