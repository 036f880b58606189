"""Versions of rules (remora/versions.py): a seeded result of each. One that moves without a raise would be taken for
what was kept under the old rule.

    python tests/test_versions.py        # after a raise: writes tests/golden/versions.json anew
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.icons import write_packages
from support.stamps import write_stamps

GOLDEN = Path(__file__).parent / "golden" / "versions.json"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAQAAAADCAIAAAA7ljmRAAAAGklEQVR4nGM8IRfFAANMDAwMtnfWQjiMyDIAYjkES8lPydsAAAAASUVORK5CYII="
)
"""4 x 3 pixels; fixed bytes, since an encoder's may change."""
SAID = [("<image>\nWhat is this?", "a cat"), ("Sure? 42!", "Yes, é 日本."), ("", "two  blanks,\n and a line")]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def _records(folder: Path):
    """An index of records of every kind: with a picture, without, of several turns, with problems."""
    from remora.data.mixture import open_whole
    from remora.spec import MixtureEntry

    (folder / "a.png").write_bytes(PNG)
    records = []
    for i in range(12):
        pairs = SAID[: 1 + i % 3] if i % 2 else SAID[1 : 2 + i % 2]
        turns = [{"from": w, "value": v} for pair in pairs for w, v in zip(("human", "gpt"), pair, strict=True)]
        shown = {"image": "gone.png" if i == 5 else "a.png"} if any("<image>" in p[0] for p in pairs) else {}
        records.append({"id": f"r{i}", "conversations": turns, **shown})
    records.append({"id": "empty", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": ""}]})
    records.append({"id": "one", "conversations": [{"from": "human", "value": "alone"}]})
    (folder / "train.json").write_text(json.dumps(records))
    return open_whole(MixtureEntry(path=str(folder / "train.json"), images=str(folder)), folder / "data")


def index(folder: Path) -> str:
    dataset = _records(folder)
    place = str(folder)
    kept = [dataset.record(i).decode().replace(place, "") for i in range(dataset.records)]
    return _digest([kept, [[f.record, f.kind] for f in dataset.flaws()], dataset.digest])


def _prompter():
    from remora import catalog
    from remora.model.llm import train_tokenizer
    from remora.reading.prompt import Prompter

    return Prompter(
        catalog.template("brief"), train_tokenizer(["a cat and two lines", "What is this? Yes."] * 9, 300), 9
    )


def lengths(folder: Path) -> str:
    from remora.reading.lengths import open_lengths

    dataset = _records(folder)
    table = open_lengths(dataset, _prompter())
    assert table is not None
    return _digest([[s.tokens, s.images, s.supervised] for s in (table[i] for i in range(len(dataset)))])


def condensing(folder: Path) -> str:
    from remora.condense.source import embedding_files
    from remora.condense.steps import Condenser, Embedded
    from remora.condense.vectors import Vectors
    from remora.spec import Condensation

    g = np.random.default_rng(0)
    centres = g.standard_normal((6, 16))
    images = centres[g.integers(0, 6, 400)] + 0.5 * g.standard_normal((400, 16))
    images[:130] = images[200:330] + 0.01 * g.standard_normal((130, 16))  # near-copies
    vectors = []
    for name, rows in (("i", images), ("t", images + g.standard_normal((400, 16)))):
        (folder / name).mkdir()
        np.save(folder / name / "part_0.npy", rows.astype(np.float32))
        vectors.append(Vectors(embedding_files(str(folder / name))))
    facts = {"name": "x", "embeddings": {"images": "u", "texts": "u"}, "clusters": {"count": 5}, "duplicate": 0.9}
    spec = Condensation.model_validate(facts | {"sample": 20})
    steps = Condenser(spec, Embedded(vectors[0], vectors[1], "made up"), folder / "steps").run()
    return _digest([[s.name, s.load("rows").tolist()] for s in steps[1:]])


def demo(folder: Path) -> str:
    from remora.demo import build_demo

    manifest = build_demo(folder / "demo", limit=3)
    return _digest([manifest["sha256"], manifest["counts"], manifest["pictures"]])


def photos(folder: Path) -> str:
    from remora.demo import build_photos

    stamps = write_stamps(folder / "stamps")
    manifest = build_photos(folder / "photos", given=stamps)
    shades = [
        round(float(np.asarray(Image.open(p)).mean()))
        for p in sorted(folder.joinpath("photos").rglob("*-one-0.png"))[::5]
    ]
    return _digest([manifest["sha256"], manifest["counts"], manifest["pictures"], shades])


def styles(folder: Path) -> str:
    from remora.demo import build_styles, concepts
    from remora.demo import styles as module

    pinned = module.PACKAGES
    module.PACKAGES = write_packages(concepts.known_concepts(0, limit=3), folder / "published")
    try:
        manifest = build_styles(folder / "data" / "styles", limit=3)
    finally:
        module.PACKAGES = pinned
    shades = [
        round(float(np.asarray(Image.open(p)).mean()))
        for p in sorted(folder.joinpath("data/styles/images").rglob("*.png"))[::5]
    ]
    return _digest([manifest["sha256"], manifest["counts"], manifest["pictures"], shades])


def asking(folder: Path) -> str:
    """What a model is given for a question: the prompt's tokens and the picture's pixels."""
    from remora import catalog
    from remora.data.conversation import Turn
    from remora.reading.images import preprocess

    prompter = _prompter()
    asked = [
        [Turn("user", "What is this?", 1)],
        [Turn("user", "No picture."), Turn("assistant", "ok"), Turn("user", "é?")],
    ]
    ids = [prompter.encode(turns).ids for turns in asked]
    grid = np.add.outer(np.arange(90) * 2, np.arange(120)).astype(np.uint8)
    picture = Image.fromarray(np.stack([grid, grid.T[:90, :90].repeat(2, 1)[:, :120], 255 - grid], axis=2))
    means = []
    for name, aspect in (("clip-l-336", "square"), ("siglip-so400m-384", "square"), ("efficientnet-lite0", "pad")):
        pixels = preprocess(picture, catalog.vision(name), aspect)
        cells = pixels.reshape(pixels.shape[0], -1).float().numpy()
        means.append([round(float(x), 3) + 0.0 for x in (*cells.mean(axis=1), *cells.std(axis=1))])
    return _digest([[list(map(int, i)) for i in ids], means])


SEEDED: dict[str, Callable[[Path], str]] = {
    "INDEX": index, "LENGTHS": lengths, "CONDENSING": condensing, "DEMO": demo, "PHOTOS": photos, "STYLES": styles,
    "ASKING": asking,
}  # fmt: skip
ELSEWHERE = {"NUMERICS", "SPEED"}
"""tests/training/test_golden.py has the losses of NUMERICS; a speed is no seeded result."""


def _versions() -> dict[str, int]:
    from remora import versions

    return {name: value for name, value in vars(versions).items() if name.isupper()}


def problem(name: str, now: dict[str, object], golden: dict[str, object]) -> str:
    """What is wrong with a version beside its golden result; empty if nothing is."""
    if now["version"] == golden["version"]:
        moved = now["result"] != golden["result"]
        return f"the seeded result moved: raise {name} in remora/versions.py, or undo the change" if moved else ""
    return f"{name} was raised: python tests/test_versions.py writes its result anew"


def test_every_version_has_a_seeded_result() -> None:
    assert set(_versions()) == set(SEEDED) | ELSEWHERE
    assert set(json.loads(GOLDEN.read_text())) == set(SEEDED)


@pytest.mark.parametrize("name", SEEDED)
def test_no_result_moves_without_a_raise(name: str, tmp_path: Path) -> None:
    now = {"version": _versions()[name], "result": SEEDED[name](tmp_path)}
    assert problem(name, now, json.loads(GOLDEN.read_text())[name]) == ""


def test_a_move_without_a_raise_and_a_raise_without_a_result_are_said() -> None:
    kept = {"version": 3, "result": "a"}
    assert problem("ASKING", {"version": 3, "result": "a"}, kept) == ""
    assert problem("ASKING", {"version": 3, "result": "b"}, kept).startswith("the seeded result moved: raise ASKING")
    assert problem("ASKING", {"version": 4, "result": "b"}, kept).startswith("ASKING was raised: python ")


def main() -> None:
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    for name, make in SEEDED.items():
        with tempfile.TemporaryDirectory() as folder:
            now = {"version": _versions()[name], "result": make(Path(folder))}
        if name in golden and (said := problem(name, now, golden[name])).startswith("the seeded"):
            sys.exit(f"{name}: {said}")
        golden[name] = now
    GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
