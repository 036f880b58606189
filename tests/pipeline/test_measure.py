"""Problems of a benchmark's files are found before a model is loaded or a cluster started."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from remora.errors import DataError
from remora.pipeline.measure import notes, prepare
from remora.runs import Store

YAML = "title: t\nquestions: q.jsonl\nimages: .\nmetric: multiple-choice\nmax_new_tokens: 8\n"


@pytest.fixture
def own(tmp_path):
    """A user's benchmark about these pictures, none of which exists."""

    def make(*pictures):
        (tmp_path / "own.yaml").write_text(YAML)
        asked = {"text": "Which?", "answer": "a", "category": "c", "choices": ["a", "b"]}
        lines = [json.dumps(asked | {"question_id": i, "image": p}) + "\n" for i, p in enumerate(pictures)]
        (tmp_path / "q.jsonl").write_text("".join(lines))
        return str(tmp_path / "own.yaml")

    return make


def test_pictures_that_are_missing_are_named(own, tmp_path):
    name = own("a.png", "b.png", "c.png")
    with pytest.raises(DataError, match=r"own.yaml: all of its pictures are missing, the first: \S+/a.png; see"):
        prepare(name, Store(tmp_path / "runs"))
    for made in ("a.png", "c.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / made)
    prepared = prepare(name, Store(tmp_path / "runs"))
    (note,) = notes(prepared)
    assert (
        note == f"own: 1 of its pictures are missing, the first: {tmp_path}/b.png; questions about them count as wrong"
    )
    Image.new("RGB", (4, 4), "red").save(tmp_path / "b.png")
    whole = prepare(name, Store(tmp_path / "runs"))
    assert not notes(whole) and len(set(whole.keys)) == len(whole.asks)


def test_a_benchmark_without_a_question_is_refused(own, tmp_path):
    with pytest.raises(DataError, match=r"q.jsonl: no record in it"):
        prepare(own(), Store(tmp_path / "runs"))
