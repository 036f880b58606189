"""The mirror logs each step of a journal once, whatever happens to the file, the training or the tracker."""

from __future__ import annotations

import json
import logging
import time

import pytest

from remora.tracking import Mirror, Tracker, mirror
from remora.training import journal as journals


def line(step, loss=None, **more):
    event = {"event": "step", "step": step, "loss": 1 / step if loss is None else loss, "time": 1000.0 + step}
    return json.dumps(event | more) + "\n"


def steps(first, last, **more):
    return "".join(line(s, **more) for s in range(first, last + 1))


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "stage" / "journal.jsonl"


@pytest.fixture
def run(tracker, journal):
    journal.parent.mkdir()
    return tracker.start("stage", key="stage")


def wait_for(condition):
    until = time.monotonic() + 20
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    assert condition()


def test_numbers_become_metrics_with_their_own_time(tracker, run, journal):
    with Mirror(tracker, run, journal):
        journal.write_text(
            json.dumps({"event": "start", "step": 1, "loss": 99.0})
            + "\n"
            + line(
                1, lr={"connector": 1e-3, "llm": 2e-5}, tokens=512, grad_norm=float("inf"), note="x", ok=True, no=None
            )
            + line(2)
        )
    with tracker.client() as client:
        found = client.get_run(run).data.metrics
        assert set(found) == {"loss", "lr.connector", "lr.llm", "tokens", "grad_norm"}
        assert found["lr.llm"] == 2e-5
        assert [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run, "loss")] == [
            (1, 1.0, 1_001_000),
            (2, 0.5, 1_002_000),
        ]


def test_figures_arrive_while_the_training_runs(tracker, run, journal, points):
    with Mirror(tracker, run, journal, interval=0.02):  # the file is not there yet
        journal.write_text(line(1) + line(2)[:20])  # and the training is in the middle of a line
        wait_for(lambda: points(tracker, run) == [(1, 1.0)])
        with journal.open("a") as f:
            f.write(line(2)[20:])
        wait_for(lambda: points(tracker, run) == [(1, 1.0), (2, 0.5)])


def test_what_a_real_journal_writes_is_read(tracker, run, journal, points):
    with Mirror(tracker, run, journal):
        journals.append(journal, "start", world=2)
        journals.append(journal, "step", step=1, loss=0.5, lr={"connector": 1e-3})
    assert points(tracker, run) == [(1, 0.5)]
    assert points(tracker, run, "lr.connector") == [(1, 1e-3)]


def test_a_journal_that_is_cut_back_gives_each_step_once(tracker, run, journal, points):
    journal.write_text(steps(1, 10))
    with Mirror(tracker, run, journal, interval=0.02):
        wait_for(lambda: len(points(tracker, run)) == 10)
        journals.take_over(journal, 6)
        # Between two looks the file grows past its old end: its size alone does not show that it was cut.
        journals.write_atomic(journal, journal.read_text() + steps(6, 14, loss=7.0))
    assert points(tracker, run) == [(s, 1 / s) for s in range(1, 11)] + [(s, 7.0) for s in range(11, 15)]


def test_steps_of_an_attempt_that_was_taken_over_from_are_left_out(tracker, run, journal, points):
    first = journals.take_over(journal, 0)
    journals.append(journal, "step", attempt=first, step=0, loss=1.0)
    with Mirror(tracker, run, journal, interval=0.02):
        wait_for(lambda: len(points(tracker, run)) == 1)
        second = journals.take_over(journal, 1)
        journals.append(journal, "step", attempt=first, step=1, loss=7.0)  # by who was thought dead
        journals.append(journal, "step", attempt=second, step=1, loss=2.0)
    assert points(tracker, run) == [(0, 1.0), (1, 2.0)]
    assert points(tracker, run, "attempt") == []


def test_a_later_mirror_goes_on_where_the_first_ended(tracker, run, journal, points):
    journal.write_text(steps(1, 10))
    with Mirror(tracker, run, journal):
        pass
    journal.write_text(steps(1, 12, loss=7.0))
    for other in (tracker, Tracker(tracker.runs)):
        with Mirror(other, run, journal):
            pass
    assert points(tracker, run) == [(s, 1 / s) for s in range(1, 11)] + [(11, 7.0), (12, 7.0)]


def test_steps_from_another_process_are_known_to_an_old_tracker(tracker, run, journal, points):
    journal.write_text(steps(1, 2))
    with Mirror(tracker, run, journal):
        pass
    journal.write_text(steps(1, 4))
    with Mirror(Tracker(tracker.runs), run, journal):
        pass
    journal.write_text(steps(1, 5, loss=7.0))
    with Mirror(tracker, run, journal):
        pass
    assert points(tracker, run) == [*((s, 1 / s) for s in range(1, 5)), (5, 7.0)]


def test_torn_lines_inside_are_skipped(tracker, run, journal, points):
    journal.write_text(line(1) + line(2)[:15] + line(3) + "[1]\n\n" + json.dumps({"event": "step"}) + "\n" + line(4))
    with Mirror(tracker, run, journal):
        pass
    assert [s for s, _ in points(tracker, run)] == [1, 4]


def test_many_steps_go_in_few_calls_of_whole_steps(tracker, run, journal, points, monkeypatch):
    calls = []
    with tracker.client() as client:
        real = client.log_batch
    monkeypatch.setattr(client, "log_batch", lambda run, metrics, *a: (calls.append(metrics), real(run, metrics, *a)))
    journal.write_text(steps(1, 1200, lr={"a": 1.0, "b": 2.0}))
    with Mirror(tracker, run, journal):
        pass
    assert len(points(tracker, run)) == len(points(tracker, run, "lr.b")) == 1200
    assert len(calls) == 5
    assert max(map(len, calls)) <= 1000
    for metrics in calls:  # a crash between two calls leaves no half step
        assert {m.key for m in metrics if m.step == metrics[-1].step} == {"loss", "lr.a", "lr.b"}


def test_a_mirror_without_a_server_writes_each_step_once_later(tracker, run, journal, points, monkeypatch):
    journal.write_text(steps(1, 5))
    with Mirror(tracker, run, journal):
        pass
    with tracker.client() as client:
        pass
    with monkeypatch.context() as away:

        def refuse(*args, **kwargs):
            raise ConnectionError("away")

        for call in ("log_batch", "get_metric_history", "get_run"):
            away.setattr(client, call, refuse)
        for last in (8, 9):  # two restarts while the server is away; neither can ask how far MLflow is
            journal.write_text(steps(1, last, loss=7.0))
            with Mirror(tracker, run, journal):
                pass
    assert tracker.replay() == 0
    assert points(tracker, run) == [(s, 1 / s) for s in range(1, 6)] + [(s, 7.0) for s in range(6, 10)]


def test_a_failing_training_is_mirrored_to_its_end(tracker, run, journal, points):
    with pytest.raises(ZeroDivisionError), Mirror(tracker, run, journal):
        journal.write_text(steps(1, 3))
        raise ZeroDivisionError
    assert len(points(tracker, run)) == 3


def test_a_journal_that_cannot_be_read_stops_nothing(tracker, run, journal, caplog):
    journal.mkdir()
    with caplog.at_level(logging.WARNING), Mirror(tracker, run, journal):
        pass
    assert "cannot be read" in caplog.text


def test_an_unforeseen_line_is_no_step():
    for text in (b"", b"null", b"\xff\xfe", b'{"event": "step", "step": "1"}', b'{"event": "step", "step": true}'):
        event = mirror._event(text)
        assert event is None or mirror._step(event) is None
