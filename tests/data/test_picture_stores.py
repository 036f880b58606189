"""Pictures from stores that fail, hang or send wrong bytes: transient errors are retried, permanent ones reported."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import re
import threading
from pathlib import Path

import fsspec
import pytest

from remora.data import locations
from remora.data.index_builder import open_dataset
from remora.data.pictures import Picture
from remora.data.sources import find_source
from remora.errors import BrokenRecord, DataError
from support.stores import Store, png, store

PNG = png()


@pytest.fixture
def shop(monkeypatch):
    monkeypatch.setattr(locations, "PAUSE", 0.0)
    monkeypatch.setattr(locations, "TIMEOUT", 10.0)  # nothing that a test waits for by its clock
    with store() as server:
        server.files["/a.png"] = PNG
        yield server


def asked(shop: Store, path: str) -> int:
    return sum(p == path for p, _ in shop.asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", [["503", "500"], ["half", "half"], ["429", "408", "425"], ["half", "hang", "502", "500"]]
)
def test_what_passes_is_tried_again_and_said(shop, caplog, monkeypatch, script):
    monkeypatch.setattr(locations, "TIMEOUT", 1.0 if "hang" in script else 10.0)
    shop.script["/a.png"] = list(script)
    assert Picture(shop.url("/a.png")).read() == PNG
    assert asked(shop, "/a.png") == len(script) + 1
    said = [r for r in caplog.records if r.name == "remora.data.locations"]
    assert [r.levelno for r in said] == [logging.WARNING] * len(script)
    assert said[0].getMessage().startswith(f"{shop.url('/a.png')}: try 1 of 5: ")


@pytest.mark.parametrize(("word", "reason"), [("503", "HTTP 503"), ("half", "Payload"), ("drop", "isconnect")])
def test_a_store_that_stays_away_is_named_with_how_often_it_was_asked(shop, word, reason):
    shop.script["/a.png"] = [word] * 99
    with pytest.raises(DataError) as e:
        Picture(shop.url("/a.png")).open()
    assert re.match(
        rf"unreadable image: {re.escape(shop.url('/a.png'))}: after 5 tries in \d+ s: .*{reason}.*; check ",
        str(e.value),
    )
    assert not isinstance(e.value, BrokenRecord)  # nothing is known of the picture itself
    assert asked(shop, "/a.png") == (10 if word == "drop" else 5)  # aiohttp asks a second time by itself


def test_a_store_where_nobody_listens_is_named(monkeypatch):
    monkeypatch.setattr(locations, "PAUSE", 0.0)
    with store() as gone:
        url = gone.url("/a.png")
    with pytest.raises(DataError, match=r"after 5 tries in 0 s: .*onnect"):
        Picture(url).open()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("404", "missing image: "),
        ("410", "missing image: "),
        ("400", "unreadable image: .*: HTTP 400 Bad Request; replace"),
        ("403", "unreadable image: .*: HTTP 403 Forbidden; check that its store"),
    ],
)
def test_what_stays_is_not_tried_again(shop, word, expected):
    shop.script["/a.png"] = [word] * 2
    with pytest.raises(DataError, match=expected):
        Picture(shop.url("/a.png")).open()
    assert asked(shop, "/a.png") == 1


@pytest.mark.parametrize("path", ["/a.bin", "/a.bin?whole"])
def test_a_range_is_a_range_and_one_connection_is_kept(shop, path):
    shop.files["/a.bin"] = bytes(range(200))
    for offset in (0, 20, 90):
        assert Picture(shop.url(path), offset, 50).read() == bytes(range(offset, offset + 50))
    assert len({port for _, port in shop.asked}) == 1


def test_a_library_without_a_time_limit_is_left_behind(monkeypatch):
    release = threading.Event()
    system = fsspec.filesystem("memory")
    system.pipe("/a.png", PNG)
    assert Picture("memory://a.png").read() == PNG and Picture("memory://a.png", 3, 4).read() == PNG[3:7]
    monkeypatch.setattr(locations, "PAUSE", 0.0)
    monkeypatch.setattr(locations, "TIMEOUT", 0.02)
    monkeypatch.setattr(type(system), "cat_file", lambda *_, **__: release.wait())
    with pytest.raises(DataError, match=r"after 5 tries in 0 s: no answer in 0.02 s"):
        Picture("memory://a.png").open()
    release.set()


def test_a_library_that_is_not_installed_is_named():
    with pytest.raises(DataError, match="nosuch"):
        Picture("nosuch://bucket/a.png").open()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_network_file_system_is_tried_again(tmp_path, monkeypatch, number):
    (tmp_path / "a.png").write_bytes(PNG)
    monkeypatch.setattr(locations, "PAUSE", 0.0)
    fails = [OSError(number, os.strerror(number))] * 2

    def flaky(*args, **kwargs):
        if fails:
            raise fails.pop()
        return open(*args, **kwargs)  # noqa: PTH123

    monkeypatch.setattr(locations, "open", flaky, raising=False)
    assert Picture(str(tmp_path / "a.png")).read() == PNG and not fails
    fails += [OSError(number, os.strerror(number))] * 99
    with pytest.raises(DataError, match=f"after 5 tries in 0 s: .*{os.strerror(number)}"):
        Picture(str(tmp_path / "a.png")).open()
    assert len(fails) == 94


def test_a_file_that_is_not_there_is_looked_for_once(tmp_path, monkeypatch):
    monkeypatch.setattr(locations.time, "sleep", lambda _: pytest.fail("tried again"))
    with pytest.raises(BrokenRecord, match="missing image") as e:
        Picture(str(tmp_path / "a.png")).open()
    assert e.value.kind == "missing-image"
    with pytest.raises(BrokenRecord, match="unreadable image"):
        Picture(str(tmp_path)).open()


def _read_in_child(url: str, pipe) -> None:
    pipe.send(Picture(url).read())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_reads_though_this_one_has_read_before(shop, method):
    """A forked one has the parent's sockets and its dead event loop."""
    assert Picture(shop.url("/a.png")).read() == PNG
    context = multiprocessing.get_context(method)
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_read_in_child, args=(shop.url("/a.png"), there))
    child.start()
    there.close()
    assert here.poll(30) and here.recv() == PNG
    child.join()
    assert Picture(shop.url("/a.png")).read() == PNG  # and the child's end did not close the parent's connection
    here_ports = [port for _, port in shop.asked]
    assert here_ports[0] == here_ports[2] != here_ports[1]


def _dataset(tmp_path: Path, shop: Store):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A thing."}]
    file = tmp_path / "train.json"
    file.write_text(json.dumps([{"id": n, "image": shop.url(f"/{n}.png"), "conversations": turns} for n in ("a", "b")]))
    return open_dataset(find_source(str(file)), str(file), str(tmp_path), tmp_path / "index")


def test_a_store_that_is_away_stops_the_indexing_and_is_not_remembered(tmp_path, shop):
    shop.script["/b.png"] = ["503"] * 5
    with pytest.raises(DataError, match=r"unreadable image: .*/b.png: after 5 tries"):
        _dataset(tmp_path, shop)
    dataset = _dataset(tmp_path, shop)  # it is back: b.png is answered with 404
    assert dict(dataset.counts) == {"missing-image": 1}
    assert dataset[0].images[0].open().size == (8, 6)
