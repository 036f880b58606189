"""`remora serve` finds the model once, prints which it is, what it waits for, and a working request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import remora
from remora.cli import main
from remora.commands import serve
from remora.commands.endpoint_options import ServeOptions
from remora.errors import SpecError
from remora.files import publishing
from remora.serving.keys import hash_of

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
    main(["serve", "mid", "--runs", str(runs), "--no-keys"])
    folder = runs / "bundles" / "mid-0123456789ab"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"serving mid ({folder})"
    assert lines[1] == "starting Ray and 2 replicas, each of which loads the model"
    assert lines[2] == "ready: http://127.0.0.1:8000/v1"
    assert lines[3] == "its page: http://127.0.0.1:8000/"
    assert lines[5].startswith("curl -sS http://127.0.0.1:8000/v1/chat/completions ")
    assert '"model": "mid"' in lines[6], "the name that this endpoint has"
    assert served["args"].model == "mid"
    (source,) = served["sources"]
    assert source.load.keywords["folder"] == folder, "found once: every replica loads these files"
    assert not source.follows
    assert not (runs / "mlflow.db").exists()


def test_python_serves_the_same_and_prints_nothing(runs: Path, served: dict[str, Any], capsys) -> None:
    heard: list[tuple[str, str, str | None]] = []
    remora.serve("mid", runs=runs, port=8001, no_keys=True, ready=lambda *told: heard.append(told))
    assert heard == [("http://127.0.0.1:8000", "mid", None)] and served["port"] == 8001
    remora.serve("mid", runs=runs, ready=lambda *told: heard.append(told))
    assert heard[1][2] and hash_of(heard[1][2]) == served["args"].keys["this run"].sha256
    assert capsys.readouterr().out == ""


def test_what_is_wrong_is_told_before_ray_starts(runs: Path, served: dict[str, Any], capsys) -> None:
    for argv in (["serve", "mod"], ["serve"], ["serve", "remora@best"]):
        with pytest.raises(SystemExit) as e:
            main([*argv, "--runs", str(runs)])
        assert str(e.value.code).startswith("remora: ") and "\n" not in str(e.value.code)
    assert not served and not (runs / "mlflow.db").exists()


def test_settings_of_a_canary_need_one(runs: Path, served: dict[str, Any]) -> None:
    for argv, named in (
        (["--shadow", "0.3"], "--shadow"),
        (["--share", "0.5", "--no-promote"], "--share, --no-promote"),
        (["--rule", "alpha=0.01"], "--rule"),
    ):
        with pytest.raises(SystemExit) as e:
            main(["serve", "mid", "--runs", str(runs), "--no-keys", *argv])
        assert str(e.value.code).startswith(f"remora: {named}: of a canary, and there is none; next: ")
    assert not served


def test_shares_and_settings_of_a_rule_are_numbers() -> None:
    read = serve._canary(ServeOptions(canary="better", share="0.1,5e-1", rule=("alpha=1e-2",)))
    assert read is not None and (read.share, read.rule.alpha) == ((0.1, 0.5), 0.01)
    with pytest.raises(SpecError, match=r"canary: share.0: must be a number \(found 'half'\)"):
        serve._canary(ServeOptions(canary="better", share="half"))


def test_a_candidate_that_is_served_already_is_told(runs: Path, served: dict[str, Any], capsys) -> None:
    main(["serve", "mid", "--runs", str(runs), "--no-keys", "--canary", "mid", "--no-promote"])
    version = served["candidate"].version
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"no canary: mid is version {version}, the one that is served already"
    assert "beside it" not in "".join(lines)


def test_without_a_word_on_keys_one_is_made_and_printed(runs: Path, served: dict[str, Any], capsys) -> None:
    main(["serve", "mid", "--runs", str(runs)])
    lines = capsys.readouterr().out.splitlines()
    key = lines[3].rpartition("export REMORA_KEY=")[2]
    assert hash_of(key) == served["args"].keys["this run"].sha256
    assert lines[4] == f"its page: http://127.0.0.1:8000/#key={key}"
    assert ' -H "Authorization: Bearer $REMORA_KEY" ' in lines[6], "the printed request works as it is"
    assert not any(key in line for line in lines[5:])


def test_keys_of_a_file(runs: Path, served: dict[str, Any], tmp_path: Path, capsys) -> None:
    file = tmp_path / "keys.yaml"
    main(["keys", "add", "alice", "--file", str(file), "--requests-per-minute", "60"])
    key = capsys.readouterr().out.splitlines()[-1]
    assert key.startswith("rmr-") and key not in file.read_text()
    main(["serve", "mid", "--runs", str(runs), "--keys", str(file)])
    assert served["args"].keys == file and "REMORA_KEY=" not in capsys.readouterr().out
    main(["keys", "add", "bob", "--file", str(file)])
    main(["keys", "ls", "--file", str(file)])
    assert capsys.readouterr().out.splitlines()[-2:] == ["alice: 60 requests a minute", "bob: no limits"]
    main(["keys", "remove", "alice", "--file", str(file)])
    for wrong in (
        ["keys", "remove", "bob", "--file", str(file)],
        ["keys", "remove", "carol", "--file", str(file)],
        ["keys", "add", "bob", "--file", str(file)],
        ["keys", "add", "a/b", "--file", str(file)],
        ["keys", "add", "--file", str(file)],
        ["keys", "ls", "--file", str(tmp_path / "none.yaml")],
        ["serve", "mid", "--runs", str(runs), "--keys", str(file), "--no-keys"],
    ):
        with pytest.raises(SystemExit) as e:
            main(wrong)
        assert str(e.value.code).startswith("remora: ") and "\n" not in str(e.value.code), wrong
