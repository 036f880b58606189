"""The rule of a canary: how often it is wrong, what it says, and a replay that is what happened."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from remora.cli import main
from remora.errors import GateError, SpecError, StoreError
from remora.files.lines import utc_now
from remora.serving.canary import journal
from remora.serving.canary.args import CanaryArgs, CanaryRule
from remora.serving.canary.course import Course, course_of
from remora.serving.canary.journal import Canary
from remora.serving.canary.judge import JournalJudge
from remora.serving.canary.observed import Comparison, Observation, overlap
from remora.serving.canary.rule import decide, figures
from remora.serving.canary.sticky import client_of
from remora.serving.versions import place
from support.canary_pairs import GOOD, Version, drawn, failing

PLAN = CanaryArgs(model="better")
QUICK = CanaryArgs(model="better", share=(0.1, 0.5), rule=CanaryRule(comparisons=200, looks=10))
LAX = CanaryRule(comparisons=200, looks=10, errors=0.05, empty=0.05, cut=0.15)


def simulated(candidate: Version, times: int = 200) -> Counter[str]:
    """How canaries of such a candidate end: by the verdict, and whether it was beyond a limit."""
    plan = CanaryArgs(model="x", rule=LAX, share=(0.5,))
    found: Counter[str] = Counter()
    for seed in range(times):
        course = course_of(plan, drawn(200, candidate, seed))
        found[course.looks[-1].why.partition(":")[0].partition(";")[0]] += 1
    return found


def most(times: int, rate: float) -> int:
    """So many of so many times, at this rate, with probability 0.999."""
    return int(stats.binom.ppf(0.999, times, rate))


@pytest.mark.slow
def test_a_candidate_at_every_limit_is_called_worse_with_probability_alpha_at_most() -> None:
    found = simulated(Version(errors=0.05, empty=0.05, cut=0.35, first=1.5, token=1.5))
    assert found["beyond its limit"] <= most(200, LAX.alpha) and found["within all limits"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "candidate", [Version(errors=0.05), Version(empty=0.05), Version(cut=0.35), Version(first=1.5), Version(token=1.5)]
)
def test_a_candidate_at_one_limit_takes_over_with_probability_beta_at_most(candidate: Version) -> None:
    found = simulated(candidate)
    assert found["within all limits"] <= most(200, LAX.beta)


@pytest.mark.slow
def test_an_equal_candidate_takes_over_and_a_bad_one_goes_early() -> None:
    assert simulated(GOOD, 100)["within all limits"] >= 80
    assert simulated(GOOD, 100)["beyond its limit"] == 0
    for bad in (Version(errors=0.3), Version(empty=0.3), Version(first=3), Version(token=3)):
        courses = [course_of(PLAN, drawn(400, bad, seed)) for seed in range(20)]
        assert {course.verdict for course in courses} == {"roll back"}
        assert max(len(course.comparisons) for course in courses) <= 100, "in the shadow alone"
        assert all(course.plan.share_after(len(course.looks) - 1) == 0 for course in courses)


def test_figures_against_what_they_say() -> None:
    found = {figure.name: figure for figure in figures(drawn(100, Version(errors=0.1, first=2), 3), CanaryRule())}
    failed = [c.candidate.error is not None for c in drawn(100, Version(errors=0.1, first=2), 3)]
    assert found["errors"].candidate == sum(failed) / 100 and found["errors"].stable == 0
    assert found["first token"].n == found["empty"].n == 100 - sum(failed)
    first = found["first token"]
    assert first.candidate is not None and first.stable is not None
    assert first.p_beyond < 0.05 < first.p_within and 1.6 < first.candidate / first.stable < 2.5
    assert first.shown.startswith("first token: ") and "times (limit 1.5), n 87" in first.shown
    assert found["errors"].shown.startswith(f"errors: {sum(failed) / 100:.3f} against 0.000, +0.")
    nothing = figures([], CanaryRule())
    assert not any(figure.tested for figure in nothing) and nothing[0].shown == "errors: not tested, n 0"


def test_times_of_answers_of_one_token_are_not_tested() -> None:
    short = [
        replace(c, stable=replace(c.stable, token_s=None), candidate=replace(c.candidate, token_s=None))
        for c in drawn(200, GOOD)
    ]
    course = course_of(QUICK.with_rule({"errors": 0.05, "empty": 0.05, "cut": 0.2}), short)
    assert course.verdict == "promote"
    assert course.looks[-1].why == "within all limits; not tested: token time, token time p95"


def test_shares_rise_at_looks() -> None:
    course, shares = Course(QUICK), []
    for comparison in drawn(200, GOOD):
        if course.add(comparison):
            shares.append(course.share)
    assert shares[:-1] == [0, 0, 0, 0.1, 0.1, 0.1, 0.5, 0.5, 0.5] and course.verdict != "go on"
    assert [look.n for look in course.looks] == list(range(20, 201, 20))
    assert course.add(failing(drawn(1, GOOD)[0])) is None and len(course.comparisons) == 200


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"share": [0.5, 0.25]}, "share must rise"),
        ({"share": [0.5, 1.5]}, "share must rise"),
        ({"rule": {"looks": 3}}, "fewer than the 4 steps"),
        ({"rule": {"looks": 300, "comparisons": 200}}, "looks"),
        ({"rule": {"comparisons": 148}}, "comparisons is 148, and a candidate without a fault needs 149"),
        ({"rule": {"alfa": 1}}, "alfa"),
        ({"shadow": 0}, "shadow"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, object], why: str) -> None:
    from remora.spec.base import validate

    with pytest.raises(SpecError, match=why):
        validate(CanaryArgs, {"model": "x", **given}, "canary")


def test_a_client_stays_where_it_is_while_the_share_rises() -> None:
    places = [place("4", client_of("client", None, f"user {i}", [])) for i in range(4000)]
    assert stats.kstest(places, "uniform").pvalue > 1e-4
    others = [place("5", client_of("client", None, f"user {i}", [])) for i in range(4000)]
    assert abs(stats.spearmanr(places, others).statistic) < 0.06, "not the same clients first in every canary"
    said = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "a"}]}]
    later = [*said, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert client_of("client", "alice", None, said) == client_of("client", "alice", None, [])
    assert len({client_of("client", *who, said) for who in (("alice", None), ("bob", None), ("alice", "x"))}) == 3
    assert client_of("client", None, None, said) == client_of("conversation", None, "x", later)
    assert client_of("conversation", None, None, said) != client_of("conversation", None, None, said[1:])
    for odd in ([None, 3], ["a"], [{"role": "user", "content": "\ud800"}], [{"role": ["x"]}]):
        assert 0 <= place("4", client_of("conversation", None, {"a": 1}, odd)) < 1


def test_overlap_is_f1_of_words() -> None:
    assert overlap("A red  ball.", "a ball, red") == 1 and overlap("", " ") == 1 and overlap("a", "") == 0
    assert overlap("a a b", "a c") == 2 * 1 / 5


# The journal and its judge.


class Promoting:
    """What moves the alias."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls, self.error = 0, error

    def __call__(self) -> str:
        self.calls += 1
        if self.error:
            raise self.error
        return "remora@champion: version 4 instead of version 3"


def begun(plan: CanaryArgs = QUICK, id: str = "c1") -> Canary:
    return Canary(id, "remora", "3", "4", plan, utc_now())


def judged(file: Path, comparisons: list[Comparison], promote: Promoting, canary: Canary | None = None) -> JournalJudge:
    """A judge that was given the comparisons, seven at a time."""

    async def go() -> JournalJudge:
        judge = JournalJudge(file, canary or begun(), promote)
        for i in range(0, len(comparisons), 7):
            await judge.record(comparisons[i : i + 7])
        for _ in range(500):
            if judge.state.phase != "deciding":
                return judge
            await asyncio.sleep(0.01)
        raise AssertionError("still deciding")

    return asyncio.run(go())


EASY = QUICK.with_rule({"errors": 0.05, "empty": 0.05, "cut": 0.3})


@pytest.mark.parametrize(
    ("candidate", "promote", "phase"),
    [
        (GOOD, Promoting(), "promoted"),
        (GOOD, Promoting(GateError("remora@champion stays version 3: better is significantly worse")), "rolled back"),
        (GOOD, Promoting(OSError("disk")), "rolled back"),
        (Version(first=4), Promoting(), "rolled back"),
        (Version(errors=0.5), Promoting(), "rolled back"),
    ],
)
def test_a_replay_under_the_same_rule_is_what_happened(
    tmp_path: Path, candidate: Version, promote: Promoting, phase: str
) -> None:
    file = journal.journal_of(tmp_path, "remora")
    judge = judged(file, drawn(230, candidate, 1), promote, begun(EASY))
    assert judge.state.phase == phase and judge.state.share == (phase == "promoted")
    kept = journal.last(tmp_path, None)
    assert (kept.phase, kept.plan, kept.candidate) == (phase, EASY, "4") and kept.ended
    again = course_of(kept.plan, kept.comparisons)
    assert again.looks == kept.looks, "figure by figure, as it was read back from the file"
    assert again.verdict == ("promote" if promote.calls else "roll back") and promote.calls <= 1
    assert "text" not in file.read_text() and "answered" in file.read_text()
    if promote.error:
        assert "but it was not promoted: " in kept.why and str(promote.error) in kept.why


def test_another_rule_may_decide_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slower = drawn(400, Version(first=1.3), 1)
    judged(journal.journal_of(tmp_path, "remora"), slower, Promoting(), begun(EASY))
    main(["canary", "show", "--runs", str(tmp_path)])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("remora: version 4 (better) beside 3, since 20")
    assert shown[2].startswith("rule: 200 comparisons, 10 looks (pocock, alpha 0.05, beta 0.05); limits: errors +0.05")
    assert shown[3].startswith("look 1 at 20 comparisons, level 0.00") and "promoted: within all limits" in shown[-1]
    replay = ["canary", "replay", "remora", "--runs", str(tmp_path)]
    main(replay)
    assert "would promote after 200 comparisons: within all limits" in capsys.readouterr().out
    main([*replay, "--rule", "first_token=1.05", "first_token_p95=1.1"])
    said = capsys.readouterr().out
    assert "would roll back after" in said and "first token" in said and "what happened: promoted after 20" in said
    main([*replay, "--rule", "comparisons=1000", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], told["rule"]["comparisons"]) == ("go on", 1000) and told["comparisons"] == 203
    main(["canary", "show", "--runs", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["phase"] == "promoted"
    for wrong, why in (
        ("alfa=1", "alfa"),
        ("alpha", "NAME=VALUE"),
        ("alpha=[", "not valid"),
        ("alpha=2", "alpha"),
    ):
        with pytest.raises(SystemExit, match=why):
            main([*replay, "--rule", wrong])
    with pytest.raises(SystemExit, match=r"no canary of an endpoint 'other'; there are: remora; next: remora serve"):
        main(["canary", "show", "other", "--runs", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"--rule: show tells what happened; next: remora canary replay --rule"):
        main(["canary", "show", "--runs", str(tmp_path), "--rule", "alpha=0.01"])


@pytest.mark.slow
def test_a_judge_that_is_killed_anywhere_goes_on(tmp_path: Path) -> None:
    """The journal is cut behind any of its bytes: what was read of it again, and the rest, give the same looks."""
    comparisons = drawn(100, GOOD, 1)
    plan = CanaryArgs(model="x", share=(), rule=CanaryRule(comparisons=100, looks=3, cut=0.4, errors=0.1, empty=0.1))
    whole = journal.journal_of(tmp_path / "whole", "remora")
    assert judged(whole, comparisons, Promoting(), begun(plan)).state.phase == "promoted"
    data, expected = whole.read_bytes(), journal.read(whole)[0]
    for at in {0, 50, *range(100, len(data), len(data) // 23), len(data) - 5}:
        file = journal.journal_of(tmp_path / str(at), "remora")
        file.parent.mkdir(parents=True)
        file.write_bytes(data[:at])
        promote = Promoting()
        judged(file, comparisons, promote, begun(plan))
        found = journal.read(file)[-1]
        assert (found.phase, found.looks) == ("promoted", expected.looks) and promote.calls == 1
        assert {c.id for c in found.comparisons} == {c.id for c in comparisons}
        assert len(found.comparisons) == 100, "each once"


def test_a_canary_that_was_decided_is_not_begun_by_its_judges_restart(tmp_path: Path) -> None:
    file = journal.journal_of(tmp_path, "remora")
    judged(file, drawn(60, Version(errors=0.9), 1), Promoting())
    again = judged(file, drawn(60, GOOD, 2), Promoting())
    assert again.state.phase == "rolled back" and len(journal.read(file)) == 1
    another = judged(file, drawn(10, GOOD, 2), Promoting(), begun(id="c2"))
    assert another.state.phase == "shadow" and len(journal.read(file)) == 2
    resumed = judged(file, drawn(20, GOOD, 2), Promoting(), begun(id="c3"))
    assert resumed.canary.id == "c2" and resumed.state.comparisons == 20 and len(journal.read(file)) == 2


def test_told_only(tmp_path: Path) -> None:
    promote = Promoting()
    plan = EASY.model_copy(update={"promote": False})
    judge = judged(journal.journal_of(tmp_path, "remora"), drawn(200, GOOD, 1), promote, begun(plan))
    assert judge.state.phase == "told" and judge.state.share == 0 and not promote.calls
    assert "would take over (within all limits), and promotion is off" in judge.state.why


def test_a_journal_that_cannot_be_written_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        judge = JournalJudge(journal.journal_of(tmp_path, "a/../b"), begun(), Promoting())
        some = drawn(5, GOOD)
        await judge.record(some[:3])
        real = journal.write
        monkeypatch.setattr(journal, "write", lambda *_: (_ for _ in ()).throw(StoreError("the disk is full")))
        with pytest.raises(StoreError, match="full"):
            await judge.record(some)
        assert judge.state.comparisons == 3
        monkeypatch.setattr(journal, "write", real)
        assert (await judge.record(some)).comparisons == 5

    asyncio.run(go())
    assert [file.parent.parent for file in journal.journals(tmp_path).values()] == [tmp_path / "serving"]


def test_errors_count_once_and_nothing_else_of_that_answer() -> None:
    answer = Observation(None, True, 1, "stop", 0.1, None)
    pairs = [Comparison(str(i), "stable", answer, Observation(error="X")) for i in range(40)]
    look = decide(pairs, QUICK.rule, 2)
    assert look.verdict == "roll back" and look.why.startswith("beyond its limit: errors: 1.000 against 0.000, +1.000")
    assert [figure.n for figure in look.figures] == [40, 0, 0, 0, 0, 0, 0]
