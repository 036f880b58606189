"""The store: leases end with their holders, torn artifacts are set aside, parts come from the run that trained them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from remora import files
from remora.errors import StoreError, TrainingError
from remora.files import digest
from remora.runs import StageRun, Store
from remora.runs import store as store_module
from remora.spec import Cluster, Stage, Tuning, Validation
from remora.training import journal, pausing
from remora.training.journal import JOURNAL

STAGE = Stage(name="one", mixture=["demo-captions"], lr=1e-3, steps=1)


def a_run(name: str = "one", parent: StageRun | None = None, **tune: str) -> StageRun:
    stage = STAGE.model_copy(update={"name": name, "tune": Tuning(**(tune or {"connector": "full"}))})
    parts = (("vision", "efficientnet-lite0"), ("connector", "mlp2x_gelu"), ("llm", "demo-2m"))
    return StageRun(digest([name, parent.id if parent else None]), stage, parent, parts, 0)


def finish(store: Store, run: StageRun, **files: str) -> Path:
    work = store.work(run)
    (work / "parts").mkdir(parents=True)
    for name, text in {"connector": "weights", **files}.items():
        (work / "parts" / name).mkdir()
        (work / "parts" / name / "model.safetensors").write_text(text)
    (work / JOURNAL).write_text("{}\n")
    (work / "job.json").write_text("{}")
    return store.publish(run.name, {"mlflow_run": "1"})


def test_a_published_run_is_finished_and_its_work_is_gone(tmp_path: Path) -> None:
    store, run = Store(tmp_path), a_run()
    assert not store.finished(run)
    finish(store, run)
    assert store.finished(run)
    assert store.record(run) == {"mlflow_run": "1"}
    assert not store.work(run).exists()


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "add"])
def test_a_torn_run_is_set_aside_by_name(tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    store, run = Store(tmp_path), a_run()
    victim = finish(store, run) / "parts/connector/model.safetensors"
    if harm == "flip":
        victim.write_text("wEights")
    elif harm == "truncate":
        victim.write_text("weigh")
    elif harm == "remove":
        victim.unlink()
    else:
        victim.with_name("extra").write_text("?")
    assert not store.finished(run) and not list(store.root.glob("*.torn-*"))  # reading changes nothing
    with store.lease(run) as mine:
        assert mine
    assert "will be trained again" in caplog.text
    assert [p.name.split(".")[0] for p in store.root.glob("*.torn-*")] == [run.name]


def test_a_published_run_is_read_once_however_often_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, run = Store(tmp_path), a_run()
    folder = finish(store, run)
    read: list[Path] = []
    real = files.sha256_file
    monkeypatch.setattr(files, "sha256_file", lambda path: (read.append(path), real(path))[1])
    assert all(store.finished(run) for _ in range(3)) and len(read) == len(set(read)) > 1
    (folder / "record.json").write_text("{} ")
    assert not store.finished(run) and read[-1].name == "record.json"


FINDS = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_store import a_run, finish
from remora.errors import TornArtifact
from remora.runs import Store, store as module
runs, real = Path(sys.argv[2]), module.verify

def verify(folder, **how):
    try:
        real(folder, **how)
    except TornArtifact:  # nobody goes on before both have seen it
        (runs / f"looked-{os.getpid()}").touch()
        while len(list(runs.glob("looked-*"))) < 2:
            time.sleep(0.01)
        raise

module.verify = verify
store, run = Store(runs), a_run()
mine = False
if not store.finished(run):
    with store.lease(run) as mine:
        if mine:
            finish(store, run)
print("trained" if mine else "read", flush=True)
"""


def test_two_processes_that_find_the_same_torn_run_train_it_once(tmp_path: Path) -> None:
    """Both renamed it, without the lease: one died of FileNotFoundError, or of a folder that was not empty."""
    store, run = Store(tmp_path), a_run()
    (finish(store, run) / "parts/connector/model.safetensors").write_text("wEights")
    command = [sys.executable, "-c", FINDS, str(Path(__file__).parent), str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(each.communicate()[0].strip() for each in both)
    assert said == ["read", "trained"] and [each.returncode for each in both] == [0, 0]
    assert store.finished(run) and len(list(store.root.glob("*.torn-*"))) == 1


@pytest.mark.parametrize("when", ["before", "between"])
def test_who_was_overtaken_publishes_nothing(tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was thought dead wakes at its last step, or while it copies its weights."""
    store, run = Store(tmp_path), a_run()
    file = store.work(run) / JOURNAL
    (store.work(run) / "parts" / "connector").mkdir(parents=True)
    (store.work(run) / "parts" / "connector" / "model.safetensors").write_text("weights")
    (store.work(run) / "job.json").write_text("{}")
    mine = journal.take_over(file, 0)
    if when == "before":
        journal.take_over(file, 0)
    else:
        real = store_module.copy
        monkeypatch.setattr(store_module, "copy", lambda a, b: (real(a, b), journal.take_over(file, 0)))
    with pytest.raises(TrainingError, match="another attempt at this stage has taken over"):
        store.publish(run.name, {}, mine)
    assert not store.folder(run).exists() and store.work(run).exists()
    assert not list(store.root.glob(f".{run.name}.*"))
    monkeypatch.undo()
    store.publish(run.name, {}, journal.attempt(file))
    assert store.finished(run)


def test_a_lease_ends_with_kill_9_of_its_holder(tmp_path: Path) -> None:
    store, run = Store(tmp_path), a_run()
    store.root.mkdir(parents=True)
    script = (
        "import fcntl, sys, time\n"
        "f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(600)"
    )
    lease = store.root / f"{run.name}.lease"
    holder = subprocess.Popen([sys.executable, "-c", script, str(lease)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    waiting, got = threading.Event(), threading.Event()

    def wait() -> None:
        with store.lease(run, lambda holder: waiting.set()) as held:
            assert held
            got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(60)
    assert not got.is_set()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    thread.join(60)
    assert got.is_set()


def test_parts_come_from_the_last_run_that_trained_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    language = a_run("language", connector="frozen", llm="full")
    align = a_run("align", language)
    tune = a_run("finetune", align, connector="full", llm="full")
    after = store.parts(tune.lineage)
    assert after["vision"].folder is None
    assert after["connector"].folder == store.folder(tune) / "parts/connector"
    before = store.parts(align.lineage)
    assert before["llm"].folder == store.folder(language) / "parts/llm"
    with pytest.raises(StoreError, match="no stage of the recipe trains it"):
        store.parts((a_run("align"),))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_run_folder_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="no permission to write there; free or choose another"):
        Store(tmp_path).check_writable()


def test_a_run_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another with --runs"):
        Store(tmp_path / "file" / "runs").check_writable()


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    from remora.files import disk_errors

    with pytest.raises(StoreError, match="the disk is full"), disk_errors(tmp_path), full.open("w") as f:
        f.write("x")


def test_preparing_again_keeps_the_start(tmp_path: Path) -> None:
    from remora.data.mixture import read_mixture
    from remora.demo import build_demo
    from remora.training.build import make_start

    store = Store(tmp_path)
    build_demo(store.data / "demo", limit=3)
    stage = STAGE.model_copy(
        update={"mixture": Stage(**{**STAGE.model_dump(), "mixture": ["demo-language"]}).mixture, "template": "brief",
                "tune": Tuning(vision="absent", connector="absent", llm="full")}
    )  # fmt: skip
    datasets = tuple(d.folder for d in read_mixture(stage.mixture, store.data))
    run = StageRun("f" * 64, stage, None, (("llm", "demo-2m"),), 0, datasets)
    job = store.prepare(run, Cluster())
    make_start(job)
    start = (job.parts["llm"].folder / "model.safetensors").stat().st_mtime_ns
    make_start(store.prepare(run, Cluster()))
    assert store.prepare(run, Cluster()).parts == job.parts
    assert (job.parts["llm"].folder / "model.safetensors").stat().st_mtime_ns == start


def test_a_wish_to_stop_is_for_a_run_that_trains_and_is_taken_back_by_who_wants_it_again(tmp_path: Path) -> None:
    store, run = Store(tmp_path), a_run()
    assert not store.stop(run)  # nobody trains it
    store.prepare(run, Cluster())
    assert store.stop(run) and pausing.is_asked(store.work(run))
    store.prepare(run, Cluster())
    assert not pausing.is_asked(store.work(run))
    shutil.rmtree(store.work(run))
    finish(store, run)
    assert not store.stop(run)


def test_validations_are_those_that_the_stage_asks_for_the_latest_of_each_step(tmp_path, monkeypatch) -> None:
    stage = STAGE.model_copy(update={"validation": Validation(share=0.5)})
    store, run = Store(tmp_path), replace(a_run(), stage=stage)
    monkeypatch.setattr(store_module, "held_out_digest", lambda *_: "ours")
    finish(store, run)
    assert store.lacks_validation(run) and not store.lacks_validation(a_run())
    said = [(0, 0.5, 3.0, "ours"), (0, 0.5, 2.0, "theirs"), (1, 1.0, 1.0, "theirs")]
    for step, share, loss, of in said:
        fields = {"step": step, "share": share, "loss": loss, "of": of, "samples_seen": 8 * step}
        journal.append(store.folder(run) / JOURNAL, "validation", **fields)
    assert [(v.step, v.loss) for v in store.validations(run)] == [(0, 3.0)] and store.lacks_validation(run)
    for loss in (2.5, 2.25):
        fields = {"step": 1, "share": 1.0, "loss": loss, "of": "ours", "samples_seen": 16, "score": 0.5}
        journal.append(store.validated_later(run.name), "validation", **fields)
    assert [(v.step, v.samples, v.share, v.loss, v.score) for v in store.validations(run)] == [
        (0, 0, 0.5, 3.0, None),
        (1, 16, 1.0, 2.25, 0.5),
    ]
    assert not store.lacks_validation(run)
