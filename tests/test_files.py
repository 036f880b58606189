"""Files are complete or absent: atomic writes, published folders, refusals, and full disks."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from remora import files
from remora.errors import StoreError, TornArtifact
from remora.files import disk


def names(folder) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def folder(tmp_path):
    with files.publishing(tmp_path / "deep" / "made") as tmp:
        (tmp / "a.txt").write_text("a")
        (tmp / "parts" / "llm").mkdir(parents=True)
        (tmp / "parts" / "llm" / "b.bin").write_bytes(b"\0" * 100)
    return tmp_path / "deep" / "made"


def test_a_published_folder_has_a_digest_of_every_file(folder):
    assert names(folder.parent) == ["made/a.txt", "made/manifest.json", "made/parts/llm/b.bin"]
    manifest = json.loads((folder / files.MANIFEST).read_text())["files"]
    assert manifest == {name: files.sha256_file(folder / name) for name in ("a.txt", "parts/llm/b.bin")}
    assert files.is_published(folder)
    files.verify(folder)


def test_all_is_on_the_disk_before_the_folder_has_its_name(tmp_path, monkeypatch):
    synced = {}
    final = tmp_path / "made"
    monkeypatch.setattr(files, "_sync", lambda path: synced.__setitem__(path.name, final.exists()))
    with files.publishing(final) as tmp:
        (tmp / "parts").mkdir()
        (tmp / "parts" / "b").write_text("b")
    assert synced.pop(tmp_path.name) is True  # the rename itself
    assert set(synced) == {tmp.name, "parts", "b", files.MANIFEST} and not any(synced.values())


def test_publishing_again_replaces(folder, monkeypatch):
    whole = []
    rmtree = files.shutil.rmtree
    monkeypatch.setattr(files.shutil, "rmtree", lambda p: (whole.append((folder / "c.txt").exists()), rmtree(p)))
    with files.publishing(folder) as tmp:
        assert tmp.name.startswith(".")  # so that `made*` never matches an unfinished one
        assert files.is_published(folder)
        (tmp / "c.txt").write_text("c")
    assert whole == [True]  # the old one stays until the new one is in its place
    assert names(folder.parent) == ["made/c.txt", "made/manifest.json"]
    files.verify(folder)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_publishes_nothing_and_leaves_nothing(error, folder, tmp_path):
    for final in (tmp_path / "new" / "one", folder):
        before = names(final.parent) if final.parent.exists() else []
        with pytest.raises(error), files.publishing(final) as tmp:
            (tmp / "half").write_text("x")
            raise error
        assert names(final.parent) == before
        assert {p.name for p in final.parent.iterdir()} <= {"made"}
    files.verify(folder)


DAMAGE = {
    "is missing": lambda f: (f / "a.txt").unlink(),
    "does not match its sha256": lambda f: (f / "parts/llm/b.bin").write_bytes(b"\0" * 99 + b"\1"),
    "is not in the manifest": lambda f: (f / "parts" / "new").write_text(""),
    "no readable manifest.json": lambda f: (f / files.MANIFEST).write_text('{"files": [1]}'),
}


@pytest.mark.parametrize(("problem", "damage"), DAMAGE.items(), ids=DAMAGE)
def test_a_damaged_folder_is_refused_by_name(problem, damage, folder):
    damage(folder)
    with pytest.raises(TornArtifact) as caught:
        files.verify(folder)
    assert str(caught.value).startswith(f"{folder}: ") and problem in str(caught.value)


def test_a_write_that_fails_keeps_the_old_file(tmp_path):
    file = tmp_path / "x.json"
    files.write_json(file, {"b": 1, "a": [1.5, None]})
    before = file.read_text()
    assert json.loads(before) == {"a": [1.5, None], "b": 1}
    with pytest.raises(TypeError):
        files.write_atomic(file, 5)
    assert file.read_text() == before


def test_a_digest_is_of_the_value_not_of_the_way_it_was_written():
    assert files.digest({"a": 1, "b": [1, 2]}) == files.digest({"b": [1, 2], "a": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 1.5}) != files.digest({"a": "1"})
    assert len(files.digest(None)) == 64


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.EDQUOT, "quota"),
    ],
)
def test_a_disk_that_cannot_be_written_is_one_line_with_a_way_out(code, said, tmp_path):
    with pytest.raises(StoreError) as caught, files.disk_errors(tmp_path):
        raise OSError(code, "…")
    assert said in str(caught.value) and str(tmp_path) in str(caught.value) and "--runs DIR" in str(caught.value)


def copy_error(number):
    """What `shutil.copytree` raises: a list of errors as text, without an errno."""
    return shutil.Error([("a", "b", str(OSError(number, os.strerror(number), "b")))])


def safetensors_error(folder):
    """safetensors' own error, with Rust's message."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file({"a": np.zeros(4)}, folder / "none" / "a.safetensors")
    except SafetensorError as e:
        return type(e)(str(e).replace("os error 2", f"os error {errno.ENOSPC}"))
    except OSError as e:
        pytest.fail(f"safetensors raises {e!r} now: `files.disk._number` can do without it")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_copy_that_does_not_fit_is_one_line(number, tmp_path):
    with pytest.raises(StoreError) as caught, files.disk_errors(tmp_path):
        raise copy_error(number)
    assert disk.REASONS[number] in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_one_line(tmp_path):
    error = safetensors_error(tmp_path)
    assert "os error 28" in str(error)
    with pytest.raises(StoreError, match="the disk is full"), files.disk_errors(tmp_path):
        raise error


def test_a_disk_without_inodes_is_told_from_a_full_one(tmp_path, monkeypatch):
    has = os.statvfs(tmp_path)
    for free, said in ((0, "cannot hold more files"), (9, "the disk is full")):
        disk = SimpleNamespace(f_files=100, f_favail=free, f_bavail=has.f_bavail or 1)
        monkeypatch.setattr(files.os, "statvfs", lambda place, disk=disk: disk)
        for error in (OSError(errno.ENOSPC, "…"), copy_error(errno.ENOSPC)):
            with pytest.raises(StoreError, match=said), files.disk_errors(tmp_path / "not" / "there"):
                raise error


@pytest.mark.parametrize("error", [shutil.Error("src and dst are the same"), ValueError("os error 28"), OSError("x")])
def test_what_says_nothing_of_the_disk_stays_what_it_is(error, tmp_path):
    with pytest.raises(type(error)) as caught, files.disk_errors(tmp_path):
        raise error
    assert caught.value is error


def test_other_errors_of_the_system_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), files.disk_errors(tmp_path):
        (tmp_path / "none").read_text()


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    made = tmp_path / "file" / "deep" / "made"
    with pytest.raises(StoreError, match="a part of that path is a file"), files.publishing(made):
        pass


HOLD = """
import sys
from pathlib import Path
from pathlib import Path
from remora.files import exclusive
with exclusive(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path / "x.lease" until its input is closed."""
    env = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parent.parent)}
    lease = str(tmp_path / "x.lease")
    with subprocess.Popen([sys.executable, "-c", HOLD, lease], stdin=-1, stdout=-1, text=True, env=env) as held:
        assert held.stdout.readline() == "True\n"
        yield held
        held.kill()


def test_a_lock_is_waited_for_and_its_holder_is_named(tmp_path, holder):
    named = []

    def waiting(who: str) -> None:
        named.append(who)
        holder.kill()  # however its holder ends, the lock ends with it

    with files.exclusive(tmp_path / "x.lease", waiting) as mine:
        assert mine
    (who,) = named
    assert who.startswith(f"process {holder.pid} on ")
    with files.exclusive(tmp_path / "x.lease", waiting) as mine:
        assert mine and len(named) == 1


def test_a_wait_ends_when_what_was_waited_for_is_there(tmp_path, holder):
    with files.exclusive(tmp_path / "x.lease", enough=lambda: True) as mine:
        assert not mine


def test_who_waited_for_a_lock_that_was_deleted_takes_the_one_that_is_there(tmp_path, holder):
    lease = tmp_path / "x.lease"

    def waiting(who: str) -> None:
        lease.unlink()
        holder.kill()

    with files.exclusive(lease, waiting) as mine:
        assert mine and files.is_held(lease)


def test_a_lock_file_of_another_user_is_asked_too(tmp_path, holder, monkeypatch):
    """Nothing of theirs counts as at work only because this process may not write there."""
    opened = os.open

    def refused(path, flags, *more):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, *more)

    (tmp_path / "free").touch()
    monkeypatch.setattr(files.os, "open", refused)
    assert files.is_held(tmp_path / "x.lease") and not files.is_held(tmp_path / "free")


def test_a_manifest_that_the_disk_does_not_give_says_nothing_of_its_folder(tmp_path, monkeypatch):
    """An artifact that is called torn is set aside, and trained again."""
    with files.publishing(tmp_path / "it") as tmp:
        (tmp / "weights").write_text("w")

    def stale(self):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "read_text", stale)
    with pytest.raises(StoreError, match=r"manifest.json cannot be read: Stale file handle; next: ") as caught:
        files.verify(tmp_path / "it")
    assert not isinstance(caught.value, TornArtifact)
