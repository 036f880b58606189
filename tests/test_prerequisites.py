"""`make setup` says what a machine lacks before it installs anything: a line each, with the next command."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from remora import prerequisites

ROOT = Path(__file__).parents[1]


def test_pyproject_has_the_same_pythons():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    (major, oldest), (_, newest) = prerequisites.OLDEST, prerequisites.NEWEST
    assert wanted == f">={major}.{oldest},<{major}.{newest + 1}"
    assert prerequisites.OLDEST <= sys.version_info[:2] <= prerequisites.NEWEST


def test_an_old_python_can_run_it():
    text = Path(prerequisites.__file__).read_text()
    ast.parse(text, feature_version=(3, 6))
    assert "from __future__ import annotations" not in text  # 3.7


@pytest.mark.parametrize("version", ["3.11.0", "3.12.1", "3.13.0", "3.13.0rc1"])
def test_a_python_that_was_tried_passes(version):
    assert prerequisites.of_python(version) == ""


@pytest.mark.parametrize(
    ("version", "implementation"), [("3.10.14", "CPython"), ("3.14.0", "CPython"), ("3.11.0", "PyPy")]
)
def test_another_python_is_named_with_one_that_fits(version, implementation, monkeypatch):
    monkeypatch.setattr(prerequisites, "fitting", lambda: "python3.13")
    line = prerequisites.of_python(version, implementation)
    assert f"needs Python 3.11 to 3.13, and {sys.executable} is {implementation} {version}" in line
    assert line.endswith("next: make setup PYTHON=python3.13")
    monkeypatch.setattr(prerequisites, "fitting", lambda: "")
    assert prerequisites.of_python(version, implementation).endswith("; then make setup PYTHON=python3.12")


def test_a_python_on_the_path_counts_if_it_runs(tmp_path, monkeypatch):
    for name, code in (("python3.13", 127), ("python3.12", 0), ("python3.11", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert prerequisites.fitting() == "python3.12"
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert prerequisites.fitting() == ""


@pytest.mark.parametrize(
    ("system", "line"),
    [
        (("Linux", "x86_64", "glibc", "2.36"), ""),
        (("Linux", "aarch64", "", ""), ""),
        (("Darwin", "arm64", "", ""), "needs Linux on x86_64 or aarch64, and this is Darwin on arm64; next: "),
        (("Linux", "riscv64", "glibc", "2.39"), "this is Linux on riscv64; next: "),
        (("Linux", "x86_64", "glibc", "2.17"), "need glibc 2.28 or newer, and here is glibc 2.17; next: "),
        (("Linux", "x86_64", "musl", "1.2.4"), "here is musl 1.2.4; next: "),
    ],
)
def test_the_wheels_are_for_linux_with_glibc(system, line):
    said = prerequisites.of_system(*system)
    assert (line in said) if line else said == ""


def test_debians_python_lacks_modules():
    assert prerequisites.of_modules([], "3.11.2") == ""
    assert prerequisites.of_modules(["ensurepip"], "3.11.2").endswith("lacks it; next: apt install python3.11-venv")


def test_room_is_asked_for_before(tmp_path):
    assert prerequisites.of_disk("x", 4 * 10**9, 4, "VENV") == ""
    line = prerequisites.of_disk("/opt/.venv", 1_250_000_000, 4, "VENV")
    assert "/opt/.venv has 1.2 GB free; next: make setup VENV=DIR" in line
    assert "/tmp has 0.1 GB free; next: TMPDIR=DIR make setup" in prerequisites.of_disk("/tmp", 10**8, 2, "TMPDIR")
    assert prerequisites.free(str(tmp_path / "not" / "yet")) > 0


def test_everything_that_lacks_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(prerequisites.platform, "python_version", lambda: "3.10.1")
    monkeypatch.setattr(prerequisites, "free", lambda folder: 10**8)
    assert len(prerequisites.lacking(str(tmp_path / "v"))) == 3
    (tmp_path / "v" / "bin").mkdir(parents=True)
    (tmp_path / "v" / "bin" / "python").touch()
    assert len(prerequisites.lacking(str(tmp_path / "v"))) == 1  # an upgrade in place needs less


def test_make_setup_ends_with_one_line_and_installs_nothing(tmp_path):
    """Once with no such Python, once with one that is too old."""
    old = tmp_path / "old"
    patched = "import platform, runpy; platform.python_version = lambda: '3.9.1'; "
    patched += "runpy.run_path('platform/remora/prerequisites.py', run_name='__main__')"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{patched}"\n')
    old.chmod(0o755)
    for python, line in (("no-such-python", "there is no no-such-python; next: "), (str(old), "CPython 3.9.1; next: ")):
        made = subprocess.run(
            ["make", "-s", "setup", f"VENV={tmp_path / 'v'}", f"PYTHON={python}"],
            cwd=ROOT, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = [each for each in (made.stdout + made.stderr).splitlines() if not each.startswith("make: ***")]
        assert made.returncode and len(said) == 1 and line in said[0], said
        assert not (tmp_path / "v").exists()
