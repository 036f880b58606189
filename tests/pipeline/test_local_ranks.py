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


@pytest.mark.slow
def test_ranks_that_end_well_are_all_there_is(train):
    assert train("exit 0", "exit 0") == []


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_others_and_all_start_again(train):
    (note,) = train(f"{AGAIN} || {HANGS}", f"{AGAIN} || kill -9 $$", max_failures=1)
    assert note.startswith("it: a rank failed, all restart from the last checkpoint: ended by SIGKILL")


@pytest.mark.slow
def test_after_the_last_try_it_is_given_up_with_the_log(train, tmp_path):
    with pytest.raises(ClusterError, match=r"^it: given up after 2 tries, .*; lost \(log: .*rank-1.log\)$"):
        train(HANGS, "echo lost; exit 1", max_failures=1)


@pytest.mark.slow
def test_what_a_retry_would_meet_again_is_raised_as_itself(train, monkeypatch):
    monkeypatch.setattr(local, "LEAVE_WITHIN", 60.0)  # both end by themselves, whichever is first
    with pytest.raises(DataError) as e:
        train(f"echo '{pack(WorkerError('connection closed'))}'; exit 1", f"echo '{pack(BROKEN)}'; exit 1", 3)
    assert str(e.value) == str(BROKEN)


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    """A search's trainer of two ranks; each rank that starts leaves a file, and rank 0 says how each task ended."""
    monkeypatch.setattr(local, "LEAVE_WITHIN", 0.0)
    ending = """
        touch $0/began-$RANK-$$
        [ $RANK = 0 ] || exec sleep 600
        while true; do
            given=$(grep -c '"task": \\[' $1); ended=$(cat $2 2>/dev/null | grep -c ended)
            [ -e $0/die ] && rm $0/die && exit 1
            [ $ended -lt $given ] && printf '{"ended": "trained"}\\n' >> $2
            sleep 0.02
        done"""

    def command(runs, feed, hang_timeout):
        return ["sh", "-c", ending, str(tmp_path), str(feed), str(feed.with_suffix(".ended.jsonl"))]

    monkeypatch.setattr(local, "rank_command", command)
    trainer = local.trainer_of(Cluster(workers=2, max_failures=1), tmp_path)
    yield trainer
    trainer.close()


@pytest.mark.slow
def test_a_search_keeps_its_group_of_ranks(tmp_path, ranks):
    for name in ("one", "two", "three"):
        assert ranks.train(Task(name, Job(tmp_path), {}, tmp_path / "status.jsonl")) == "trained"
    assert len(list(tmp_path.glob("began-*"))) == 2
    ranks.close()  # its room is needed
    assert not list((tmp_path / "feeds").glob("*.jsonl"))
    assert ranks.train(Task("four", Job(tmp_path), {}, tmp_path / "status.jsonl")) == "trained"
    assert len(list(tmp_path.glob("began-*"))) == 4


@pytest.mark.slow
def test_a_kept_group_that_dies_is_started_again(tmp_path, ranks):
    (tmp_path / "die").touch()
    assert ranks.train(Task("one", Job(tmp_path), {}, tmp_path / "status.jsonl")) == "trained"
    assert len(list(tmp_path.glob("began-0-*"))) == 2
    (note,) = (e["text"] for e in read(tmp_path / "status.jsonl"))
    assert note.startswith("one: a rank failed, all restart from the last checkpoint")
