"""`remora promote` with a real registry and real score folders: what moves an alias, and what is kept of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

import remora
from remora.cli import main
from remora.errors import GateError
from remora.evaluation.report import Report, ScoredAnswer
from remora.evaluation.score import Score
from remora.evaluation.sheet import About
from remora.files import publishing, write_json
from remora.inference.bundle import FILE, weights_digest
from remora.pipeline.promotion import FILE as HISTORY
from remora.pipeline.promotion import history
from remora.pipeline.search.search import registered
from remora.pipeline.variant import Outcome
from remora.serving.args import EndpointArgs
from remora.serving.canary.args import CanaryArgs
from remora.serving.canary.candidate import candidate_of
from remora.serving.canary.trial import CandidateSource
from remora.serving.champion import ModelSource
from remora.spec import Space, load
from remora.tracking import Run, Tracker, find_model, register, standing, version_info

SPACE = Path(__file__).parents[1] / "e2e" / "tiny.yaml"
SAID = {
    "parts": {
        "connector": {"name": "mlp2x_gelu", "folder": "connector", "adapters": []},
        "llm": {"name": "demo-2m", "folder": "llm", "adapters": []},
    },
    "template": "brief", "aspect": "pad", "seed": 0, "about": {},
}  # fmt: skip
STAGES = {"today": "a" * 64, "better": "b" * 64, "worse": "c" * 64, "close": "d" * 64}
OWN = {"title": "t", "questions": "q.jsonl", "images": ".", "metric": "exact-match", "max_new_tokens": 4}


def model(runs: Path, name: str) -> Path:
    """A variant's bundle; its weights are its name."""
    folder = runs / "bundles" / f"{name}-{STAGES[name][:12]}"
    with publishing(folder) as tmp:
        for part in ("connector", "llm"):
            (tmp / part).mkdir()
            (tmp / part / "model.safetensors").write_bytes(name.encode())
        write_json(tmp / FILE, SAID | {"name": name})
    return folder


def measured(runs: Path, name: str, right: int, benchmark: str = "held", count: int = 60) -> None:
    """A folder as `remora evaluate` writes it, with that many correct answers; two questions a picture."""
    folder = (
        model(runs, name) if name not in {p.name.rpartition("-")[0] for p in (runs / "bundles").glob("*")} else None
    )
    folder = folder or next((runs / "bundles").glob(f"{name}-*"))
    about = About(name, weights_digest(folder), benchmark, "q")
    place = runs / "scores" / about.folder
    place.mkdir(parents=True, exist_ok=True)
    items = [ScoredAnswer(i, "x", "x", float(i < right), str(i // 2), "w") for i in range(count)]
    write_json(place / "about.json", asdict(about))
    write_json(place / "report.json", Report(benchmark, "own", {}, {}, items, [], own=OWN).as_json())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A run folder whose champion is `today`, 50 of 60 right; the others are trained and measured."""
    runs = tmp_path_factory.mktemp("promote") / "runs"
    runs.mkdir()
    shutil.copy(empty_database, runs / "mlflow.db")
    for name, right in (("today", 50), ("better", 58), ("worse", 20), ("close", 49)):
        measured(runs, name, right)
    key, uri = f"variant/{STAGES['today']}/alone", f"sqlite:///{runs}/mlflow.db"
    Run(runs, key=key, name="today").keep()
    register(Tracker(runs, uri), "remora", key, next((runs / "bundles").glob("today-*")), tags={"variant": "today"})
    return runs


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Path(shutil.copytree(made, tmp_path / "runs"))


def promote(capsys, runs: Path, *argv: str) -> str:
    main(["promote", *argv, "--runs", str(runs)])
    return capsys.readouterr().out


def refused(runs: Path, *argv: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["promote", *argv, "--runs", str(runs)])
    said = str(stopped.value)
    assert said.startswith("remora: ") and "\n" not in said
    return said.removeprefix("remora: ")


def champion(runs: Path) -> dict:
    return version_info(Tracker(runs), "remora")


@pytest.mark.slow
def test_what_is_not_significantly_worse_takes_the_alias(capsys, runs: Path) -> None:
    said = promote(capsys, runs, "close").splitlines()
    assert said[0].startswith("held: accuracy 0.8167 against 0.8333, -0.0167 (-0.05") and "n 60: not sig" in said[0]
    assert said[1:] == [
        "remora@champion: version 2, close instead of version 1, today",
        "next: remora serve remora@champion",
    ]
    info = champion(runs)
    assert (info["version"], info["tags"]["variant"]) == ("2", "close")
    assert info["tags"]["promoted_from"] == "version 1 (today)" and info["tags"]["forced"] == ""
    assert info["tags"]["gate"].startswith("held: accuracy 0.8167 against 0.8333") and info["tags"]["promoted_at"]
    (kept,) = history(runs)
    assert (kept.variant, kept.version, kept.from_version, kept.from_variant) == ("close", "2", "1", "today")
    assert [(f.benchmark, f.n, f.worse) for f in kept.gate] == [("held", 60, False)]
    assert find_model("remora@champion", runs).name == "close"


@pytest.mark.slow
def test_what_is_worse_is_refused_with_the_figures_unless_there_is_a_reason(capsys, runs: Path) -> None:
    said = refused(runs, "worse")
    assert said.startswith(
        "remora@champion stays version 1, today: worse is significantly worse on held: accuracy 0.3333 against 0.8333, "
        "-0.5000 (-0.7000 to -0.3000), p 0.0001, n 60; next: "
    )
    assert said.endswith("; next: remora compare worse remora@champion, or promote it with --force REASON")
    assert champion(runs)["version"] == "1" and not history(runs)
    said = promote(capsys, runs, "worse", "--force", "the other crashes")
    assert "n 60: significantly worse" in said
    assert "remora@champion: version 2, worse instead of version 1, today; forced: the other crashes" in said
    assert champion(runs)["tags"]["forced"] == "the other crashes"
    assert history(runs)[0].refused.startswith("remora@champion stays version 1, today")
    # The output says that no force was needed, also for a version that was forced once.
    promote(capsys, runs, "better", "--force", "no need")
    assert champion(runs)["tags"]["forced"] == "" and history(runs)[-1].forced == ""


def test_a_stricter_level_lets_more_through(capsys, runs: Path) -> None:
    """20 pictures differ, all in one direction: p is the smallest possible, 1 of 10,001 swaps."""
    assert "version 2, worse" in promote(capsys, runs, "worse", "--alpha", "0.00001")


def test_what_was_not_measured_is_refused_with_the_next_command(runs: Path) -> None:
    measured(runs, "today", 30, "other")
    assert refused(runs, "better") == (
        "better was not measured on other (measured: held); next: remora evaluate better --benchmarks other"
    )
    assert refused(runs, "better", "--benchmarks", "held,third") == (
        "better was not measured on third (measured: held); next: remora evaluate better --benchmarks third"
    )
    shutil.rmtree(runs / "scores")
    measured(runs, "better", 58)
    assert refused(runs, "better") == (
        f"remora@champion has no report in {runs / 'scores'}, so nothing can be held against it; "
        "next: remora evaluate remora@champion --benchmarks held"
    )
    measured(runs, "today", 5, "held", count=6)
    assert refused(runs, "better") == (
        "held: remora@champion was asked 6 of 60 questions; next: remora evaluate remora@champion --benchmarks held"
    )
    assert champion(runs)["version"] == "1" and not history(runs)


def test_a_benchmark_that_is_not_named_does_not_count(capsys, runs: Path) -> None:
    measured(runs, "today", 50, "other")
    measured(runs, "better", 5, "other")
    assert "better is significantly worse on other: accuracy 0.0833" in refused(runs, "better")
    assert "version 2, better" in promote(capsys, runs, "better", "--benchmarks", "held")


@pytest.mark.slow
def test_the_first_one_has_nothing_to_be_held_against(capsys, tmp_path: Path, runs: Path) -> None:
    assert "fresh@best: version 1, worse, the first" in promote(
        capsys, runs, "worse", "--as", "fresh", "--alias", "best"
    )
    assert version_info(Tracker(runs), "fresh", "best")["tags"]["gate"] == "nothing to be held against"
    assert "remora@next: version 2, close, the first" in promote(capsys, runs, "close", "--alias", "next")
    assert standing(Tracker(tmp_path / "new"), "remora", "champion") is None
    assert not (tmp_path / "new").exists(), "asking makes no database"


@pytest.mark.slow
def test_a_champion_whose_files_are_gone_is_replaced_by_force_only(capsys, runs: Path) -> None:
    shutil.rmtree(find_model("remora@champion", runs).folder)
    assert "version 1: its files are not at" in refused(runs, "better")
    said = promote(capsys, runs, "better", "--force", "the disk was lost")
    assert "remora@champion: version 2, better instead of version 1; forced: the disk was lost" in said
    assert champion(runs)["tags"]["promoted_from"] == "version 1 (its files are gone)"


def test_the_same_model_again_moves_nothing(capsys, runs: Path) -> None:
    assert promote(capsys, runs, "today") == "remora@champion is version 1, today, already\n"
    assert not history(runs)


def test_a_run_of_mlflow_names_its_bundle(capsys, runs: Path) -> None:
    key = f"variant/{STAGES['better']}/search/tiny/0"
    Run(runs, key=key, name="better").keep()
    Run(runs, key="stage/x", name="align").keep()
    tracker = Tracker(runs)
    tracker.sync()
    with tracker.client() as client:
        ids = {r.data.tags["remora.key"]: r.info.run_id for r in client.search_runs([tracker.server.open()])}
    assert "version 2, better" in promote(capsys, runs, ids[key])
    assert refused(runs, ids["stage/x"]) == (
        f"MLflow's run {ids['stage/x']} is of a stage; give a variant's run, or a variant's name"
    )
    assert f"has no run {'0' * 32}; its runs: remora ui" in refused(runs, "0" * 32)
    shutil.rmtree(next((runs / "bundles").glob("better-*")))
    assert "is not in" in refused(runs, ids[key])


@pytest.mark.slow
def test_the_history_is_listed(capsys, runs: Path) -> None:
    assert promote(capsys, runs, "--history") == f"{runs}: nothing was promoted; next: remora promote MODEL\n"
    promote(capsys, runs, "close")
    promote(capsys, runs, "better")
    with (runs / HISTORY).open("a") as f:
        f.write('{"at": "2026-')  # a crash
    first, figures, second, _ = promote(capsys, runs, "--history").splitlines()
    assert first.endswith(" remora@champion: version 2, close instead of version 1, today")
    assert figures.startswith("  held: accuracy 0.8167 against 0.8333")
    assert second.endswith(" remora@champion: version 3, better instead of version 2, close")
    meant, done = (json.loads(line) for line in (runs / HISTORY).read_text().splitlines()[:2])
    assert meant["intent"] == done | {"version": "", "gate": meant["intent"]["gate"]} and done["variant"] == "close"


DIES = """
import os, sys
from remora import tracking
from remora.cli import main
register = tracking.register
def dies(*given, **more):
    if sys.argv[1] == "moved":
        register(*given, **more)
    elif sys.argv[1] == "asked":  # it is in the run's record, and the next sync makes the version
        tracking.Tracker.sync = lambda self: os._exit(9)
        register(*given, **more)
    os._exit(9)
tracking.register = dies
main(["promote", "close", "--runs", sys.argv[2]])
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["moved", "asked", "meant"])
def test_a_promotion_that_was_killed_is_in_the_history_once_if_the_alias_moved(capsys, runs: Path, when: str) -> None:
    died = subprocess.run([sys.executable, "-c", DIES, when, str(runs)], capture_output=True, text=True, timeout=120)
    assert died.returncode == 9, died.stderr
    assert champion(runs)["version"] == ("2" if when == "moved" else "1") and not history(runs)
    said = promote(capsys, runs, "--history").splitlines()
    if when == "meant":
        assert said == [f"{runs}: nothing was promoted; next: remora promote MODEL"]
    else:
        assert len(said) == 2 and said[0].endswith(" remora@champion: version 2, close instead of version 1, today")
        assert champion(runs)["version"] == "2"
    file = (runs / HISTORY).read_bytes()
    assert promote(capsys, runs, "--history").splitlines() == said and (runs / HISTORY).read_bytes() == file
    promote(capsys, runs, "better")
    assert [p.variant for p in history(runs)] == (["better"] if when == "meant" else ["close", "better"])


@pytest.mark.slow
def test_the_history_is_shown_while_mlflow_is_away(capsys, runs: Path) -> None:
    promote(capsys, runs, "close")
    assert (
        subprocess.run([sys.executable, "-c", DIES.replace('"close"', '"better"'), "moved", str(runs)]).returncode == 9
    )
    note, first, _ = promote(capsys, runs, "--history", "--tracking-uri", "http://127.0.0.1:9").splitlines()
    assert note.startswith(
        "note: the last promotion did not come to its end, and MLflow cannot say what became of it: "
    )
    assert first.endswith("version 2, close instead of version 1, today") and len(history(runs)) == 1


def test_a_search_passes_the_same_gate(runs: Path) -> None:
    """Its champion takes the alias, with a line of the history, only if it is not significantly worse."""
    space, tracker = load(Space, SPACE), Tracker(runs)

    def best(name: str) -> Outcome:
        key, bundle = f"variant/{STAGES[name]}/search", next((runs / "bundles").glob(f"{name}-*"))
        Run(runs, key=key, name=name).keep()
        return Outcome(name, bundle, key, scored(space), {}, {})

    version, promotion, refused = registered(best("worse"), space, runs, tracker)
    assert (version, promotion) == ("2", None) and not history(runs) and champion(runs)["version"] == "1"
    assert refused.startswith("remora@champion stays version 1, today: ") and "significantly worse on held" in refused
    version, promotion, refused = registered(best("close"), space, runs, tracker)
    assert (version, refused) == ("3", "") and promotion and promotion.from_variant == "today"
    for number in ("2", "3"):  # what the endpoint says that a version was chosen by
        tags = version_info(tracker, "remora", number)["tags"]
        assert (tags["benchmark"], tags["accuracy"]) == (space.champion.benchmark, "0.8125")
    (kept,) = history(runs)
    assert kept == promotion and [f.benchmark for f in kept.gate] == ["held"] and champion(runs)["version"] == "3"
    assert find_model("remora@champion", runs).run_id == id_of(tracker, f"variant/{STAGES['close']}/search")
    version, promotion, refused = registered(best("close"), space, runs, tracker)  # the same search again
    assert (version, refused) == ("3", "") and promotion and not promotion.moved and len(history(runs)) == 1


def test_a_search_whose_mlflow_is_away_leaves_the_alias(runs: Path) -> None:
    """The next sync makes the version; nobody held it against today's champion."""
    key, bundle = f"variant/{STAGES['better']}/search", next((runs / "bundles").glob("better-*"))
    Run(runs, key=key, name="better").keep()
    space = load(Space, SPACE)
    best = Outcome("better", bundle, key, scored(space), {}, {})
    version, promotion, refused = registered(best, space, runs, Tracker(runs, "http://127.0.0.1:9"))
    assert (version, promotion) == (None, None) and "Connection refused" in refused
    Tracker(runs).sync()
    assert champion(runs)["version"] == "1"
    assert version_info(Tracker(runs), "remora", "2")["tags"]["variant"] == "better"


def scored(space: Space) -> dict[str, Score]:
    """What a search measured of its champion."""
    benchmark = space.champion.benchmark
    return {benchmark: Score(benchmark, 16, "accuracy", 0.8125, (0.57, 0.93))}


def id_of(tracker: Tracker, key: str) -> str:
    with tracker.client() as client:
        found = client.search_runs([tracker.server.open()])
    (run,) = (r.info.run_id for r in found if r.data.tags["remora.key"] == key)
    return run


def test_it_is_the_same_from_python(runs: Path) -> None:
    with pytest.raises(GateError, match="significantly worse on held"):
        remora.promote("worse", runs=runs)
    made = remora.promote("better", benchmarks="held", runs=runs)
    assert (made.variant, made.version, made.moved) == ("better", "2", True)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "name the model to promote, or ask for --history"),
        (["x", "--alias", "3"], "alias '3' would never be found"),
        (["better", "--alpha", "5"], "--alpha 5 is no probability between 0 and 1"),
        (["better", "--force", " "], "--force needs a reason"),
        (["nobody"], "no model 'nobody'"),
        (["better", "--tracking-uri", "http://127.0.0.1:9"], "Connection refused; start it"),
    ],
)
def test_what_cannot_be_promoted_is_one_line(runs: Path, argv: list[str], says: str) -> None:
    assert says in refused(runs, *argv)
    assert not (runs / HISTORY).exists()


def test_a_torn_bundle_is_refused_with_what_makes_it_whole(runs: Path) -> None:
    (next((runs / "bundles").glob("better-*")) / "llm" / "model.safetensors").write_bytes(b"to")
    for verb in ("promote", "register"):
        with pytest.raises(SystemExit) as stopped:
            main([verb, "better", "--runs", str(runs)])
        said = str(stopped.value)
        assert "llm/model.safetensors does not match its sha256; copy it again whole, or make it again" in said
        assert "delete" not in said, "nothing makes a bundle again by itself"


def test_a_canarys_candidate_becomes_a_version_and_takes_the_alias_by_the_gate(runs: Path) -> None:
    def candidate(model: str) -> CandidateSource:
        args = EndpointArgs(runs=runs, no_keys=True, canary=CanaryArgs(model=model)).resolved()
        return candidate_of(args, ModelSource(args.each()[0]))

    with pytest.raises(GateError, match=r"worse is significantly worse on held.*; or serve it with --no-promote"):
        candidate("worse")
    found = candidate("close")
    assert (found.version, found.source.args.version, found.source.registered) == ("2", "2", True)
    assert champion(runs)["version"] == "1" and not history(runs), "a version without the alias"
    assert found.promote() == "remora@champion: version 2 instead of version 1"
    assert champion(runs)["version"] == "2" and history(runs)[-1].variant == "close"
    assert found.promote() == "remora@champion named it already"
