"""Whatever a crash or a bad disk makes of the run folder: its files are read, left out with a count, or refused."""

from __future__ import annotations

import json
import random
import shutil

import pytest
from cases import cases

from remora import files
from remora.errors import RemoraError
from remora.files import lines
from remora.reporting.progress import SearchProgress
from remora.runs import StageRun, Store
from remora.spec import Stage, Tuning
from remora.training import checkpoint, journal

WORDS = ["event", "step", "loss", "time", "é\u2028", '{"event"', "\0", "\n", "", "checkpoint"]


def record(r):
    kind = r.choice([*journal.NEEDS, "dropped", "trained"])
    step = r.randrange(50)
    needed = {"run": "r", "stage": "s", "state": "training", "benchmark": "b", "done": 1, "of": 2, "accuracy": 0.5}
    return {"event": kind, "time": r.random() * 1e9, "step": step, "attempt": r.randrange(3), "to": step, "loss": 0.5,
            "text": r.choice(WORDS), "error": "", "lr": {"llm": {"deep": r.choice(WORDS)}}, **needed}  # fmt: skip


def harmed(r, data):
    """The bytes after one to four accidents."""
    for _ in range(r.randrange(1, 5)):
        at, end = sorted((r.randrange(len(data) + 1), r.randrange(len(data) + 1)))
        match r.randrange(7):
            case 0:
                data = data[:at]  # cut
            case 1:
                data = data[:at] + data[end:]  # a hole
            case 2:
                data = data[:at] + bytes(end - at) + data[end:]  # zeros
            case 3 if data:
                i = r.randrange(len(data))
                data = data[:i] + bytes([data[i] ^ 1 << r.randrange(8)]) + data[i + 1 :]  # a flipped bit
            case 4:
                data = data[:at] + data[at:end] + data[at:]  # written twice
            case 5:
                data = data[:at] + r.randbytes(r.randrange(40)) + data[at:]
            case 6:
                data = data.replace(b"\n", b"", 1)  # joined
    return data


def test_a_journal_is_read_whatever_was_done_to_it(tmp_path):
    path = tmp_path / journal.JOURNAL
    (tmp_path / "status" / "search").mkdir(parents=True)
    for seed in range(cases(2500)):
        r = random.Random(seed)
        whole = [record(r) for _ in range(r.randrange(12))]
        data = harmed(r, b"".join(json.dumps(e).encode() + b"\n" for e in whole))
        path.write_bytes(data)
        found = lines.read(path, journal.FIRST, journal.whole)
        # Nothing is dropped in silence: a line that was written is read, or a torn one is counted, or it is open.
        ended = [line for line in data.split(b"\n")[:-1] if line.strip()]
        assert len(found.records) + found.torn >= len(ended), (seed, data)
        lines.append(path, [{"event": "after", "time": 0.0}])
        again = lines.read(path, journal.FIRST, journal.whole)
        assert again.records[: len(found.records)] == found.records, seed
        assert again.records[-1] == {"event": "after", "time": 0.0}, seed
        number = journal.take_over(path, 20)
        assert journal.attempt(path) == number, seed
        assert not lines.read(path, journal.FIRST, journal.whole).torn, seed
        shutil.copy(path, tmp_path / "status" / "search" / "v.jsonl")
        SearchProgress(tmp_path, "search", ["v"], 0.0).read()


@pytest.mark.parametrize("what", ["manifest.json", "state.json"])
def test_a_checkpoint_is_read_or_refused(tmp_path, what):
    root = tmp_path / "checkpoints"
    with files.publishing(root / "step-000001") as tmp:
        (tmp / "state.json").write_text('{"step": 1}')
    good = (root / "step-000001" / what).read_bytes()
    for seed in range(cases(800)):
        r = random.Random(seed)
        (root / "step-000001" / what).write_bytes(harmed(r, good))
        stray = root / r.choice(
            ["step-old", "step-", "step-1", "step-٣٣٣٣٣٣", "step-000002.bak", "other", ".step-000001.x"]
        )
        stray.mkdir()
        heard = []
        found = checkpoint.latest(root, heard.append)
        assert (found is not None and found.step == 1) or len(heard) == 1, seed
        stray.rmdir()


def test_a_store_is_read_or_refused_in_one_line(tmp_path):
    stage = Stage(name="one", mixture=["demo-captions"], lr=1e-3, steps=1, tune=Tuning(connector="full"))
    run = StageRun("0" * 64, stage, None, (("connector", "mlp2x_gelu"),), 0)
    store = Store(tmp_path)
    with files.publishing(store.folder(run)) as tmp:
        files.write_json(tmp / "record.json", {"mlflow_run": "1"})
    good = {name: (store.folder(run) / name).read_bytes() for name in ("manifest.json", "record.json")}
    for seed in range(cases(400)):
        r = random.Random(seed)
        store.folder(run).mkdir(exist_ok=True)
        for name, data in good.items():
            (store.folder(run) / name).write_bytes(harmed(r, data) if r.random() < 0.7 else data)
        (store.root / f"{run.name}.lease").write_bytes(r.randbytes(r.randrange(60)))
        work = store.work(run)
        if r.random() < 0.5:
            work.mkdir(exist_ok=True)
        for name in (f".{run.name}.{r.randrange(16**8):08x}", f".{run.name}.old-{r.randrange(16**8):08x}", ".é"):
            if r.random() < 0.3:
                (store.root / name).mkdir(exist_ok=True)
        there = store.finished(run)
        with store.lease(run) as mine:
            assert mine == (not there), seed
        if there:
            assert not work.exists(), seed  # it is of no more use
            try:
                store.record(run)
            except RemoraError as e:
                assert "\n" not in str(e)
        assert not list(store.root.glob(f".{run.name}.*")), seed
        for aside in store.root.glob("*.torn-*"):
            shutil.rmtree(aside)
