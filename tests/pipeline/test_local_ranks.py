"""A local group of ranks: one failure ends all; permanent errors are raised, others are retried.

Shell scripts replace the ranks.
"""

from __future__ import annotations

import pytest

from remora.carrier import pack
from remora.errors import ClusterError, DataError, WorkerError
from remora.pipeline import local
from remora.pipeline.executor import Task
from remora.pipeline.feed import Feed
from remora.processes import marked
from remora.spec import Cluster
from remora.training.journal import read

HANGS = "exec sleep 600"
AGAIN = "[ -e $0/status.jsonl ]"  # this file exists once a group has failed
BROKEN = DataError("picture 3 is broken; next: remora data check x")


class Job:
    """A stage run's job, as far as ranks that do not train need it."""

    def __init__(self, folder):
        self.folder = folder

    def to_json(self):
        return "{}"


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train with such ranks; checks that all have ended, and returns the notes for the user."""
    monkeypatch.setattr(local, "LEAVE_WITHIN", 0.0)
    marks = []

    class Child(local.Child):
        def __init__(self, *given):
            super().__init__(*given)
            marks.append(self.mark)

    monkeypatch.setattr(local, "Child", Child)

    def train(first, second, max_failures=0):
        script = f"case $RANK in 0) {first};; 1) {second};; esac"
        monkeypatch.setattr(local, "rank_command", lambda *given: ["sh", "-c", script, str(tmp_path)])
        cluster = Cluster(workers=2, max_failures=max_failures)
        try:
            task = Task("it", Job(tmp_path), {}, tmp_path / "status.jsonl")
            with Feed.fresh(tmp_path, [task], closed=True) as feed:
                local.Local().train(feed, cluster, tmp_path)
        finally:
            assert marks and not [pid for mark in marks for pid in marked(mark)]
        return [e["text"] for e in read(tmp_path / "status.jsonl")] if (tmp_path / "status.jsonl").exists() else []

    return train


def test_ranks_that_end_well_are_all_there_is(train):
    assert train("exit 0", "exit 0") == []


def test_a_rank_that_is_killed_ends_the_others_and_all_start_again(train):
    (note,) = train(f"{AGAIN} || {HANGS}", f"{AGAIN} || kill -9 $$", max_failures=1)
    assert note.startswith("it: a rank failed, all restart from the last checkpoint: ended by SIGKILL")


def test_after_the_last_try_it_is_given_up_with_the_log(train, tmp_path):
    with pytest.raises(ClusterError, match=r"^it: given up after 2 tries, .*; lost \(log: .*rank-1.log\)$"):
        train(HANGS, "echo lost; exit 1", max_failures=1)


def test_what_a_retry_would_meet_again_is_raised_as_itself(train, monkeypatch):
    monkeypatch.setattr(local, "LEAVE_WITHIN", 60.0)  # both end by themselves, whichever is first
    with pytest.raises(DataError) as e:
        train(f"echo '{pack(WorkerError('connection closed'))}'; exit 1", f"echo '{pack(BROKEN)}'; exit 1", 3)
    assert str(e.value) == str(BROKEN)
