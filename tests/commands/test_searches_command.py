"""`remora searches` on what a search left: its words on 80 columns, what another rule would have cost, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from remora.cli import main
from support.search_folder import write_search


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_search(tmp_path_factory.mktemp("searches") / "runs").runs


@pytest.fixture
def say(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """(What a command prints, what it complains of)."""
    monkeypatch.setenv("COLUMNS", "80")

    def told(*given: str) -> tuple[list[str], str]:
        error = ""
        try:
            main(["searches", *given, "--runs", str(runs)])
        except SystemExit as e:  # Python prints it, and exits with 1
            error = str(e.code)
        return capsys.readouterr().out.splitlines(), error

    return told


@pytest.mark.parametrize("given", [["ls"], ["show", "papers"]], ids=" ".join)
def test_tables_fit_a_terminal_of_80_columns(say, given) -> None:
    lines, _ = say(*given)
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)


def test_a_replay_starts_at_the_searchs_own_first_rung(say) -> None:
    (cost, ends, unknown), _ = say("replay", "papers")
    assert cost == "halving by gqa, eta 3, from 0.25: 630 of 1,440 steps of finetune (44%); so far there were 720"
    assert ends == "  to the end: 1 of 12 variants; which, is not known"
    assert unknown.startswith("  open: 4 would have gone on from where they were measured last (base-")
    (found,) = json.loads("\n".join(say("replay", "papers", "--rule", "none", "--json")[0]))
    assert found["steps"] == found["of"] == 1440 and found["unknown"] == [] and found["stage"] == "finetune"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["ls", "papers"], "ls lists all searches; next: remora searches show papers"),
        (["show", "paper"], "no search 'paper'; did you mean 'papers'?; there are: papers"),
        (["show"], "give the name of a search; there are: papers"),
        (["replay", "papers", "--eta", "1"], "--rule halving: eta: must be 2 or more (found 1)"),
        (["replay", "papers", "--first", "2"], "--rule halving: first: must be below 1 (found 2.0)"),
        (["replay", "papers", "--first", "0.01"], "has measured nobody before 25.00% of the last stage"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_one_line(say, given, said) -> None:
    lines, error = say(*given)
    assert not lines and error.startswith("remora: ") and said in error and "\n" not in error


def test_a_damaged_result_is_named(runs: Path, say) -> None:
    file = runs / "searches" / "papers.json"
    kept = file.read_text()
    file.write_text(kept[:40])
    try:
        assert f"{file} is not a search's result; run the search again" in say("ls")[1]
    finally:
        file.write_text(kept)
