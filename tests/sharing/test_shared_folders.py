"""What is published at a URL: whole or not at all, once, and checked when it is brought."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from remora import files
from remora.commands.options import Options
from remora.errors import RemoraError, StoreError
from remora.files import publishing
from remora.sharing import SharedRuns, around, node_folder
from remora.sharing import node as sharing_node
from remora.sharing.node import is_url
from remora.sharing.objects import Objects
from sharing.conftest import NodeMaker

KEY = "stages/one"


def published(shared: SharedRuns, text: str = "weights") -> Path:
    folder = shared.root / KEY
    with publishing(folder) as tmp:
        (tmp / "parts").mkdir()
        (tmp / "parts" / "model").write_text(text)
    return folder


def test_a_folder_that_one_node_publishes_another_reads(node: NodeMaker) -> None:
    a, b = node("a"), node("b")
    assert a.root != b.root and not b.bring(b.root / KEY)
    assert a.send(published(a))
    assert b.has(b.root / KEY) and b.bring(b.root / KEY)
    files = {p.relative_to(b.root / KEY): p.read_bytes() for p in (b.root / KEY).rglob("*") if p.is_file()}
    assert files == {p.relative_to(a.root / KEY): p.read_bytes() for p in (a.root / KEY).rglob("*") if p.is_file()}


def test_of_many_publishers_exactly_one_wins_and_leaves_no_others_files(node: NodeMaker) -> None:
    nodes = [node(f"n{i}") for i in range(6)]
    for i, each in enumerate(nodes):
        published(each, f"by {i}")
    together = threading.Barrier(len(nodes))

    def send(each: SharedRuns) -> bool:
        together.wait()
        return each.send(each.root / KEY)

    with ThreadPoolExecutor(len(nodes)) as pool:
        won = list(pool.map(send, nodes))
    assert won.count(True) == 1
    reader = node("reader")
    assert reader.bring(reader.root / KEY)
    assert (reader.root / KEY / "parts/model").read_text() == f"by {won.index(True)}"
    assert len(reader.names(KEY)) == 2  # a manifest and what it names


def test_an_upload_that_was_killed_is_never_seen(node: NodeMaker, tmp_path: Path) -> None:
    """The uploader dies before its manifest, in each of the places where it can."""
    a, b = node("a"), node("b")
    published(a)
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from remora.sharing import around, objects\n"
        "real, left = objects.Objects.upload, int(sys.argv[2])\n"
        "def upload(self, file, key):\n"
        "    global left\n"
        "    if not left: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    left -= 1\n"
        "    real(self, file, key)\n"
        "objects.Objects.upload = upload\n"
        "objects.Objects.create = lambda self, key, data: os.kill(os.getpid(), signal.SIGKILL)\n"
        "root = Path(sys.argv[1])\n"
        f"around(root).send(root / '{KEY}')\n"
    )
    for left in ("0", "1", "9"):
        killed = subprocess.run([sys.executable, "-c", code, str(a.root), left], env=dict(os.environ))
        assert killed.returncode == -signal.SIGKILL
        assert not b.has(b.root / KEY) and not b.bring(b.root / KEY) and not (b.root / KEY).exists()
    assert a.send(a.root / KEY) and b.bring(b.root / KEY)


@pytest.mark.parametrize(
    ("harm", "said"), [("flip", "does not match its sha256"), ("remove", "is missing"), ("manifest", "unreadable")]
)
def test_what_was_damaged_at_the_url_is_refused_by_name(node: NodeMaker, harm: str, said: str) -> None:
    a, b = node("a"), node("b")
    a.send(published(a))
    version = a.newest(KEY)
    assert version
    file = f"{KEY}/{version.attempt}/parts/model"
    if harm == "flip":
        a.objects.write(file, b"wEights")
    elif harm == "remove":
        a.objects.remove(file)
    else:
        a.objects.write(f"{KEY}/manifest-00000001.json", b"{")
    with pytest.raises(StoreError, match=f"{KEY}.*{said}.*delete s3://.*{KEY}, it will be made again"):
        b.bring(b.root / KEY)
    assert not (b.root / KEY).exists()


def test_what_a_person_deleted_at_the_url_is_sent_again(node: NodeMaker) -> None:
    a, b = node("a"), node("b")
    a.send(published(a))
    assert b.has(b.root / KEY)
    a.objects.remove(KEY)
    assert not b.bring(b.root / KEY) and not b.has(b.root / KEY)
    published(b, "made again")
    b.send_missing(b.root / KEY)
    assert node("c").has(node("c").root / KEY)


def test_a_manifest_cannot_name_files_outside_its_folder(node: NodeMaker) -> None:
    a = node("a")
    files = {"../../elsewhere": {"bytes": 1, "sha256": "0"}}
    a.objects.create(
        f"{KEY}/manifest-00000001.json", json.dumps({"attempt": "x", "files": files, "about": {}}).encode()
    )
    with pytest.raises(StoreError, match="is no path below it"):
        a.bring(a.root / KEY)


def test_the_newest_of_several_versions_counts_and_old_ones_go(node: NodeMaker) -> None:
    a, b = node("a"), node("b")
    folder = published(a)
    for number in (3, 12, 7):
        (folder / "parts/model").write_text(str(number))
        assert a.send(folder, number)
    assert not b.send(published(b), 12)
    a.keep_newest(KEY, 2)
    assert b.numbers(KEY) == [7, 12] and len(b.names(KEY)) == 4
    newest = b.newest(KEY)
    assert newest
    b.replace(b.root / KEY, newest)
    assert (b.root / KEY / "parts/model").read_text() == "12"


def test_a_creation_whose_answer_was_lost_is_known_again(url: str) -> None:
    objects = Objects(url)
    assert objects.create("x", b"mine")
    assert objects.create("x", b"mine")  # as the library sends it again
    assert not objects.create("x", b"another's")


def test_a_store_that_cannot_create_exclusively_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects(url)
    objects.check()
    assert objects.names("") == []
    system, _ = objects._opened
    real = system.pipe_file
    monkeypatch.setattr(system, "pipe_file", lambda path, data, mode="": real(path, data))
    with pytest.raises(StoreError, match="cannot create an object only if there is none"):
        objects.check()


def test_problems_with_the_store_are_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="s3://no-such/runs: there is no such bucket; create it"):
        Objects("s3://no-such/runs").check()
    objects = Objects(url)

    def denied(*args: object, **more: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(objects._opened[0], "pipe_file", denied)
    with pytest.raises(StoreError, match=r"no rights to read and write there \(Access Denied\); give credentials"):
        objects.check()
    with pytest.raises(StoreError, match=r"nope://x: Protocol not known: nope; a run folder is a path or a URL"):
        Objects("nope://x").check()
    with pytest.raises(StoreError, match="gs://x: No module named 'gcsfs'; install it"):
        Objects("gs://x").check()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(RemoraError, match=r"s3fs is not installed; next: pip install 'remora\[s3\]'"):
        Objects("s3a://x").check()  # which nothing has opened yet


def test_a_url_has_one_node_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("REMORA_NODE_FOLDER", raising=False)
    folder = node_folder("s3://bucket/some/runs/")
    assert folder.is_relative_to(tmp_path / "cache" / "remora") and folder.name.startswith("bucket-some-runs-")
    assert node_folder(Path("s3://bucket/some/runs")) == node_folder(folder) == folder
    assert node_folder("s3://other/runs") != folder
    assert Options.of({"runs": "s3://bucket/some/runs"}).runs == Options(runs=folder).runs
    monkeypatch.setenv("REMORA_RUNS", "s3://bucket/some/runs")
    assert Options().runs == folder
    found = around(folder / "data" / "index")
    assert found and found.url == "s3://bucket/some/runs" and found.key(folder / "stages/x") == "stages/x"
    monkeypatch.setenv("REMORA_NODE_FOLDER", str(folder))
    with pytest.raises(StoreError, match="belongs to s3://bucket/some/runs, not to s3://other/runs"):
        node_folder("s3://other/runs")


def test_processes_that_begin_together_are_one_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMORA_NODE_FOLDER", str(tmp_path / "node"))
    monkeypatch.setattr(files, "POLL", 0.01)
    looked, mine = threading.Barrier(4), threading.local()
    written: list[object] = []
    known, write = sharing_node.binding, sharing_node.write_json

    def none_yet(folder: Path) -> sharing_node.Binding | None:
        found = known(folder)
        if not hasattr(mine, "looked"):
            mine.looked = looked.wait(5)  # all have looked before one writes
        return found

    def counted(path: Path, value: object) -> None:
        written.append(value)
        write(path, value)

    monkeypatch.setattr(sharing_node, "binding", none_yet)
    monkeypatch.setattr(sharing_node, "write_json", counted)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(node_folder, ["s3://bucket/runs"] * 4))
    assert len(written) == 1


def test_a_plain_run_folder_is_what_it_was(tmp_path: Path) -> None:
    assert node_folder(tmp_path) == tmp_path and around(tmp_path) is None
    assert node_folder(f"file://{tmp_path}") == tmp_path
    assert not is_url(tmp_path) and not is_url("c:/x") and is_url("s3://b/x") and is_url(Path("s3://b/x"))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_of_the_node_is_no_fault_of_the_store(node: NodeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = node("a"), node("b")
    a.send(published(a))

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(b.objects._opened[0], "get_file", full)
    with pytest.raises(StoreError, match=f"{b.root / 'stages'}: the (disk is full|file system cannot)"):
        b.bring(b.root / KEY)


def test_a_name_with_a_star_deletes_itself_alone(url: str) -> None:
    objects = Objects(url)
    odd = ["a*", "q?", "[ab]", "{a,b}", "h#%20 é"]
    for key in ("a", "ax", "qx", "b", *odd):
        objects.create(f"{key}/x", key.encode())
    for key in odd:
        objects.remove(key)
    assert objects.names("") == ["a", "ax", "b", "qx"]
