"""Registered models: one version per content, files of a version never change, one line if there is none."""

from __future__ import annotations

import shutil

import pytest

from remora.errors import TornArtifact, TrackingError
from remora.files import publishing
from remora.tracking import Run, Tracker, fetch, register, version_info


def served(tracker, into, name="remora"):
    return fetch(tracker, version_info(tracker, name), into=into)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "bundle"
    with publishing(made) as f:
        (f / "in").mkdir()
        (f / "in" / "weights").write_text("one")
    return made


@pytest.mark.slow
def test_the_champion_is_what_was_registered_last(tracker, folder, tmp_path, named, runs_in):
    run = named("share-Sig-Phi")
    assert register(tracker, "remora", run, folder, tags={"variant": "share-Sig-Phi", "gqa": 0.5}) == "1"
    made = runs_in(tracker)[run].info.run_id
    info = version_info(tracker, "remora")
    assert (info["name"], info["label"], info["version"], info["run_id"]) == ("remora", "champion", "1", made)
    assert info["tags"]["variant"] == "share-Sig-Phi"
    assert info["tags"]["gqa"] == "0.5"
    first = served(Tracker(tracker.runs), tmp_path / "cache")
    assert (first / "in" / "weights").read_text() == "one"
    assert not (tmp_path / "cache").exists()  # files on this machine are used in place

    shutil.rmtree(folder)
    with publishing(folder) as f:
        (f / "weights").write_text("two")
    # Other content of the same run is another version, and does not change the files of the first.
    assert register(tracker, "remora", run, folder) == "2"
    second = served(tracker, tmp_path / "cache")
    assert sorted(p.name for p in second.iterdir()) == ["manifest.json", "weights"]
    assert (first / "in" / "weights").read_text() == "one"


@pytest.mark.slow
def test_the_same_content_is_registered_once(tracker, folder, named):
    run = named("a")
    assert register(tracker, "remora", run, folder) == "1"
    assert register(tracker, "remora", run, folder, alias="best", tags={"new": "tag"}) == "1"
    assert version_info(tracker, "remora", "best")["tags"]["new"] == "tag"
    # Every search that found the same champion again had made a version, with a copy of its files.
    assert register(tracker, "remora", named("b"), folder, alias=None) == "1"
    assert version_info(tracker, "remora")["version"] == "1"


def described(tracker, version="1"):
    with tracker.client() as client:
        return client.get_model_version("remora", version).description


@pytest.mark.slow
def test_the_page_of_a_version_says_what_made_it_and_how_good_it_is(tracker, folder, runs_in):
    Run(tracker.runs, key="stage/a", name="align-a").keep()
    Run(tracker.runs, key="search/s", name="s").keep()
    tags = {"remora.stage.align": "run:stage/a"}
    one = Run(tracker.runs, key="variant/v", name="share-Sig-Phi", parent="search/s", tags=tags)
    figures = {"accuracy": 0.62, "accuracy_low": 0.58, "accuracy_high": 0.66, "n": 1200.0, "blind": 0.4}
    one.keep()
    one.note(metrics={f"gqa/{name}": value for name, value in figures.items()})
    register(tracker, "remora", "variant/v", folder)
    said, made = described(tracker), runs_in(tracker)
    ids = {key: run.info.run_id for key, run in made.items()}
    experiment = made["variant/v"].info.experiment_id
    assert "\n- gqa: accuracy 0.62 (0.58 to 0.66), 1,200 questions\n" in said and "blind" not in said
    for text, key, tab in (
        ("share-Sig-Phi", "variant/v", ""),
        ("align", "stage/a", ""),
        ("its search", "search/s", ""),
        ("its report", "search/s", "/artifacts"),
        ("The model card and every answer", "variant/v", "/artifacts"),
    ):
        assert f"[{text}](#/experiments/{experiment}/runs/{ids[key]}{tab}?" in said, text
    # What is measured later is added; what a person wrote stays.
    one.note(metrics={"mme/score": 1500.0, "mme/score_low": 1450.0, "mme/score_high": 1550.0})
    register(tracker, "remora", "variant/v", folder, alias="best")
    assert "- mme: score 1500 (1450 to 1550)" in described(tracker)
    with tracker.client() as client:
        client.update_model_version("remora", "1", "Ann's own words.")
    register(tracker, "remora", "variant/v", folder, alias="third")
    assert described(tracker) == "Ann's own words."


@pytest.mark.slow
def test_no_such_model_is_one_line_with_what_exists(tracker, folder, tmp_path, named):
    with pytest.raises(TrackingError) as e:
        served(tracker, tmp_path)
    where = f"MLflow at {tracker.uri}"
    make = "make one: remora register MODEL --as remora (or remora search tune/demo.yaml, remora demo)"
    assert str(e.value) == f"{where}: there is no model 'remora' (models: none); {make}"
    register(tracker, "remora", named("a"), folder, alias="best")
    with pytest.raises(TrackingError) as e:
        served(tracker, tmp_path)
    assert str(e.value) == f"{where}: model 'remora' has no alias 'champion' (aliases: best; versions: 1); {make}"
    with pytest.raises(TrackingError, match=r"did you mean 'remora'\? \(models: remora\)"):
        version_info(tracker, "remorra")


@pytest.mark.slow
def test_what_is_not_there_cannot_be_registered_or_served(tracker, folder, tmp_path, named):
    with pytest.raises(TrackingError, match="no folder"):
        register(tracker, "remora", named("a"), tmp_path / "gone")
    register(tracker, "remora", named("b"), folder)
    shutil.rmtree(served(tracker, tmp_path))
    with pytest.raises(TrackingError, match=r"version 1: its files are not at .*remora register BUNDLE"):
        served(tracker, tmp_path)
    assert register(tracker, "remora", named("c"), folder) == "2"  # as the line says
    assert served(tracker, tmp_path).is_dir()


@pytest.fixture
def remote(monkeypatch):
    """Make local files look as if they lay on another machine: they must be downloaded."""
    monkeypatch.setattr("remora.tracking.connection.Connection.local", lambda self, uri: None)


@pytest.mark.slow
def test_files_elsewhere_are_downloaded_once(tracker, folder, tmp_path, remote, named):
    run = named("a")
    register(tracker, "remora", run, folder)
    local = served(tracker, tmp_path / "cache")
    assert local.parent == tmp_path / "cache"
    assert local.name.startswith("remora-v1-")
    assert (local / "in" / "weights").read_text() == "one"
    shutil.rmtree(tmp_path / "mlruns")
    assert served(tracker, tmp_path / "cache") == local
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [local.name]


@pytest.mark.slow
def test_a_torn_download_is_refused_by_name(tracker, folder, tmp_path, remote, named):
    run = named("a")
    register(tracker, "remora", run, folder)
    (stored,) = (tmp_path / "mlruns").rglob("weights")
    stored.write_text("torn")
    with pytest.raises(TornArtifact, match="in/weights does not match"):
        served(tracker, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_server_that_is_away_is_one_line(folder, tmp_path, named):
    away = Tracker(tmp_path, "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="Connection refused; start it"):
        register(away, "remora", named("a"), folder)
    with pytest.raises(TrackingError, match="Connection refused; start it"):
        served(away, tmp_path)
