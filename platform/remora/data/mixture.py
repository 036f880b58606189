"""A stage's datasets: where they are, opened, and fingerprinted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from remora import catalog
from remora.data.conversation import Sample, read_llava_json
from remora.data.images import UNREADABLE
from remora.errors import DataError
from remora.spec import MixtureEntry


def locate(entry: MixtureEntry, data: Path) -> tuple[Path, Path, str]:
    """(JSON file, image folder, what to do if it is missing) of a mixture entry; `data` holds the catalog's sets."""
    if entry.dataset is not None:
        known = catalog.dataset(entry.dataset)
        return data / known.path, data / known.images, f" (dataset {entry.dataset!r}); next: {known.make}"
    assert entry.path is not None
    path = Path(entry.path).expanduser().absolute()
    images = Path(entry.images).expanduser().absolute() if entry.images else path.parent
    return path, images, "; give the path of a LLaVA JSON file"


def read_mixture(mixture: Sequence[MixtureEntry], data: Path) -> list[list[Sample]]:
    """Every dataset of a mixture, in order."""
    return [read_llava_json(*locate(entry, data)) for entry in mixture]


def fingerprint(mixture: Sequence[MixtureEntry], data: Path) -> str:
    """Digest of everything that a mixture reads: the JSON files and every picture's bytes.

    It opens each picture, so a missing or broken one is found before anything trains.
    """
    return hashlib.sha256("".join(_fingerprint(*_stat(e, data)) for e in mixture).encode()).hexdigest()


def _stat(entry: MixtureEntry, data: Path) -> tuple[Path, Path, str, int]:
    path, images, hint = locate(entry, data)
    return path, images, hint, path.stat().st_mtime_ns if path.exists() else 0


@lru_cache(maxsize=64)
def _fingerprint(path: Path, images: Path, hint: str, mtime: int) -> str:
    seen = hashlib.sha256()
    files: dict[Path, None] = {}
    for sample in read_llava_json(path, images, hint):
        files.update(dict.fromkeys(sample.images))
    seen.update(path.read_bytes())
    for file in files:
        _check_picture(file)
        seen.update(hashlib.sha256(file.read_bytes()).digest())
    return seen.hexdigest()


def _check_picture(path: Path) -> None:
    try:
        with Image.open(path) as image:
            image.verify()  # walks the file's chunks and checksums without decoding the pixels
    except FileNotFoundError:
        raise DataError(f"missing image: {path}; put it there or remove its record") from None
    except UNREADABLE as e:
        raise DataError(f"unreadable image: {path}: {e}; replace the file or remove its record") from None
