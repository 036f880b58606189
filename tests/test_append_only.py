"""Append-only files: whole lines are read, torn ones are counted, and none is merged with half of another."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from remora.errors import StoreError
from remora.files import lines

A, B, C = ({"event": name, "lr": {"llm": 1.0}, "text": 'é " {"event"'} for name in "abc")


def line(record):
    return json.dumps(record).encode()


@pytest.mark.parametrize(
    ("data", "records", "torn"),
    [
        (line(A) + b"\n" + line(B) + b"\n", [A, B], 0),
        (line(A) + b"\r\n\n  \n" + line(B) + b"\n", [A, B], 0),
        (line(A)[:9] + b"\n" + line(B) + b"\n", [B], 1),  # ended by the next writer
        (line(A)[:9] + line(B) + b"\n" + line(C) + b"\n", [C], 1),  # joined: which of the two it was is not known
        (line(A) + line(B) + b"\n", [], 1),  # a lost line break
        (bytes(4096) + line(A) + b"\n" + line(B) + b"\n", [B], 1),  # power was lost, a file's end is zeros
        (line(A) + b"\n" + bytes(300) + b"\n" + line(B) + b"\n", [A, B], 1),
        ("é".encode()[:1] + b"\n" + line(B) + b"\n", [B], 1),
        (line(A)[:-1] + b"\n", [], 1),  # what is nested inside is no record
        (b"[1]\n7\nnull\n" + line(B) + b"\n", [B], 3),
        (b'{"other": 1}\n', [], 1),
        (b"{" * 100_000 + b"\n" + b"[" * 100_000 + b"\n", [], 2),
    ],
)  # fmt: skip
def test_torn_pieces_are_left_out_and_counted(data, records, torn, tmp_path):
    path = tmp_path / "it.jsonl"
    path.write_bytes(data)
    found = lines.read(path, "event")
    assert found.records == records
    assert found.torn == torn
    assert bool(lines.said(found, path)) == bool(torn)


def test_what_has_no_line_break_is_not_read_yet(tmp_path):
    path = tmp_path / "it.jsonl"
    path.write_bytes(line(A) + b"\n" + line(B))
    found = lines.read(path, "event")
    assert found.records == [A] and found.open == line(B) and found.torn == 0
    lines.append(path, [C])
    assert lines.read(path, "event") == lines.Lines([A, B, C])


def test_a_torn_end_is_ended_first(tmp_path):
    path = tmp_path / "it.jsonl"
    path.write_bytes(line(A)[:11])
    lines.append(path, [B])
    lines.append(path, [C])
    assert lines.read(path, "event") == lines.Lines([B, C], torn=1)


def test_a_record_that_lacks_what_readers_need_is_torn(tmp_path):
    path = tmp_path / "it.jsonl"
    lines.append(path, [A, {"event": 1}])
    assert lines.read(path, "event", lambda r: isinstance(r["event"], str)) == lines.Lines([A], torn=1)


def test_no_file_is_empty_and_a_folder_is_refused_in_one_line(tmp_path):
    assert lines.read(tmp_path / "none", "event") == lines.Lines()
    (tmp_path / "it.jsonl").mkdir()
    for use in (lambda p: lines.read(p, "event"), lambda p: lines.append(p, [A])):
        with pytest.raises(StoreError, match=r"it\.jsonl: a folder is where a file belongs") as e:
            use(tmp_path / "it.jsonl")
        assert "\n" not in str(e.value)


def test_a_line_that_does_not_fit_is_taken_back(tmp_path):
    """A limit on the file size simulates a full disk."""
    script = """
import resource, signal, sys
from pathlib import Path
from remora.files import lines
from remora.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
lines.append(path, [{"event": "a"}])
resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
try:
    lines.append(path, [{"event": "b" * 100}])
except StoreError as e:
    print(e)
"""
    path = tmp_path / "it.jsonl"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "does not allow files of that size" in done.stdout
    assert path.read_text() == '{"event": "a"}\n'
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 40
