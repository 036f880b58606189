"""`remora runs` as a user meets it: what it prints and refuses, without MLflow and with a real registry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from remora.cli import main
from remora.inference.bundle import bundle_name
from remora.pipeline.promotion import add_version
from remora.tracking import Model, Tracker
from support.explained_folder import ExplainedFolder, age, write_explained
from support.ports import free_port

Say = Callable[..., tuple[list[str], str]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> ExplainedFolder:
    return write_explained(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def runs(written: ExplainedFolder, tmp_path: Path) -> Path:
    copied = tmp_path / "runs"
    shutil.copytree(written.runs, copied)
    age(copied)
    return copied


@pytest.fixture
def say(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """(What a command prints, what it complains of)."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def told(*given: str) -> tuple[list[str], str]:
        error = ""
        try:
            main(["runs", *given, "--runs", str(runs)])
        except SystemExit as e:
            error = str(e.code)
        return capsys.readouterr().out.splitlines(), error

    return told


def test_the_table_fits_a_terminal_and_json_has_it_all(say: Say) -> None:
    lines, _ = say("ls")
    assert max(map(len, lines)) <= 80 and "12 things, " in lines[-1] and not any("…" in line for line in lines)
    found = json.loads("\n".join(say("ls", "bundles", "--json")[0]))
    assert [each["kind"] for each in found] == ["bundle", "bundle"] and all(each["needed"] for each in found)
    assert say("ls", "bundels")[1].endswith("it has: bundles, data, scores, searches, stages")


def test_one_thing_with_who_needs_it_and_what_it_needs(say: Say, written: ExplainedFolder) -> None:
    name = written.bundles["resampler"].name
    lines, _ = say("show", name)
    assert lines[0].startswith(f"bundle {name}: ") and "needed by nothing; it stays until a person deletes it" in lines
    assert {f"  stages/{run.name}" for run in written.lineages["resampler"]} <= set(lines)
    assert json.loads("\n".join(say("show", name, "--json")[0]))["place"] == f"bundles/{name}"


def test_a_torn_thing_is_named_and_the_exit_code_says_so(say: Say, runs: Path, written: ExplainedFolder) -> None:
    assert say("verify") == (["12 things are what was published"], "")
    file = runs / "bundles" / written.bundles["resampler"].name / "connector" / "model.safetensors"
    file.unlink()
    lines, error = say("verify")
    assert len(lines) == 1 and "connector/model.safetensors is missing; next: " in lines[0]
    assert error.startswith("remora: not what was published: bundle ")
    found = json.loads("\n".join(say("verify", "--json")[0]))
    assert sum(bool(each["problems"]) for each in found) == 1


def test_json_alone_is_on_stdout_and_why_nothing_goes_on_stderr(runs: Path, capsys) -> None:
    (runs / "searches" / "two" / "space.json").write_text("{")
    main(["runs", "gc", "--json", "--runs", str(runs)])
    told = capsys.readouterr()
    assert json.loads(told.out)["things"] == []
    assert told.err.startswith("note: what nothing needs stays, since ") and told.err.count("\n") == 1
    with pytest.raises(SystemExit, match="not what was published: search two, of 12 things"):
        main(["runs", "verify", "--runs", str(runs)])  # which goes on with the others
    capsys.readouterr()
    main(["runs", "mv", ".", f"{runs}-there", "--json", "--runs", str(runs)])
    assert json.loads(capsys.readouterr().out) == {"moved": ".", "to": f"{runs}-there"}


def test_a_search_is_deleted_after_it_was_named(say: Say, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, _ = say("rm", "two")
    # Given as it is printed, it deletes here, whatever the default is.
    assert (
        lines[-1].endswith(f"; next: remora runs rm two --runs {runs} --yes") and (runs / "searches" / "two").is_dir()
    )
    monkeypatch.setenv("REMORA_RUNS", str(runs))
    assert say("rm", "two")[0][-1].endswith("; next: remora runs rm two --yes")
    assert say("rm", "two", "--yes")[0][-1].startswith("1 thing, freed ")
    assert not (runs / "searches" / "two").exists() and not (runs / "searches" / "two.json").exists()
    assert json.loads("\n".join(say("gc", "--json")[0])) == {"deleted": False, "frees": 0, "things": []}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["show"], "show takes 1 name, found 0; it is remora runs show NAME"),
        (["mv", "two"], "mv takes 2 names, found 1; it is remora runs mv BUNDLE NAME, or remora runs mv . DIR"),
        (["mv", "two", "three"], "search two is named by its space"),
        (["gc", "two"], "next: remora runs rm two"),
        (["rm", "tow"], "did you mean 'two'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_one_line(say: Say, given: list[str], said: str) -> None:
    lines, error = say(*given)
    assert not lines and error.startswith("remora: ") and said in error and "\n" not in error


def test_without_mlflow_nothing_is_deleted_but_leftovers(say: Say, runs: Path) -> None:
    """A version of a server that does not answer may need it."""
    away = ("--tracking-uri", f"http://127.0.0.1:{free_port()}")
    (runs / "stages" / "it.torn-1").mkdir()
    for given in (["gc", "--yes"], ["rm", "two", "--yes"]):
        lines, error = say(*given, *away)
        assert not lines and "nothing is deleted, since a registered version may need it" in error
    assert (runs / "searches" / "two").is_dir() and (runs / "stages" / "it.torn-1").is_dir()
    assert say("gc", "--leftovers", "--yes", *away)[0][-1].startswith("1 thing, freed ")
    assert say("ls", *away)[0][-1].startswith("12 things")


def test_a_registry_elsewhere_is_not_taken_for_none(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:1")
    lines, error = say("rm", "two", "--yes")
    assert not lines and "MLFLOW_REGISTRY_URI is http://127.0.0.1:1, and there is no " in error
    assert "nothing is deleted" in error


def test_a_version_of_the_registry_keeps_its_bundle(
    say: Say, runs: Path, written: ExplainedFolder, empty_database: Path
) -> None:
    shutil.copy(empty_database, runs / "mlflow.db")
    bundle = runs / "bundles" / written.bundles["resampler"].name
    other = written.bundles["mlp2x_gelu"].name
    tracker = Tracker(runs)
    add_version(Model(bundle, bundle_name(bundle)), runs, tracker, "remora", "champion", "remora register")
    assert say("rm", bundle.name, "--yes")[1].startswith(
        f"remora: bundle {bundle.name} is needed by remora version 1 (champion)"
    )
    assert say("rm", other, "--yes")[1] == "" and not (runs / "bundles" / other).exists()
    version = next((runs / "mlruns").rglob("bundle.json"))
    assert say("verify")[0] == ["12 things are what was published"]  # the version among them
    version.unlink()
    assert "is not what was registered" in say("verify")[0][0]


def test_a_moved_run_folder_says_what_it_said(say: Say, runs: Path, tmp_path: Path, capsys) -> None:
    before = say("ls", "--json")[0]
    lines, error = say("mv", ".", str(tmp_path / "there"))
    assert not error and lines == [f"moved to {tmp_path}/there; next: give it with --runs, or REMORA_RUNS"]
    main(["runs", "ls", "--json", "--runs", str(tmp_path / "there")])
    assert json.loads(capsys.readouterr().out) == json.loads("\n".join(before))


def test_of_a_url_only_this_nodes_copies_go(say: Say, runs: Path, capsys) -> None:
    (runs / ".url.json").write_text(json.dumps({"url": "s3://bucket/runs", "node": "n"}))
    main(["runs", "rm", "two", "--runs", str(runs)])
    told = capsys.readouterr()
    assert told.err == f"note: {runs} is this node's folder of s3://bucket/runs; of what is there nothing goes\n"
    assert "would delete" in told.out
    assert "belongs to s3://bucket/runs; next: REMORA_NODE_FOLDER=DIR" in say("mv", ".", str(runs.parent / "x"))[1]
