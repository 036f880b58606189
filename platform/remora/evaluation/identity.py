"""The identity of an ask: its words, its pictures' bytes and its limit, independent of file locations.

Answers are stored by it, so moving or copying a run folder, renaming a model or adding a question repeats nothing;
changing a word or a pixel does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from remora.data.pictures import Picture
from remora.evaluation.ask import Ask
from remora.evaluation.hub_tables import InParquet
from remora.evaluation.question import InlinePicture, Shown
from remora.files import digest, disk_errors, sha256_file, write_atomic
from remora.versions import ASKING

THREADS = 4
"""Files hashed in parallel: hashing waits for the disk."""
MISSING = "missing"
"""The digest of a missing file: once it exists, its questions are asked again."""


class PictureDigests:
    """sha256 of pictures' files. Earlier ones are read from `kept`, by path, size and time of change."""

    def __init__(self, kept: Path) -> None:
        self.kept = kept
        self._known: dict[str, list[str | int]] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):  # missing or torn: files are hashed again
            self._known = dict(json.loads(kept.read_text()))
        self._changed = False

    def of(self, pictures: Iterable[Shown]) -> dict[str, str]:
        """The digest of each picture, by its name (`str`)."""
        found: dict[str, str] = {}
        files: dict[str, tuple[str, str]] = {}
        for shown in pictures:
            match shown:
                case InlinePicture():
                    found[str(shown)] = hashlib.sha256(shown.content).hexdigest()
                case InParquet():
                    place = f"/{shown.row_group}/{shown.row}/{shown.column}/{shown.nth}"
                    files[str(shown)] = (shown.file, place)
                case Picture():
                    files[str(shown)] = (shown.location, "")
                case _:
                    raise TypeError(f"{type(shown).__name__} has no content to know it by")
        paths = sorted({path for path, _ in files.values()})
        with ThreadPoolExecutor(THREADS) as pool:
            digests = dict(zip(paths, pool.map(self._file, paths), strict=True))
        self._keep()
        return found | {name: digests[path] + place for name, (path, place) in files.items()}

    def _file(self, path: str) -> str:
        try:
            stat = Path(path).stat()
            known = self._known.get(path)
            if known and known[:2] == [stat.st_size, stat.st_mtime_ns]:
                return str(known[2])
            content = sha256_file(Path(path))
        except OSError:  # an unreadable file is reported when its question is asked
            return MISSING
        self._known[path] = [stat.st_size, stat.st_mtime_ns, content]
        self._changed = True
        return content

    def _keep(self) -> None:
        if self._changed:
            with disk_errors(self.kept.parent):
                write_atomic(self.kept, json.dumps(self._known))
        self._changed = False


def shown(asks: Sequence[Ask]) -> list[Shown]:
    """The pictures of the asks, each once."""
    return list({str(p): p for a in asks for p in a.question.pictures}.values())


def missing(asks: Sequence[Ask], content: Mapping[str, str]) -> list[str]:
    """The asks' missing pictures, each once; `content` is from `PictureDigests.of`."""
    return [str(p) for p in shown(asks) if content[str(p)].startswith(MISSING)]


def ask_digests(asks: Sequence[Ask], content: Mapping[str, str]) -> list[str]:
    """Each ask's digest; `content` is from `PictureDigests.of`."""
    return [
        digest([ASKING, a.condition, q.id, q.text, [content[str(p)] for p in q.pictures], q.max_new_tokens])
        for a in asks
        for q in [a.question]
    ]
