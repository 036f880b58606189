"""A model is named by a variant's name, a bundle or a registered version: one is meant, or the line lists them."""

from __future__ import annotations

import json
import os
import shutil
import threading
from base64 import b64encode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from remora.cli import main
from remora.errors import DataError, TrackingError
from remora.files import publishing
from remora.tracking import Tracker, find_model, lookup, register, version_info

Named = Callable[[str], str]
PARTS = {part: {"name": "x", "folder": None, "adapters": []} for part in ("vision", "connector", "llm")}

SAID = {"name": "x", "parts": PARTS, "template": "brief", "aspect": "square", "seed": 0, "about": {}}


def bundle(folder: Path, name: str, weights: str = "w") -> Path:
    with publishing(folder) as f:
        (f / "bundle.json").write_text(json.dumps(SAID | {"name": name}))
        (f / "weights").write_text(weights)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    made = tmp_path / "runs"
    bundle(made / "bundles" / "mid-0123456789ab", "mid")
    bundle(made / "bundles" / "mid-two-0123456789ab", "mid-two")
    return made


def test_a_variant_is_its_exact_name(runs: Path) -> None:
    """`mid` was the newest of `mid-*`, so another model was measured and served."""
    os.utime(runs / "bundles" / "mid-two-0123456789ab")
    assert find_model("mid", runs).folder == runs / "bundles" / "mid-0123456789ab"
    assert find_model("mid-two", runs).name == "mid-two"
    with pytest.raises(DataError, match=r"no model 'mid-'; did you mean 'mid'\?") as e:
        find_model("mid-", runs)
    assert f"(trained in {runs}: mid, mid-two)" in str(e.value) and "\n" not in str(e.value)


def test_a_bundle_is_its_folder_or_the_folders_name(runs: Path, tmp_path: Path, monkeypatch) -> None:
    other = bundle(tmp_path / "elsewhere", "imported")
    monkeypatch.chdir(tmp_path)
    assert find_model("elsewhere", runs).folder == other
    assert find_model(other, runs).name == "imported"
    assert find_model("mid-two-0123456789ab", runs).name == "mid-two"
    assert find_model(runs / "bundles" / "mid-0123456789ab", runs).name == "mid"


def test_what_has_several_models_is_refused_with_all_of_them(runs: Path, tmp_path: Path, monkeypatch) -> None:
    second = bundle(runs / "bundles" / "mid-ba9876543210", "mid", "others")
    with pytest.raises(DataError, match="2 models are named 'mid'; give the folder of one: ") as e:
        find_model("mid", runs)
    assert str(second) in str(e.value) and str(runs / "bundles" / "mid-0123456789ab") in str(e.value)
    assert find_model(second, runs).folder == second
    bundle(tmp_path / "mid-two", "here")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="2 models are named 'mid-two'"):
        find_model("mid-two", runs)
    assert find_model("./mid-two", runs).name == "here"


def test_a_registered_model_is_an_alias_or_a_version(tracker: Tracker, tmp_path: Path, named: Named) -> None:
    runs = tracker.runs
    first, second = bundle(tmp_path / "a", "a"), bundle(tmp_path / "b", "b")
    for folder in (first, second):
        register(tracker, "remora", named(folder.name), folder)
    assert find_model("remora@champion", runs).name == "b"
    found = find_model("remora@1", runs)
    assert (found.name, found.registered, found.version) == ("a", "remora", "1")
    for label in ("champion", "2", "v1"):  # the same, with and without MLflow's client
        asked = version_info(tracker, "remora", label)
        assert lookup.find_version(tracker.uri, "remora", label) == {
            k: asked[k] for k in ("version", "run_id", "tags", "source")
        }
        run = asked["run_id"]
        assert run and lookup.run_tag(tracker.uri, run, "remora.key") == f"variant/{'a' if label == 'v1' else 'b'}"
    with pytest.raises(TrackingError, match=r"has no version 3 \(aliases: champion; versions: 1, 2\)"):
        find_model("remora@3", runs)
    with pytest.raises(TrackingError, match=r"has no alias 'chanpion'; did you mean 'champion'\?"):
        find_model("remora@chanpion", runs)


def test_what_is_not_found_without_mlflows_client_is_nothing(tracker: Tracker, tmp_path: Path, monkeypatch) -> None:
    uri = tracker.uri
    assert lookup.find_version(uri, "remora", "champion") is None and lookup.run_tag(uri, "0" * 32, "x") is None
    (tmp_path / "torn.db").write_bytes(b"no database" * 100)
    for other in (f"sqlite:///{tmp_path}/none.db", f"sqlite:///{tmp_path}/torn.db", "http://127.0.0.1:1", "databricks"):
        assert lookup.find_version(other, "remora", "champion") is None
        assert lookup.run_tag(other, "0" * 32, "x") is None
    assert not (tmp_path / "none.db").exists()


VERSION = {"name": "remora", "version": "2", "run_id": "r", "source": "s3://b/m", "tags": [{"key": "a", "value": "b"}]}


class Answers(BaseHTTPRequestHandler):
    """MLflow's REST API, of one version and one run; with a password."""

    def do_GET(self) -> None:
        said = {
            "/api/2.0/mlflow/registered-models/alias?name=remora&alias=champion": {"model_version": VERSION},
            "/api/2.0/mlflow/model-versions/get?name=remora&version=2": {"model_version": VERSION},
            "/api/2.0/mlflow/runs/get?run_id=r": {"run": {"data": {"tags": [{"key": "k", "value": "v"}]}}},
        }.get(self.path)
        allowed = self.headers["Authorization"] == "Basic " + b64encode(b"ann:pw").decode()
        self.send_response(401 if not allowed else 200 if said else 404)
        body = json.dumps(said if said and allowed else {"error_code": "RESOURCE_DOES_NOT_EXIST"}).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_server_is_asked_by_its_rest_api(monkeypatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://127.0.0.1:{server.server_address[1]}"
    assert lookup.find_version(uri, "remora", "champion") is None  # no password
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pw")
    wanted = {"version": "2", "run_id": "r", "source": "s3://b/m", "tags": {"a": "b"}}
    assert lookup.find_version(uri, "remora", "champion") == lookup.find_version(f"{uri}/", "remora", "v2") == wanted
    assert lookup.find_version(uri, "remora", "other") is None and lookup.find_version(uri, "remora", "latest") is None
    assert lookup.run_tag(uri, "r", "k") == "v" and lookup.run_tag(uri, "r", "none") is None
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://elsewhere")
    assert lookup.find_version(uri, "remora", "champion") is None
    server.shutdown()
    server.server_close()


def test_asking_changes_nothing(tracker: Tracker, tmp_path: Path, named: Named) -> None:
    """A read-only run folder was not served: a query took a lock and synced what was pending."""
    register(tracker, "remora", named("a"), bundle(tmp_path / "bundles" / "a-0123456789ab", "a"))

    def state() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in (tmp_path, *tmp_path.rglob("*"))}

    before = state()
    assert find_model("remora@champion", tmp_path).name == find_model("a", tmp_path).name == "a"
    assert state() == before


@pytest.mark.parametrize("given", ["mid", "remora@champion", "/not/there", "a/b@c/d", "", "@", "x@"])
def test_asking_makes_nothing(given: str, tmp_path: Path) -> None:
    """A mistyped --runs left a folder with a database behind."""
    with pytest.raises((DataError, TrackingError)) as e:
        find_model(given, tmp_path / "runz")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "runz").exists()


def test_what_is_no_model_is_told_as_what_it_is(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("vision: x\n")
    with pytest.raises(DataError, match="a model is named by its variant's name, and this is a spec"):
        find_model(tmp_path / "mine.yaml", runs)
    with pytest.raises(DataError, match=r"no bundle\.json there, so it is no bundle"):
        find_model(tmp_path, runs)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "holds list, not an object"),
        ("{}", "'name' is missing"),
        ('{"name": 1}', "'name' is 1, not str"),
        (json.dumps(SAID | {"parts": {"llm": {}}}), "'llm' is no part"),
        (json.dumps(SAID | {"aspect": "p"}), "'aspect'"),
        (json.dumps(SAID | {"parts": {"llm": PARTS["llm"] | {"folder": "../x"}}}), "outside the bundle"),
    ],
)
def test_an_edited_bundle_is_one_line(runs: Path, text: str, problem: str) -> None:
    folder = runs / "bundles" / "mid-0123456789ab"
    (folder / "bundle.json").write_text(text)
    with pytest.raises(DataError, match=r"bundle\.json: ") as e:
        find_model(folder, runs)
    assert problem in str(e.value) and "\n" not in str(e.value)
    assert find_model("mid-two", runs).name == "mid-two"  # one broken bundle hides no other
    shutil.rmtree(folder)


@pytest.mark.slow
def test_what_was_trained_or_imported_is_registered_by_a_command(tracker: Tracker, tmp_path: Path, capsys) -> None:
    """`train`, `import` and `average` made what no command could register, so nothing could serve it by an alias."""
    made = bundle(tmp_path / "imported", "imported")
    main(["register", str(made), "--as", "cats", "--runs", str(tmp_path)])
    assert f"cats@champion: version 1, imported ({made})" in capsys.readouterr().out
    bundle(tmp_path / "bundles" / "base-0123456789ab", "base")
    main(["register", "base", "--as", "cats", "--alias", "next", "--runs", str(tmp_path)])
    assert (find_model("cats@champion", tmp_path).name, find_model("cats@next", tmp_path).name) == ("imported", "base")
    main(["register", "cats@2", "--as", "cats", "--runs", str(tmp_path)])  # moves the alias, makes no version
    assert find_model("cats@champion", tmp_path).version == "2"
    (made / "weights").write_text("torn")
    with pytest.raises(SystemExit) as e:
        main(["register", str(made), "--runs", str(tmp_path)])
    assert "weights does not match its sha256" in str(e.value.code)
