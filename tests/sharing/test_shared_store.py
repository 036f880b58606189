"""Stage runs, indexes, answers and bundles of a run folder at a URL: what one node has done, another goes on from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from remora.data.index_builder import open_dataset
from remora.data.sources import find_source
from remora.errors import StoreError
from remora.evaluation.shared_scores import bring_scores, shared_answers
from remora.files import publishing
from remora.runs import StageRun, Store, handover
from remora.runs.handover import CheckpointSender, take_over
from remora.sharing import SharedRuns, leases
from remora.training.job import CHECKPOINTS
from remora.training.journal import JOURNAL
from runs.test_store import a_run, finish
from sharing.conftest import NodeMaker
from support.waiting import until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "POLL", 0.02)
    monkeypatch.setattr(handover, "LOOK_EVERY", 0.02)


def checkpoint(work: Path, step: int) -> None:
    with publishing(work / CHECKPOINTS / f"step-{step:06d}") as tmp:
        (tmp / "trained.safetensors").write_text(f"after {step}")
    with (work / JOURNAL).open("a") as f:
        f.write(json.dumps({"event": "step", "step": step}) + "\n")


def at(work: Path) -> list[str]:
    return sorted(p.name for p in (work / CHECKPOINTS).glob("step-*"))


def test_a_stage_run_of_one_node_is_finished_on_all(node: NodeMaker) -> None:
    a, b, run = Store(node("a").root), Store(node("b").root), a_run()
    assert not b.finished(run) and not b.there(run)
    trained(a, run)
    assert b.there(run) and not b.folder(run).exists()  # to know it, nothing is brought
    assert b.finished(run) and b.record(run) == {"mlflow_run": "1"}
    with b.lease(run) as mine:
        assert not mine


def test_what_was_published_but_not_sent_is_sent_by_the_next_who_needs_it(
    node: NodeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, run = Store(node("a").root), Store(node("b").root), a_run()

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SharedRuns, "send_missing", killed)
        patch.setattr(CheckpointSender, "look", lambda self: None)
        trained(a, run)
    assert not a.finished(run) and not b.finished(run)
    with a.lease(run) as mine:
        assert not mine
    assert a.finished(run) and b.finished(run) and not a.work(run).exists()


def test_a_trained_run_is_sent_while_its_lease_is_held_for_others_after_it(node: NodeMaker) -> None:
    a, b, run = Store(node("a").root), Store(node("b").root), a_run()
    with a.lease(run):
        finish(a, run)
        until("it is at the URL", lambda: b.there(run))
    assert b.finished(run)


def test_a_torn_run_is_set_aside_and_brought_again(node: NodeMaker) -> None:
    a, b, run = Store(node("a").root), Store(node("b").root), a_run()
    trained(a, run)
    assert b.finished(run)
    (b.folder(run) / "parts/connector/model.safetensors").write_text("wEights")
    assert not b.finished(run)
    with b.lease(run) as mine:
        assert not mine
    assert b.finished(run) and len(list(b.root.glob("*.torn-*"))) == 1


def test_a_node_goes_on_from_the_last_checkpoint_of_another(node: NodeMaker) -> None:
    a, b, run = Store(node("a").root), Store(node("b").root), a_run()
    with a.lease(run) as mine:
        assert mine
        for step in (3, 6, 9, 12):
            checkpoint(a.work(run), step)
    assert b.elsewhere(run) is False
    with b.lease(run) as mine:
        assert mine and at(b.work(run)) == ["step-000012"]
        assert [json.loads(line)["step"] for line in (b.work(run) / JOURNAL).read_text().splitlines()] == [3, 6, 9, 12]
        checkpoint(b.work(run), 15)
        finish_in(b, run)
    assert a.finished(run)
    assert a.shared and not a.shared.names(f"stages/{run.name}.work")  # nobody needs its checkpoints any more


def trained(store: Store, run: StageRun) -> None:
    with store.lease(run) as mine:
        assert mine
        finish(store, run)


def finish_in(store: Store, run: StageRun) -> None:
    work = store.work(run)
    (work / "parts/connector").mkdir(parents=True)
    (work / "job.json").write_text("{}")
    store.publish(work.stem, {"mlflow_run": "2"})


def test_a_node_keeps_its_own_work_where_that_is_newer(node: NodeMaker) -> None:
    a, b, run = Store(node("a").root), Store(node("b").root), a_run()
    with a.lease(run):
        checkpoint(a.work(run), 3)
    b.work(run).mkdir(parents=True)
    checkpoint(b.work(run), 6)
    with b.lease(run):
        assert at(b.work(run)) == ["step-000006"]
    with a.lease(run):
        assert at(a.work(run)) == ["step-000006"]


def test_old_checkpoints_go_and_a_damaged_one_is_passed_over(node: NodeMaker, caplog: pytest.LogCaptureFixture) -> None:
    a, b, run = Store(node("a").root), Store(node("b").root), a_run()
    shared, key = a.shared, f"stages/{run.name}.work"
    assert shared and b.shared
    with shared.leases.hold("x") as held:
        assert held
        sender = CheckpointSender(a.work(run), a.folder(run), shared, held)
        for step in (3, 6, 9):
            checkpoint(a.work(run), step)
            sender.look()
            sender.look()
        held.lost = True
        checkpoint(a.work(run), 12)
        sender.look()
    assert shared.numbers(key) == [6, 9]
    newest = shared.newest(key)
    assert newest
    shared.objects.write(f"{key}/{newest.attempt}/{CHECKPOINTS}/step-000009/trained.safetensors", b"torn")
    take_over(b.work(run), b.shared)
    assert "step-000009/trained.safetensors does not match its sha256" in caplog.text
    assert at(b.work(run)) == ["step-000006"]


def test_a_store_that_fails_for_a_while_costs_a_checkpoint_and_stops_nothing(
    node: NodeMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a, run = Store(node("a").root), a_run()
    assert a.shared

    def fails(*args: object, **more: object) -> None:
        raise StoreError("the store does not answer")

    with a.shared.leases.hold("x") as held:
        assert held
        sender = CheckpointSender(a.work(run), a.folder(run), a.shared, held)
        checkpoint(a.work(run), 3)
        with monkeypatch.context() as patch:
            patch.setattr(a.shared, "send", fails)
            sender.look()
        assert "step 3 is not sent yet: the store does not answer" in caplog.text
        sender.look()
    assert a.shared.numbers(f"stages/{run.name}.work") == [3]


def test_a_run_folder_that_cannot_be_written_says_so_before_anything_starts(
    node: NodeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(node("a").root)
    store.check_writable()
    monkeypatch.setenv("REMORA_NODE_FOLDER", str(store.runs) + "-other")
    from remora.sharing import node_folder

    with pytest.raises(StoreError, match="there is no such bucket"):
        Store(node_folder("s3://no-such/runs")).check_writable()


def test_answers_are_asked_for_by_one_node_and_compared_on_any(node: NodeMaker) -> None:
    a, b = node("a"), node("b")
    waited: list[str] = []
    for shared, there, after in ((a, "", "one\n"), (b, "one\n", "one\ntwo\n"), (a, "one\ntwo\n", "one\ntwo\n")):
        folder = shared.root / "scores" / "model-benchmark"
        with shared_answers(folder, waited.append):
            folder.mkdir(parents=True, exist_ok=True)
            own = folder / "asked.jsonl"
            assert (own.read_text() if own.exists() else "") == there
            own.write_text(after)
    assert a.numbers("scores/model-benchmark") == [1, 2] and not waited
    c = node("c")
    bring_scores(c.root / "scores")
    assert (c.root / "scores/model-benchmark/asked.jsonl").read_text() == "one\ntwo\n"


def test_the_index_of_a_dataset_at_a_url_is_made_once(
    url: str, node: NodeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = node("a"), node("b")
    records = [{"id": str(i), "conversations": [{"from": "human", "value": f"{i}?"}, {"from": "gpt", "value": "!"}]}
               for i in range(3)]  # fmt: skip
    a.objects.write("mine.json", json.dumps(records).encode())
    place = f"{url}/mine.json"

    def opened(shared: SharedRuns) -> str:
        return open_dataset(find_source(place), place, url, shared.root / "data" / "index").digest

    first = opened(a)
    with monkeypatch.context() as patch:
        patch.setattr("remora.data.index_builder._build", lambda *args: pytest.fail("it is built again"))
        assert opened(b) == first
    a.objects.write("mine.json", json.dumps(records[:2]).encode())
    assert opened(b) != first and opened(a) == opened(b)
