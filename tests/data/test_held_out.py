"""What a stage holds out: by what a record says and shows, whatever its name and position."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from remora.data.held_out import FILE, HeldOut, contents, held_out, trained_on
from remora.data.index import Dataset
from remora.data.mixture import read_mixture
from remora.errors import SpecError
from remora.spec import MixtureEntry, Stage

Record = dict[str, Any]


def records(count: int, first: int = 0) -> list[Record]:
    """Every third with a picture of its own."""
    found: list[Record] = []
    for i in range(first, first + count):
        tag = "<image>\n" if i % 3 == 0 else ""
        said = [("human", f"{tag}What is number {i}?"), ("gpt", f"thing {i}")]
        record: Record = {"id": f"r{i}", "conversations": [{"from": who, "value": words} for who, words in said]}
        found.append(record | ({"image": f"{i}.png"} if tag else {}))
    return found


def write(root: Path, name: str, listed: list[Record]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for record in listed:
        if "image" in record:
            number = int(str(record["image"]).partition(".")[0])
            Image.new("RGB", (8, 6), (number % 256, number // 256, 50)).save(root / str(record["image"]))
    (root / name).write_text(json.dumps(listed))
    return root / name


def stage(*paths: Path, share: float | None = None, others: tuple[Path, ...] = (), **more: object) -> Stage:
    said = {"share": share} if share is not None else {"mixture": [{"path": str(p)} for p in others]}
    mixture = [{"path": str(p)} for p in paths]
    return Stage(name="s", mixture=mixture, lr=1e-3, epochs=1, validate=said | more)


def sides(root: Path, said: Stage) -> tuple[list[Dataset], HeldOut]:
    datasets = read_mixture(said.mixture, root)
    assert said.validation
    return trained_on(said, datasets), held_out(said, datasets, read_mixture(said.validation.mixture, root))


def asked(datasets: list[Dataset] | object) -> list[str]:
    return [sample.turns[0].text for dataset in datasets for sample in dataset]  # type: ignore[attr-defined]


def test_a_share_parts_the_records_and_holds_out_about_as_many(tmp_path):
    whole = stage(write(tmp_path / "a", "a.json", records(600)), share=0.1, limit=1000)
    kept, held = sides(tmp_path, whole)
    assert sorted([*asked(kept), *asked(held.datasets)]) == sorted(asked(read_mixture(whole.mixture, tmp_path)))
    assert 35 < held.samples < 90  # 60, within four standard deviations
    assert held.seen == 0 and set(asked(kept)).isdisjoint(asked(held.datasets))


def test_a_record_is_on_the_same_side_whatever_it_is_called_and_wherever_it_stands(tmp_path):
    listed = records(300)
    first = set(
        asked(sides(tmp_path, stage(write(tmp_path / "a", "a.json", listed), share=0.1, limit=999))[1].datasets)
    )
    assert len(first) > 10
    shuffled = [r | {"id": f"other{i}"} for i, r in enumerate(random.Random(0).sample(listed, 300))]
    one = write(tmp_path / "deep" / "b", "b.json", shuffled[:120])  # in two datasets, elsewhere, among others
    two = write(tmp_path / "c", "c.json", records(200, 1000) + shuffled[120:])
    kept, held = sides(tmp_path, stage(two, one, share=0.1, limit=999))
    again = set(asked(held.datasets))
    assert {t for t in again if int(t.split()[-1][:-1]) < 1000} == first
    assert len(again) > len(first) and not again & set(asked(kept))


def test_a_share_holds_out_all_that_a_smaller_one_does(tmp_path):
    file, before = write(tmp_path / "a", "a.json", records(500)), set[str]()
    for share in (0.01, 0.02, 0.1, 0.5, 0.95):
        now = set(asked(sides(tmp_path, stage(file, share=share, limit=1000))[1].datasets))
        assert before < now
        before = now


def test_which_records_are_held_out_never_changes(tmp_path):
    """Stage runs are known by their share alone: another split under the same name would be another training."""
    texts = [record for record in records(300) if "image" not in record]  # another Pillow writes other PNGs
    held = sides(tmp_path, stage(write(tmp_path / "a", "a.json", texts), share=0.03))[1]
    assert [text.split()[-1] for text in asked(held.datasets)] == ["149?", "163?"]


def test_the_limit_takes_the_same_records_of_any_share_that_has_them(tmp_path):
    file = write(tmp_path / "a", "a.json", records(500))
    found = [sides(tmp_path, stage(file, share=share, limit=8))[1] for share in (0.1, 0.3)]
    assert [h.samples for h in found] == [8, 8]
    assert asked(found[0].datasets) == asked(found[1].datasets) and found[0].digest == found[1].digest


def test_a_record_and_its_copies_are_on_one_side_and_are_read_once(tmp_path):
    listed = records(60)
    copies = [r | {"id": f"copy{i}"} for i, r in enumerate(listed)]
    one, two = write(tmp_path / "a", "a.json", listed + copies), write(tmp_path / "b", "b.json", copies)
    kept, held = sides(tmp_path, stage(one, two, share=0.3, limit=1000))
    assert len(asked(held.datasets)) == len(set(asked(held.datasets))) > 5
    assert len(held.mixture) == 1  # nothing is left of the second, so no entry of it either
    assert set(asked(kept)).isdisjoint(asked(held.datasets))
    assert len(asked(kept)) == 3 * len(set(asked(kept)))


def test_a_picture_is_part_of_what_a_record_shows(tmp_path):
    listed = [r | {"image": "0.png", "conversations": records(1)[0]["conversations"]} for r in records(1)]
    file = write(tmp_path / "a", "a.json", listed)
    (before,) = contents(read_mixture(stage(file, share=0.1).mixture, tmp_path)[0])
    Image.new("RGB", (8, 6), (1, 2, 3)).save(tmp_path / "a" / "0.png")
    (after,) = contents(read_mixture(stage(file, share=0.1).mixture, tmp_path)[0])
    assert before != after


def test_what_a_stage_trains_on_is_left_out_of_the_mixture_that_it_is_validated_by(tmp_path):
    file = write(tmp_path / "a", "a.json", records(50))
    other = write(tmp_path / "b", "b.json", [r | {"id": f"x{i}"} for i, r in enumerate(records(40, 30))])
    kept, held = sides(tmp_path, stage(file, others=(other,)))
    assert len(asked(kept)) == 50  # training reads what it read
    assert (held.samples, held.seen) == (20, 20) and set(asked(held.datasets)).isdisjoint(asked(kept))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"share": 1e-9}, "stage 's': validate.share 1e-09 holds out none of 20 samples; raise it, or validate by"),
        ({"share": 1 - 1e-9}, "holds out all 20 samples of .*a.json, so none is left to train on; lower it"),
        ({"others": "a.json"}, "trains on each of the 20 samples of its validate.mixture, so none is held out; name"),
    ],
)
def test_nothing_to_train_on_or_to_be_validated_by_is_refused(said, message, tmp_path):
    file = write(tmp_path / "a", "a.json", records(20))
    said = {"others": (file,)} if "others" in said else said
    with pytest.raises(SpecError, match=message) as caught:
        sides(tmp_path, stage(file, **said))
    assert "\n" not in str(caught.value)


def test_digests_are_kept_beside_the_index_and_made_anew_when_torn(tmp_path):
    (dataset,) = read_mixture(stage(write(tmp_path / "a", "a.json", records(30)), share=0.1).mixture, tmp_path)
    made = contents(dataset).tolist()
    table = dataset.folder.parent / "contents" / dataset.folder.name / FILE
    assert table.stat().st_size == 8 * 30
    table.write_bytes(b"\0" * 8 * 30)
    moved = tmp_path / "moved" / "index" / "x"
    shutil.copytree(dataset.folder.parent, moved)  # another folder, so that nothing is remembered of it
    assert contents(Dataset(moved / dataset.folder.name)).tolist() == made


def test_what_a_mixture_skips_is_on_neither_side_here_or_in_another_process(tmp_path):
    listed = records(100)
    for i in (3, 50, 99):
        listed[i]["conversations"][1]["value"] = ""
    file = write(tmp_path / "a", "a.json", listed)
    entry = {"path": str(file), "skip": ["empty-answer"], "max_skipped": 0.1}
    whole = stage(file, share=0.2, limit=999).model_copy(
        update={"mixture": (MixtureEntry.model_validate(entry),)},
    )
    kept, held = sides(tmp_path, whole)
    assert len(asked(kept)) + held.samples == 97
    for dataset in (*kept, *held.datasets):
        assert [s.id for s in pickle.loads(pickle.dumps(dataset))] == [s.id for s in dataset]
