"""Every error of a command is one line; a traceback is printed on request, and saved for unexpected errors."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from remora import cli
from remora.commands import register
from remora.errors import DataError, SpecError


def said(error: BaseException, runs: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> str:
    def fails(args: object) -> None:
        raise error

    monkeypatch.setattr(register, "register", fails)
    with pytest.raises(SystemExit) as e:
        cli.main(["register", "x", "--runs", str(runs), *flags])
    return str(e.value.code)


def rays(name: str, *bases: type, text: str = "", cause: BaseException | None = None) -> BaseException:
    """An exception as Ray raises it: defined in Ray's module, with a trace as its message."""
    made = type(name, bases or (Exception,), {"__module__": "ray.exceptions"})(text)
    made.cause = cause
    return made


def test_an_error_of_the_users_is_its_own_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(SpecError("a\nb"), tmp_path, monkeypatch) == "remora: a\nremora: b"
    assert list(tmp_path.iterdir()) == []


def test_an_error_from_another_process_is_told_as_it_was_met_there(tmp_path: Path, monkeypatch) -> None:
    """Ray's message is the trace of the process: `except RemoraError` took it for one of ours and printed all of it."""
    inner = DataError("picture 3 is broken; next: remora data check x")
    both = rays("RayTaskError(DataError)", DataError, text="ray::f() (pid=1)\n  File x\nDataError", cause=inner)
    outer = rays("RayTaskError", text="ray::g()\nTraceback", cause=both)
    assert said(outer, tmp_path, monkeypatch) == f"remora: {inner}"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("ActorDiedError", "a worker process died"),
        ("OutOfMemoryError", "ran out of memory"),
        ("GcsConnectFailureException", "Ray's head process does not answer"),
        ("LocalRayletDiedError", "raylet"),
        ("SomethingNew", "Ray: SomethingNew"),
    ],
)
def test_a_process_of_rays_that_died_is_one_line(name: str, what: str, tmp_path: Path, monkeypatch) -> None:
    line = said(rays(name, text="The actor died.\n\tclass_name: X\nTraceback (most)"), tmp_path, monkeypatch)
    assert "\n" not in line and what in line and "The actor died. class_name: X" in line
    assert "next: run the same command again" in line


def test_what_nobody_foresaw_is_kept_in_a_file(tmp_path: Path, monkeypatch, capsys) -> None:
    line = said(TypeError("no\nway"), tmp_path, monkeypatch)
    assert line.startswith("remora: unexpected TypeError: no way; this is a fault of Remora (trace: ")
    (log,) = (tmp_path / "logs").iterdir()
    assert str(log) in line and "TypeError: no" in log.read_text() and "remora register x" in log.read_text()
    assert "Traceback" not in "".join(capsys.readouterr())


def test_its_trace_is_printed_where_it_is_asked_for(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("REMORA_DEBUG", "0")
    said(TypeError("no way"), tmp_path, monkeypatch)
    assert "Traceback" not in capsys.readouterr().err
    said(SpecError("no way"), tmp_path, monkeypatch, "--debug")
    assert "Traceback" in capsys.readouterr().err


def test_a_run_folder_that_is_not_there_is_not_made_for_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert f"trace: {tmp_path}/error-" in said(KeyError("x"), tmp_path / "no" / "runs", monkeypatch)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/y"),
            "remora: /x/y: Permission denied; next: give another",
        ),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/x"), "remora: /x: Is a directory (trace: "),
        (OSError(errno.ENOSPC, "No space left on device"), "remora: No space left on device (trace: "),
        (MemoryError(), "remora: out of memory (trace: "),
        (ValueError(), "remora: unexpected ValueError: ; this"),
        (ValueError("x" * 5000), "remora: unexpected ValueError: xxx"),
    ],
)
def test_errors_of_the_system_name_their_file(error: BaseException, line: str, tmp_path: Path, monkeypatch) -> None:
    found = said(error, tmp_path, monkeypatch)
    assert found.startswith(line) and len(found) < 1500


def test_ctrl_c_is_no_error(tmp_path: Path, monkeypatch) -> None:
    assert said(KeyboardInterrupt(), tmp_path, monkeypatch) == "130"
