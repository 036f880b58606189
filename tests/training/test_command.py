"""A stage without Ray, as users start it: `python -m remora.training`, and the same under torchrun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from remora.data.index import Dataset
from remora.model.refs import PartRef
from remora.training.__main__ import _job
from remora.training.journal import JOURNAL, steps_of
from support.exact_stages import mixed_job

pytestmark = pytest.mark.slow
MODULE = ("-m", "remora.training")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
WRITES = "`remora train` writes one into the folder of each stage run that it trains"


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return mixed_job(tmp_path_factory.mktemp("command"), batch=4, steps=3, max_length=120, lr=1e-3)


def python(*args):
    said = subprocess.run(
        [sys.executable, "-W", "ignore", *args],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    return said.returncode, said.stdout, said.stderr


def written(job, folder, **cluster):
    job = replace(job, folder=folder, cluster=job.cluster.model_copy(update=cluster))
    folder.mkdir(exist_ok=True)
    (folder / "job.json").write_text(job.to_json())
    return str(folder / "job.json")


def losses(folder):
    return [e["loss"] for e in steps_of(folder / JOURNAL)]


def test_one_process_and_torchrun_train_the_same_stage(job, tmp_path):
    rc, out, err = python(*MODULE, written(job, tmp_path / "one", micro_batch=4))
    assert rc == 0, err
    assert out.startswith(f"3 steps, loss {losses(tmp_path / 'one')[-1]:.4f}, ")
    assert [line.split("  ")[0] for line in err.splitlines() if line.startswith("test ")] == [
        f"test {n}/3" for n in (1, 2, 3)
    ]

    rc, out, err = python(*TORCHRUN, *MODULE, written(job, tmp_path / "two", workers=2, micro_batch=2))
    assert rc == 0, err
    assert out.count("3 steps, ") == 1  # only rank 0
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """The job file of a run folder that was copied, and whose first is gone."""
    runs = tmp_path_factory.mktemp("moved") / "runs"
    made = mixed_job(runs / "data", batch=4, steps=3, max_length=120, lr=1e-3)
    work = runs / "stages" / "test-0123.work"
    work.mkdir(parents=True)
    made = replace(made, folder=work, parts=made.parts | {"vision": PartRef("efficientnet-lite0", None, (runs / "a",))})
    (work / "job.json").write_text(made.to_json(runs))
    (runs / "stages" / "test-0123").mkdir()
    shutil.copy(work / "job.json", runs / "stages" / "test-0123")  # as it is published
    shutil.copytree(runs, runs.with_name("now"))
    shutil.rmtree(runs)
    return runs.with_name("now") / "stages" / "test-0123" / "job.json"


def test_a_job_file_means_the_run_folder_that_it_lies_in(moved, monkeypatch):
    runs = moved.parents[2]
    monkeypatch.chdir(moved.parent)
    for file in (moved, Path("job.json"), Path("../test-0123.work/job.json")):
        job = _job(file)
        assert job.folder == runs / "stages" / "test-0123.work"
        assert job.parts["llm"].folder == runs / "data" / "llm" and job.parts["vision"].adapters == (runs / "a",)
        (dataset,) = map(Dataset, job.datasets)
        assert dataset.folder.is_relative_to(runs)
        pictures = [picture for sample in dataset for picture in sample.images]
        assert pictures and all(picture.open() for picture in pictures)


def test_a_moved_run_folder_trains_its_own_stage(moved, job, tmp_path):
    moved.write_text(moved.read_text().replace('"adapters": ["a"]', '"adapters": []'))
    rc, _, err = python(*MODULE, str(moved))
    assert rc == 0, err
    rc, _, err = python(*MODULE, written(job, tmp_path / "first"))
    assert losses(moved.parents[1] / "test-0123.work") == losses(tmp_path / "first")


def test_what_its_user_can_get_wrong_is_one_line(job, tmp_path):
    absent = tmp_path / "absent" / "job.json"
    assert python(*MODULE, str(absent)) == (1, "", f"remora: {absent}: No such file or directory; {WRITES}\n")
    other = tmp_path / "other.json"
    other.write_text('{"stage": {}}')
    assert python(*MODULE, str(other)) == (1, "", f"remora: {other} is not a job.json of this version; {WRITES}\n")
    untrained = replace(job, parts=job.parts | {"llm": PartRef("demo-2m", tmp_path / "language" / "parts" / "llm")})
    rc, out, err = python(*MODULE, written(untrained, tmp_path / "untrained"))
    assert (rc, out) == (1, "")
    assert (
        err.startswith(f"remora: llm demo-2m: {tmp_path}/language/parts/llm does not exist; ") and err.count("\n") == 1
    )
