"""Build the photo demo's data: scenes of cut-out photographs with questions, in one folder.

    python -c "from pathlib import Path; from remora.demo import build_photos; build_photos(Path('photo-data'))"

The result depends only on the seed and the stamps. A quarter of the things is held out: no training file shows or names
them.
"""

import random
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from remora.data.conversation import LlavaRecord
from remora.demo import concepts, stamps
from remora.demo.folder import OnPartProgress, made, refuse_leaks, write_manifest, write_records
from remora.demo.openmoji import write
from remora.demo.question_makers import WHAT, QuestionAnswer
from remora.demo.scenes import Examiner, Scene, composed, scenes
from remora.demo.testing import QuestionLine, numbered
from remora.demo.training import record, without_picture
from remora.versions import PHOTOS

AMOUNTS = {"one": 20, "pair": 12, "some": 12}
"""Training scenes of each seen thing, by layout."""
EXAM = {"one": 1, "pair": 1, "some": 1}
EXAM_UNSEEN = {"one": 2, "pair": 2, "some": 2}
VALIDATION = 60
"""Scenes of seen things that choose the champion."""
FIRST = {"kind": 3, "name": 4, "name of four": 2, "kind of four": 1, "count": 3, "yes/no": 1} | {
    "kind on a side": 3, "name on a side": 3
}  # fmt: skip
"""How often a conversation begins with each kind of question: later turns may use what was said before."""
TURNS = 2


def build_photos(
    folder: Path,
    *,
    given: Path | None = None,
    seed: int = 0,
    progress: OnPartProgress = lambda what, done, of: None,
) -> dict[str, object]:
    """Build the data in `folder` and return its manifest; if it exists and is intact, only return it.

    Args:
        folder: Where; Tux Paint's stamps are kept beside it.
        given: A .deb or folder of Tux Paint's stamps (default: see stamps.py).
        seed: Of the split into seen and unseen things, and of the scenes.
        progress: Called with (task, number done, total).

    Raises:
        DataError: there are no stamps, or not enough of them.
    """
    folder = Path(folder).absolute()
    key: dict[str, object] = {"version": PHOTOS, "seed": seed}
    source = None
    if given is not None:
        source = stamps.stamps(given, folder.parent, progress)
        key["stamps"] = stamps.fingerprint(source)
    return made(folder, key, partial(_fill, key=key, source=source, seed=seed, progress=progress))


def _fill(folder: Path, key: Mapping[str, object], source: Path | None, seed: int, progress: OnPartProgress) -> None:
    if source is None:
        source = stamps.stamps(None, folder.parent.parent, progress)
        key = {**key, "stamps": stamps.fingerprint(source)}
    progress("cutting out", 0, 1)
    cutouts = stamps.cutouts(source)
    seen, unseen = concepts.split(list(cutouts), seed)
    phrases = {kind: facts["phrase"] for kind, facts in stamps.kind_facts().items()}
    by_name, by_kind = Examiner(seen, phrases, by_name=True), Examiner(unseen, phrases, by_name=False)

    taught = scenes(seen, "train", AMOUNTS, seed)
    fresh = scenes(seen, "seen", EXAM, seed)
    others = scenes(seen, "val", EXAM, seed)
    chosen = random.Random(f"{seed}/validation").sample(others, min(VALIDATION, len(others)))
    strange = scenes(unseen, "unseen", EXAM_UNSEEN, seed)
    lessons = {
        "captions.json": [record(s.name, [(WHAT, s.caption(phrases))], s.file) for s in taught],
        "language.json": _language(taught, by_name, phrases, seed),
        "finetune.json": [record(s.name, _talk(by_name, s, seed), s.file) for s in taught],
    }
    exams = {
        "val.jsonl": _exam(by_name, chosen, seed),
        "scenes.jsonl": _exam(by_name, fresh, seed),
        "unseen.jsonl": _exam(by_kind, strange, seed),
    }
    held = {s.file for s in (*chosen, *fresh, *strange)}
    for file, records in lessons.items():
        refuse_leaks(file, records, [thing.name for thing in unseen], held)

    every = [*taught, *chosen, *fresh, *strange]
    for done, scene in enumerate(every):
        target = folder / "images" / scene.file
        target.parent.mkdir(parents=True, exist_ok=True)
        write(composed(scene, cutouts, seed), target)
        if done % 100 == 0:
            progress("pictures", done, len(every))
    counts = write_records(folder, lessons, exams)
    (folder / "ATTRIBUTION.txt").write_text(stamps.ATTRIBUTION, encoding="utf-8")
    facts = {"concepts": {"seen": concepts.per_kind(seen), "unseen": concepts.per_kind(unseen)}, "source": source.name}
    write_manifest(folder, key, counts, facts)
    progress("pictures", len(every), len(every))


def _language(taught: Sequence[Scene], examiner: Examiner, phrases: dict[str, str], seed: int) -> list[LlavaRecord]:
    """Text only: captions, then questions about scenes, with the caption in place of the picture."""
    records = []
    for scene in taught:
        caption = scene.caption(phrases)
        turns = _talk(examiner, scene, seed + 1)
        records.append(record(f"language-{scene.name}", without_picture(caption, turns)))
        if scene.name.endswith("-0"):
            records.append(record(f"language-{scene.name}-caption", without_picture(caption, [(WHAT, caption)])))
    return records


def _talk(examiner: Examiner, scene: Scene, seed: int) -> list[tuple[str, str]]:
    """Some of the scene's questions with their answers; the first one's category is drawn by weight."""
    rng = random.Random(f"{seed}/talk/{scene.name}")
    questions = examiner.questions(scene, rng)
    first = rng.choices(questions, [FIRST[q.category] for q in questions])[0]
    rest = [q for q in questions if q is not first]
    return [q.turn for q in [first, *rng.sample(rest, TURNS - 1)]]


def _exam(examiner: Examiner, asked: Sequence[Scene], seed: int) -> list[QuestionLine]:
    """Every question about the scenes."""
    pairs: list[tuple[str, QuestionAnswer]] = []
    for scene in asked:
        questions = examiner.questions(scene, random.Random(f"{seed}/exam/{scene.name}"))
        pairs += [(scene.file, question) for question in questions]
    return numbered(pairs)
