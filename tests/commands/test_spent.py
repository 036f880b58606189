"""What is said of time and disk before and after a run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from remora.commands import spent


def test_what_was_trained_is_weighed_once(tmp_path: Path) -> None:
    for name in ("a-1", "b-2"):
        (tmp_path / "stages" / name).mkdir(parents=True)
        (tmp_path / "stages" / name / "weights").write_bytes(bytes(2_000_000))
    os.link(tmp_path / "stages" / "a-1" / "weights", tmp_path / "stages" / "b-2" / "same")
    stages = [("a-1", "trained"), ("b-2", "reused"), ("a-1", "reused"), ("a-1", "trained")]
    line = spent.spent_line(time.time() - 190, tmp_path, stages)
    assert line.startswith("took 3:10; 1 stage run was trained, 2.0 MB; ") and line.endswith(" are left")
    assert "; 2 stage runs were trained, 4.0 MB; " in spent.spent_line(0, tmp_path, [*stages, ("b-2", "trained")])
    assert "; 0 stage runs were trained, 0.0 kB; " in spent.spent_line(0, tmp_path, [])


def test_a_disk_that_is_nearly_full_is_named_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(spent, "LEAST_FREE", 0)
    spent.warn_of_disk(tmp_path / "not yet", told.append)
    assert not told
    monkeypatch.setattr(spent, "LEAST_FREE", 1e18)
    spent.warn_of_disk(tmp_path / "not yet", told.append)
    (line,) = told
    assert line.startswith("note: ") and line.endswith("next: remora runs gc")
