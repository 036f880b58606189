"""Batches are the same with and without a table of lengths; with it, a rank tokenises only its own samples."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from remora import catalog
from remora.data.mixture import read_mixture
from remora.errors import DataError, StoreError
from remora.reading import lengths
from remora.reading.batches import StageData
from remora.reading.lengths import FILE, open_lengths
from remora.reading.prompt import Prompter
from remora.spec import Stage

N = 3
CUT, DROPPED, BROKEN = 3, 5, 9
"""Records of 20 that are cut, dropped and skipped."""


@pytest.fixture
def stage_data(tmp_path, tiny_tokenizer):
    """Twenty samples of unlike lengths, every third with a picture, in steps of eight."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    records = []
    for i in range(20):
        image = {"image": "none.png" if i == BROKEN else "a.png"} if i % 3 == 0 else {}
        said = [("<image>\n" * bool(image) + f"What is {i}?", "a " * (1 + 7 * i % 11))]
        said += [("And then?", "b " * 90)] if i == CUT else []
        said = [("q " * 90, "a")] if i == DROPPED else said
        turns = [{"from": who, "value": v} for pair in said for who, v in zip(("human", "gpt"), pair, strict=True)]
        records.append({"id": f"s{i}", "conversations": turns} | image)
    (tmp_path / "train.json").write_text(json.dumps(records))

    def make(image_tokens: int = N, **changes) -> StageData:
        entry = {"path": str(tmp_path / "train.json"), "skip": ["missing-image"], "max_skipped": 1}
        stage = {"name": "s", "mixture": [entry], "template": "brief", "batch": 8, "epochs": 2, "lr": 1e-3}
        checked = Stage.model_validate(stage | {"max_length": 60} | changes)
        prompter = Prompter(catalog.template("brief"), tiny_tokenizer, image_tokens)
        return StageData(checked, read_mixture(checked.mixture, tmp_path), prompter, "efficientnet-lite0", 5)

    return make


def measured(data: StageData) -> StageData:
    data.lengths = [open_lengths(d, data.prompter) for d in data.samples]
    return data


@pytest.mark.parametrize("count_pictures", [True, False])
@pytest.mark.parametrize("rows", ["packed", "padded"])
def test_batches_are_the_same_and_a_rank_tokenises_its_own_samples(stage_data, rows, count_pictures, monkeypatch):
    plain, table = stage_data(count_pictures=count_pictures), measured(stage_data(count_pictures=count_pictures))
    table = pickle.loads(pickle.dumps(table))  # as a process that loads batches has it
    encoded: list[str] = []
    encode = StageData.encode
    monkeypatch.setattr(StageData, "encode", lambda data, sample: encoded.append(sample.id) or encode(data, sample))
    unfit = {f"s{CUT}", f"s{DROPPED}"}
    met = set()
    for step in range(plain.steps):
        ids = {plain.sample(p).id for p in plain.positions(step)}
        for rank in range(2):
            expected = plain.read(step, rank, 2, 2, rows)
            encoded.clear()
            got = table.read(step, rank, 2, 2, rows)
            own = {table.sample(k - table.seed).id for b in got.batches if b.supervised for k in b.keys.tolist()}
            assert set(encoded) == own | unfit & ids and len(encoded) == len(set(encoded))
            assert got.dropped == expected.dropped and len(got.batches) == len(expected.batches)
            met |= expected.dropped.keys()
            for one, other in zip(got.batches, expected.batches, strict=True):
                for f in fields(one):
                    if getattr(one, f.name) is not None:
                        assert torch.equal(*(torch.as_tensor(getattr(b, f.name)) for b in (one, other))), f.name
    assert met == {f"s{DROPPED}"}


def test_a_table_serves_every_number_of_image_tokens_and_no_other_template(stage_data, tiny_tokenizer):
    data = stage_data()
    (dataset,) = data.samples
    sizes = [data.prompter.encode(sample.turns).size for sample in dataset]
    table = open_lengths(dataset, data.prompter)
    assert [table[i] for i in range(len(dataset))] == sizes
    more = Prompter(catalog.template("brief"), tiny_tokenizer, 50)
    assert [open_lengths(dataset, more)[i] for i in range(len(dataset))] == [
        more.encode(sample.turns).size for sample in dataset
    ]
    home = dataset.folder.parent / "lengths"
    assert len(list(home.glob("*.lock"))) == 1
    plain = Prompter(catalog.template("plain"), tiny_tokenizer, N)
    assert open_lengths(dataset, plain)[0] == plain.encode(dataset[0].turns).size != table[0]
    assert len(list(home.glob("*.lock"))) == 2


def test_a_torn_table_is_measured_anew(stage_data):
    data = stage_data()
    (dataset,) = data.samples
    open_lengths(dataset, data.prompter)
    (file,) = (dataset.folder.parent / "lengths").rglob(FILE)
    whole = file.read_bytes()
    for torn in (whole[:-1], b"\1" + whole[1:], b""):
        file.write_bytes(torn)
        open_lengths(dataset, data.prompter)
        assert file.read_bytes() == whole
    file.unlink()
    open_lengths(dataset, data.prompter)
    assert file.read_bytes() == whole


def test_a_table_that_is_wrong_is_named_and_measured_anew(stage_data, monkeypatch):
    with monkeypatch.context() as wrong:
        wrong.setattr(lengths, "_measured", lambda d, p, numbers: np.full((len(numbers), 3), (9, 0, 1), "u4").tobytes())
        data = measured(stage_data())
    with pytest.raises(DataError, match=r"^wrong lengths: .*train.json: record \d+ has \d+ tokens, 9 were measured; "):
        data.read(0, 0, 1, 8, "packed")
    assert measured(data).read(0, 0, 1, 8, "packed").batches


def test_two_that_measure_at_once_measure_once_and_have_the_same(stage_data, monkeypatch):
    data = stage_data()
    (dataset,) = data.samples
    written, write = [], lengths._write
    monkeypatch.setattr(lengths, "_write", lambda *args: written.append(args) or write(*args))
    with ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(lambda _: open_lengths(dataset, data.prompter), range(4)))
    assert len(written) == 1 and all(table[0] == tables[0][0] for table in tables)


def test_a_disk_that_takes_no_table_costs_only_time(stage_data, monkeypatch, caplog):
    def full(*_, **__):
        raise StoreError("/data: the file system is read-only; free or choose another")

    monkeypatch.setattr(lengths, "exclusive", full)
    data = measured(stage_data())
    assert data.lengths == [None] and "read-only" in caplog.text
    assert data.read(0, 0, 1, 8, "packed").batches
