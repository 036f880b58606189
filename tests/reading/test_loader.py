"""Batches are the same from any dataloader worker; a worker's errors arrive as themselves."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from remora import catalog
from remora.data.mixture import read_mixture
from remora.data.skipped import Skipped
from remora.errors import BrokenRecord, DataError, TrainingError
from remora.reading.batches import StageData
from remora.reading.loader import DEATHS, Loader
from remora.reading.prompt import Prompter
from remora.spec import Stage
from support.stores import png, store

pytestmark = pytest.mark.slow
SHARE = (0, 1, 3, "packed")
STEPS = 5


@pytest.fixture
def stage_data(tmp_path, tiny_data, tiny_tokenizer):
    file = tiny_data(count=24)

    def make(**more) -> StageData:
        entry = {"path": str(file), "images": str(tmp_path / "images"), **more}
        stage = Stage(name="test", mixture=[entry], template="brief", batch=9, steps=1000, max_length=200, lr=1e-3)
        prompter = Prompter(catalog.template("brief"), tiny_tokenizer, 4)
        return StageData(stage, read_mixture(stage.mixture, tmp_path), prompter, "efficientnet-lite0", 7)

    return make


def same(a, b) -> bool:
    return a.dropped == b.dropped and all(
        torch.equal(*map(torch.as_tensor, (getattr(x, f.name), getattr(y, f.name))))
        for x, y in zip(a.batches, b.batches, strict=True)
        for f in fields(x)
        if getattr(x, f.name) is not None or getattr(y, f.name) is not None
    )


def kill_all() -> None:
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
        child.join()


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_every_number_of_loaders_makes_the_same_batches(stage_data, tmp_path, processes):
    data = stage_data(skip=["missing-image"], max_skipped=0.5)
    (tmp_path / "images" / "5.png").unlink()  # since it was indexed
    expected = [data.read(step, *SHARE) for step in range(STEPS)]
    assert {(why.entry, why.kind) for e in expected for why in e.dropped.values()} == {(0, "missing-image")}
    with Loader(data, SHARE, range(STEPS), processes) as loader:
        got = list(loader)
    assert len(got) == STEPS and all(map(same, got, expected))
    assert [g.dropped for g in got] == [e.dropped for e in expected]
    assert not any(b.pixels.is_shared() for g in got for b in g.batches)  # nothing in /dev/shm
    with Loader(data, SHARE, range(3, STEPS), processes) as loader:
        assert all(map(same, loader, expected[3:]))


@pytest.mark.parametrize("processes", [0, 1])
def test_an_error_arrives_as_itself(stage_data, tmp_path, processes):
    data = stage_data()
    (tmp_path / "images" / "5.png").unlink()
    line = f"missing image: {tmp_path}/images/5.png; put it there or remove its record"
    with Loader(data, SHARE, range(STEPS), processes) as loader, pytest.raises(BrokenRecord) as e:
        list(loader)
    assert str(e.value) == line and e.value.kind == "missing-image"


def test_an_index_that_is_gone_is_named_by_the_process_that_needs_it(stage_data):
    data = stage_data()
    (data.samples[0].folder / "offsets.bin").unlink()
    with Loader(data, SHARE, range(STEPS), 1) as loader, pytest.raises(DataError, match="unreadable index"):
        next(loader)


def test_a_killed_process_is_replaced_and_said_until_too_many_were(stage_data, caplog):
    data = stage_data()
    expected = [data.read(step, *SHARE) for step in range(30)]
    with Loader(data, SHARE, range(30), 2) as loader:
        first = next(loader)
        kill_all()
        assert all(map(same, [first, *loader], expected))
    assert "a dataloader worker died 1 times" in caplog.text and caplog.records[0].levelno == logging.WARNING
    too_often = pytest.raises(TrainingError, match=f"died {DEATHS + 1} times, now at step .*lower cluster.loaders")
    with Loader(data, SHARE, range(1000), 1) as loader, too_often:
        for _ in range(100):
            next(loader)
            kill_all()


def test_no_process_outlives_a_killed_training(stage_data, tmp_path):
    """They hold its standard output, so it ends when the last of them has."""
    (tmp_path / "data").write_bytes(pickle.dumps(stage_data()))
    script = tmp_path / "train.py"
    script.write_text(
        "import os, pickle, sys\n"
        "from remora.reading.loader import Loader\n"
        "if __name__ == '__main__':\n"
        "    loader = Loader(pickle.load(open(sys.argv[1], 'rb')), (0, 2, 3, 2), range(5), 2)\n"
        "    next(loader)\n"
        "    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, script, tmp_path / "data"], stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == 9


def test_a_process_reads_from_a_store_that_fails_at_first(stage_data, tmp_path, tiny_data):
    with store() as shop:
        shop.files["/a.png"] = png()
        file = tiny_data(count=24)
        records = [record | {"image": shop.url("/a.png")} for record in json.loads(file.read_text())]
        file.write_text(json.dumps(records))
        data = stage_data()
        expected = [data.read(step, *SHARE) for step in range(2)]
        ports = {port for _, port in shop.asked}
        shop.script["/a.png"] = ["503"]
        with Loader(data, SHARE, range(2), 1) as loader:
            assert all(map(same, loader, expected))
        assert len({port for _, port in shop.asked} - ports) == 1  # its own connection, kept open


def test_what_is_skipped_is_counted_with_what_was_and_limited(stage_data, tmp_path):
    (tmp_path / "images" / "1.png").unlink()
    data = stage_data(skip=["missing-image", "corrupt-image"], max_skipped=3 / 24)
    skipped = Skipped(data.stage.mixture, data.samples)
    path = Path(data.stage.mixture[0].path).name
    assert skipped.as_json() == [{"dataset": path, "records": 24, "skipped": {"missing-image": 1}}]
    for sample, kind in [("a", "corrupt-image"), ("b", "missing-image"), ("a", "corrupt-image")]:
        skipped.add(0, sample, kind)
    assert skipped.lines() == [f"{path}: 3 of 24 records left out (2 missing-image, 1 corrupt-image)"]
    with pytest.raises(DataError) as e:
        skipped.add(0, "c", "corrupt-image")
    assert str(e.value).startswith(
        f"{path}: 2 corrupt-image, 1 missing-image found while training and 1 records skipped before, of 24, "
        "are more than max_skipped 0.125 allows; the last is sample 'c'; "
    )
