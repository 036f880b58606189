"""The pictures of an index, found by searching its bytes: the same as by reading every sample."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from remora.data.conversation import Turn
from remora.data.index import Dataset, Flaw, IndexWriter, encode_record
from remora.data.picture_list import ListedPicture, picture_set, pictures
from remora.data.pictures import Picture
from remora.files import digest
from remora.spec import MixtureEntry
from support.tiny import write_records

SHA = st.text("0123456789abcdef", min_size=64, max_size=64)
# Texts that look like a record's own bytes.
TEXT = st.one_of(
    st.text(),
    SHA,
    st.sampled_from(['["a",0,null,"' + "0" * 64 + '",null]', '",0,5,"' + "1" * 64 + '",[1,2]]', "\\", '"']),
)
SIZE = st.none() | st.tuples(st.integers(1, 9999), st.integers(1, 9999))
PICTURE = st.builds(Picture, TEXT.filter(bool), st.integers(0, 2**40), st.none() | st.integers(1, 2**40), SHA, SIZE)
RECORD = st.tuples(st.none() | TEXT, TEXT, st.lists(TEXT, min_size=2, max_size=4), st.lists(PICTURE, max_size=3))


def written(folder: Path, records: list[bytes], skipped: set[int]) -> Dataset:
    folder.mkdir(parents=True)
    flaws = [Flaw(number, "empty-answer", "p") for number in sorted(skipped)]
    with IndexWriter(folder) as writer:
        writer.add("f.json", 0, records, b"", flaws)
    writer.finish()
    return Dataset(folder, ("empty-answer",))


@settings(max_examples=60, deadline=None)
@given(st.lists(RECORD, max_size=6), st.sets(st.integers(0, 5)))
def test_searched_as_read(tmp_path_factory, records, skipped) -> None:
    encoded = [encode_record(n, s, [Turn("user", t) for t in turns], images) for n, s, turns, images in records]
    folder = tmp_path_factory.mktemp("list") / "data" / "index" / "x" / "y"
    dataset = written(folder, encoded, {n for n in skipped if n < len(records)})
    expected = []
    for i in range(len(dataset)):
        _, _, shown, *_ = json.loads(dataset.record(dataset.number(i)))
        expected += [ListedPicture(dataset.number(i), place, offset, sha) for place, offset, _, sha, _ in shown]
    assert list(pictures(dataset)) == expected
    found = picture_set(dataset)
    shas = [each.sha256 for each in expected]
    assert (found.shown, found.distinct, found.digest) == (len(shas), len(set(shas)), digest(sorted(set(shas))))


def test_the_digest_does_not_depend_on_where_pictures_are(tmp_path: Path) -> None:
    from remora.data.mixture import open_entry

    sets = []
    for place in ("one", "two/deep"):
        file = write_records(tmp_path / place, images="pictures")
        sets.append(
            picture_set(
                open_entry(
                    MixtureEntry(path=str(file), images=str(tmp_path / place / "pictures")), tmp_path / place / "data"
                )
            )
        )
    assert sets[0] == sets[1] and sets[0].shown == 3
    Image.new("RGB", (8, 6), (1, 2, 3)).save(tmp_path / "one" / "pictures" / "0.png")
    entry = MixtureEntry(path=str(tmp_path / "one" / "train.json"), images=str(tmp_path / "one" / "pictures"))
    changed = picture_set(open_entry(entry, tmp_path / "other"))
    assert changed.digest != sets[0].digest and changed.shown == 3
