"""The version belongs to the deployment: found once, loaded by replicas whenever they start, moved by a new config."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from remora import inference
from remora.errors import DataError, SpecError, TornArtifact, TrackingError
from remora.files import publishing
from remora.serving import champion, rollout
from remora.serving.args import EndpointArgs
from remora.serving.champion import ModelSource
from remora.tracking import Tracker, register

PARTS = {part: {"name": "x", "folder": None, "adapters": []} for part in ("vision", "llm", "connector")}
SAID = {"name": "mid", "parts": PARTS, "template": "brief", "aspect": "square", "seed": 0, "about": {}}
ARGS = b"applications: [{import_path: 'serve.app:build', args: 3}]"


def publish(tracker: Tracker, folder: Path, weights: str, alias: str | None = "champion") -> str:
    with publishing(folder) as made:
        (made / "bundle.json").write_text(json.dumps(SAID))
        (made / "weights").write_text(weights)
    return register(tracker, "remora", f"variant/{weights}", folder, alias=alias)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    """A run folder with version 1 as champion; what a replica loads of it is the text of its weights."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(inference.Answerer, "load", lambda folder, cache: (folder / "weights").read_text())
    tracker = Tracker(tmp_path / "runs")
    assert publish(tracker, tmp_path / "one", "one") == "1"
    return tracker


@pytest.mark.slow
def test_replicas_load_the_version_that_was_deployed(registry: Tracker, tmp_path: Path) -> None:
    deployed = champion.pinned(EndpointArgs(runs=registry.runs))
    assert champion.load(deployed).version == "1"
    assert publish(registry, tmp_path / "two", "two") == "2"
    later = champion.load(deployed)  # a replica that is started after the alias moved
    assert (later.version, later.answerer) == ("1", "one")
    assert champion.load(champion.pinned(EndpointArgs(runs=registry.runs))).answerer == "two"
    with registry.client() as client:
        client.delete_registered_model_alias("remora", "champion")
    assert champion.load(deployed).answerer == "one", "the alias is gone, the version is not"
    with pytest.raises(TrackingError, match="no alias 'champion'"):
        champion.pinned(EndpointArgs(runs=registry.runs))
    assert champion.pinned(EndpointArgs.read({"runs": registry.runs, "version": 2})).version == "2"
    with pytest.raises(TrackingError, match="has no version 3"):
        champion.pinned(EndpointArgs(runs=registry.runs, version="3"))


@pytest.mark.slow
def test_a_version_that_is_no_whole_bundle_is_refused_before_a_replica_starts(
    registry: Tracker, tmp_path: Path
) -> None:
    source = ModelSource(EndpointArgs(runs=registry.runs, no_keys=True).resolved().each()[0])
    source.prepared("1")
    for kept in registry.runs.rglob("weights"):
        kept.unlink()
        kept.write_text("on")
    with pytest.raises(TornArtifact, match=r"weights does not match its sha256; copy it again whole"):
        source.prepared("1")
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "readme.txt").write_text("hello")
    with pytest.raises(DataError, match=r"no bundle\.json there"):
        source.prepared(register(registry, "remora", "junk", tmp_path / "junk", alias="champion"))


def test_a_bundle_is_served_without_a_registry(registry: Tracker, tmp_path: Path) -> None:
    def args(**fields: object) -> EndpointArgs:
        return EndpointArgs.read({"runs": registry.runs, "no_keys": True, "model": "mine", **fields})

    with_another = args(bundle=str(tmp_path / "one"), models=[{"model": "remora"}])
    champion.check(with_another)
    own, other = champion.sources(with_another)
    assert (own.follows, own.registered, other.follows) == (False, False, True)
    served = own.prepared(own.wanted())(own.at(own.wanted()))
    assert (served.answerer, served.version, own.args.model) == ("one", own.wanted(), "mine")
    assert own.args.version == own.wanted() != other.wanted() == "1"
    with pytest.raises(DataError, match="nowhere"):
        champion.check(args(bundle="nowhere"))
    with pytest.raises(SpecError, match=r"found 'remora@1', a version of remora; next: model: remora, with an alias"):
        champion.check(args(bundle="remora@1"))
    with pytest.raises(SpecError, match="bundle 'one' has its own version; leave version '3' out"):
        args(bundle="one", version=3)


@pytest.mark.slow
def test_a_config_is_deployed_with_its_aliases_versions(
    registry: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deployed: list[dict[str, Any]] = []

    def run(command: list[str], check: bool) -> Any:
        assert Path(command[0]).is_file() and Path(command[0]).parent == Path(sys.executable).parent
        assert (Path(command[0]).name, command[1]) == ("serve", "deploy") and command[3:] == ["--address", "x"]
        deployed.append(yaml.safe_load(Path(command[2]).read_text()))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(rollout.subprocess, "run", run)
    mine = {
        "name": "remora",
        "import_path": "remora.serving.app:build",
        "args": {"runs": str(registry.runs), "no_keys": True, "follow": False},
    }
    other = {"name": "other", "import_path": "elsewhere:app", "route_prefix": "/other"}
    config = tmp_path / "serve.yaml"
    config.write_text(yaml.safe_dump({"http_options": {"port": 8000}, "applications": [mine, other]}))
    for version in ("1", "2"):
        assert rollout.main([str(config), "--address", "x"]) == 0
        expected = {**mine, "args": {**mine["args"], "version": version}}  # type: ignore[dict-item]
        assert deployed[-1] == {"http_options": {"port": 8000}, "applications": [expected, other]}
        publish(registry, tmp_path / "two", "two")
    assert deployed[0] != deployed[1], "so Ray sees that something changed"
    twice = {**mine, "args": {**mine["args"], "models": [{"model": "more", "version": 1}]}}  # type: ignore[dict-item]
    more = register(registry, "more", "variant/two", tmp_path / "two")
    config.write_text(yaml.safe_dump({"applications": [twice]}))
    assert rollout.main([str(config), "--address", "x"]) == 0
    args = deployed.pop()["applications"][0]["args"]
    assert (args["version"], args["models"]) == ("2", [{"model": "more", "version": more}])
    followed = {**mine, "args": {**mine["args"], "follow": True}}  # type: ignore[dict-item]
    config.write_text(yaml.safe_dump({"applications": [followed]}))
    assert rollout.main([str(config), "--address", "x"]) == 0
    assert deployed.pop()["applications"] == [followed], "it finds the version itself"
    monkeypatch.chdir(tmp_path)
    keyed = {**mine, "args": {"runs": str(registry.runs), "keys": "keys.yaml"}}
    config.write_text(yaml.safe_dump({"applications": [keyed]}))
    assert rollout.main([str(config), "--address", "x"]) == 0
    assert deployed.pop()["applications"][0]["args"]["keys"] == str(tmp_path / "keys.yaml")
    bundled = {
        **mine,
        "args": {
            **mine["args"],
            "model": "mine",
            "bundle": "one",
            "models": [  # type: ignore[dict-item]
                {"model": "second", "bundle": "two"},
                {"model": "remora"},
            ],
        },
    }
    config.write_text(yaml.safe_dump({"applications": [bundled]}))
    assert rollout.main([str(config), "--address", "x"]) == 0
    args = deployed.pop()["applications"][0]["args"]
    assert args["bundle"] == str(tmp_path / "one") and args["models"][0]["bundle"] == str(tmp_path / "two")
    assert [args["version"], *(one["version"] for one in args["models"])] == [None, None, "2"]
    for wrong in ([], [str(tmp_path / "nowhere.yaml")], [str(tmp_path)]):
        assert rollout.main(wrong) == 1
        told = capsys.readouterr().err
        assert told.startswith("remora: ") and told.count("\n") == 1
    for number, content in enumerate(
        (b"- a", b"applications: 3", b"applications: [a]", b"\xff\xfe\x00", b"", b"{", ARGS)
    ):
        wrong_file = tmp_path / f"{number}.yaml"
        wrong_file.write_bytes(content)
        assert rollout.main([str(wrong_file)]) == 1
        told = capsys.readouterr().err
        assert told.startswith("remora: ") and told.count("\n") == 1
    assert len(deployed) == 2
