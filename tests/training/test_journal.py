"""The journal: whole lines in order, a torn last line is left for later, and steps to be repeated are dropped."""

from __future__ import annotations

import json
import math

from remora.training import journal


def test_events_are_read_in_the_order_they_were_written(tmp_path):
    path = tmp_path / journal.JOURNAL
    journal.append(path, "started", steps=2, at=0)
    journal.append(path, "step", step=0, loss=1.5, lr={"llm": 1e-3})
    events = list(journal.read(path))
    assert [e["event"] for e in events] == ["started", "step"]
    assert events[1]["loss"] == 1.5 and events[1]["lr"] == {"llm": 1e-3}
    assert events[0]["time"] <= events[1]["time"]


def test_a_journal_that_is_not_there_is_empty(tmp_path):
    assert list(journal.read(tmp_path / "none")) == []
    assert journal.attempt(tmp_path / "none") == 0


def test_a_line_that_is_still_being_written_is_left_for_the_next_time(tmp_path):
    path = tmp_path / journal.JOURNAL
    journal.append(path, "step", step=0)
    whole = path.read_text()
    path.write_text(whole + '{"event": "st')
    assert [e["step"] for e in journal.read(path)] == [0]
    path.write_text(whole + whole)
    assert len(list(journal.read(path))) == 2


def test_any_text_stays_on_its_line(tmp_path):
    path = tmp_path / journal.JOURNAL
    said = "two\nlines\r, \u2028 and \x85 and é"
    journal.append(path, "failed", error=said)
    journal.append(path, "end")
    assert [e.get("error") for e in journal.read(path)] == [said, None]


def test_resuming_forgets_the_steps_that_will_be_repeated(tmp_path):
    path = tmp_path / journal.JOURNAL
    journal.append(path, "started", at=0)
    for step in range(5):
        journal.append(path, "step", step=step, loss=math.pi * step)
    journal.append(path, "note", text="kept")
    before = list(journal.read(path))
    assert journal.take_over(path, 3) == 1
    assert list(journal.read(path))[:-1] == before[:4] + before[6:]
    journal.append(path, "step", step=3)
    assert [e["step"] for e in journal.steps_of(path)] == [0, 1, 2, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == [journal.JOURNAL]


def test_a_torn_line_is_gone_after_a_resume_so_the_next_event_has_its_own(tmp_path):
    path = tmp_path / journal.JOURNAL
    journal.append(path, "step", step=0)
    with path.open("a") as f:
        f.write('{"event": "step", "ste')
    journal.take_over(path, 1)
    journal.append(path, "step", step=1)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [e["event"] for e in events] == ["step", "attempt", "noted", "step"]
    assert events[2]["text"] == f"{path}: skipped 1 torn line (a crash or a full disk)"


def test_a_journal_that_lost_steps_says_so_when_it_is_taken_over(tmp_path):
    path = tmp_path / journal.JOURNAL
    for step in (0, 1, 5):
        journal.append(path, "step", step=step)
    with path.open("ab") as f:
        f.write(b'{"event": "step", "st\n' + bytes(20) + b"\n")
    journal.append(path, "left_out", step=6)
    journal.append(path, "rolled_back", step=9, to=8)
    journal.take_over(path, 10)
    (text,) = journal.notes_of(path)
    assert "skipped 2 torn lines" in text
    assert "figures of 4 steps, the first is 2, are not in the journal" in text  # 2, 3, 4, 7
    journal.take_over(path, 10)
    assert len(journal.notes_of(path)) == 2  # said again, without the torn lines that are gone


def test_the_newest_attempt_counts_though_its_own_line_is_lost(tmp_path):
    path = tmp_path / journal.JOURNAL
    journal.append(path, "step", step=0, attempt=3)
    assert journal.take_over(path, 1) == 4


def test_what_an_attempt_writes_that_was_taken_over_from_is_not_read(tmp_path):
    path = tmp_path / journal.JOURNAL
    first = journal.take_over(path, 0)
    for step in range(4):
        journal.append(path, "step", attempt=first, step=step, by="first")
    second = journal.take_over(path, 2)
    assert (first, second) == (1, 2)
    # Both are at work now: the first was stopped, thought dead, and woken.
    journal.append(path, "step", attempt=first, step=4, by="first")
    journal.append(path, "step", attempt=second, step=2, by="second")
    journal.append(path, "trained", attempt=first)
    journal.append(path, "step", attempt=second, step=3, by="second")
    steps = [(e["step"], e["by"]) for e in journal.steps_of(path)]
    assert steps == [(0, "first"), (1, "first"), (2, "second"), (3, "second")]
    assert not any(e["event"] == "trained" for e in journal.read(path))
    # And a third one keeps nothing of what the first wrote late.
    journal.take_over(path, 3)
    assert [e["by"] for e in map(json.loads, path.read_text().splitlines()) if e["event"] == "step"] == [
        "first",
        "first",
        "second",
    ]
