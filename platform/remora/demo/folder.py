"""A folder of made data: complete or absent, and made again if its files or its key changed.

Its manifest.json has the key (version, seed, …), the number of records and pictures, and the records' sha256.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from remora.data.conversation import LlavaRecord
from remora.demo import concepts
from remora.demo.testing import QuestionLine
from remora.demo.training import texts
from remora.errors import DataError
from remora.files import sha256_file

OnPartProgress = Callable[[str, int, int], None]
"""Called with (task, number done, total)."""


def made(folder: Path, key: Mapping[str, object], fill: Callable[[Path], None]) -> dict[str, object]:
    """The manifest of `folder`; if it does not exist, has another key or is damaged, `fill` makes it first.

    `fill` gets a new folder beside it, which takes its place at the end, and ends with `write_manifest`.

    Raises:
        DataError: the folder has other files.
    """
    if manifest := intact(folder, key):
        return manifest
    if folder.exists() and not (folder / "manifest.json").is_file() and any(folder.iterdir()):
        raise DataError(f"{folder} holds files but no demo data: name another folder, or empty this one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    new, old = workshop / "new", workshop / "old"
    try:
        fill(new)
        if folder.exists():
            folder.replace(old)
        new.replace(folder)
    except OSError:
        # If another process built the same data meanwhile, use that. Otherwise restore what was there.
        if manifest := intact(folder, key):
            return manifest
        if old.exists() and not folder.exists():
            old.replace(folder)
        raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return _read(folder)


def write_records(
    folder: Path, lessons: Mapping[str, Sequence[LlavaRecord]], exams: Mapping[str, Sequence[QuestionLine]]
) -> dict[str, int]:
    """Write training and question files; their numbers of records."""
    for file, records in lessons.items():
        (folder / file).write_text(json.dumps(records, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    for file, lines in exams.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / file).write_text(text, encoding="utf-8")
    return {file: len(records) for file, records in (*lessons.items(), *exams.items())}


def write_manifest(
    folder: Path, key: Mapping[str, object], counts: Mapping[str, int], facts: Mapping[str, object]
) -> None:
    """Write the manifest: the key, the digests of the files in `counts`, the number of pictures, and `facts`."""
    manifest: dict[str, object] = {
        **key,
        "counts": counts,
        "pictures": _picture_counts(folder),
        "sha256": {file: sha256_file(folder / file) for file in counts if (folder / file).is_file()},
        **facts,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def refuse_leaks(file: str, records: Sequence[LlavaRecord], unseen: Sequence[str], held_out: set[str]) -> None:
    """Raise if a training file has a held-out picture or an unseen name: scores would then be meaningless."""
    said = concepts.mention(unseen).search("\n".join(texts(records))) if unseen else None
    shown = held_out & {record.get("image") for record in records}
    if said or shown:
        raise DataError(f"{file} would hold what is kept for testing: {said[0] if said else min(shown)}")


def intact(folder: Path, key: Mapping[str, object]) -> dict[str, object] | None:
    """The folder's manifest, if its key is the same and its files are intact."""
    try:
        manifest = _read(folder)
        same = all(manifest[name] == value for name, value in key.items())
        digests, pictures = manifest["sha256"], manifest["pictures"]
        whole = all(sha256_file(folder / file) == digest for file, digest in digests.items())
        return manifest if same and whole and _picture_counts(folder) == pictures else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # no manifest or a torn one: treated as no data


def _read(folder: Path) -> dict:
    manifest: dict = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def _picture_counts(folder: Path) -> dict[str, int]:
    """Number of pictures in each folder; digests of 9,000 pictures would not be worth their time."""
    found: dict[str, int] = {}
    for picture in (folder / "images").rglob("*.png"):
        part = picture.parent.relative_to(folder / "images").as_posix()
        found[part] = found.get(part, 0) + 1
    return dict(sorted(found.items()))
