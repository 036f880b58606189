"""`remora serve` finds the model once, prints which it is, what it waits for, and a working request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import remora
from remora.cli import main
from remora.commands import serve
from remora.files import publishing

PARTS = {part: {"name": "x", "folder": None, "adapters": []} for part in ("vision", "connector", "llm")}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    with publishing(tmp_path / "runs" / "bundles" / "mid-0123456789ab") as folder:
        said = {"name": "mid", "parts": PARTS, "template": "brief", "aspect": "square", "seed": 0, "about": {}}
        (folder / "bundle.json").write_text(json.dumps(said))
    return tmp_path / "runs"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command deploys, without Ray: `serve_forever` becomes ready at once and returns."""
    found: dict[str, Any] = {}

    def serve_forever(args: Any, **options: Any) -> None:
        found.update(options, args=args)
        options["ready"]("http://127.0.0.1:8000")

    monkeypatch.setattr(serve, "serve_forever", serve_forever)
    return found


def test_a_variant_that_was_never_registered_is_served(runs: Path, served: dict[str, Any], capsys) -> None:
    main(["serve", "mid", "--runs", str(runs)])
    folder = runs / "bundles" / "mid-0123456789ab"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"serving mid ({folder})"
    assert lines[1] == "starting Ray and 2 replicas, each of which loads the model"
    assert lines[2] == "ready: http://127.0.0.1:8000/v1"
    assert lines[4].startswith("curl -sS http://127.0.0.1:8000/v1/chat/completions ")
    assert '"model": "mid"' in lines[5], "the name that this endpoint has"
    assert served["args"].model == "mid"
    assert served["load"].keywords["folder"] == folder, "found once: every replica loads these files"
    assert not (runs / "mlflow.db").exists()


def test_python_serves_the_same_and_prints_nothing(runs: Path, served: dict[str, Any], capsys) -> None:
    heard: list[tuple[str, str]] = []
    remora.serve("mid", runs=runs, port=8001, ready=lambda *told: heard.append(told))
    assert heard == [("http://127.0.0.1:8000", "mid")] and served["port"] == 8001
    assert capsys.readouterr().out == ""


def test_what_is_wrong_is_told_before_ray_starts(runs: Path, served: dict[str, Any], capsys) -> None:
    for argv in (["serve", "mod"], ["serve"], ["serve", "remora@best"]):
        with pytest.raises(SystemExit) as e:
            main([*argv, "--runs", str(runs)])
        assert str(e.value.code).startswith("remora: ") and "\n" not in str(e.value.code)
    assert not served and not (runs / "mlflow.db").exists()
