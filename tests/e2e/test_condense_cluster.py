"""Condensing with real processes: embeddings by Ray Data's workers, a worker's error, a run that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from support.dual_encoders import write_encoder, write_pictures
from support.waiting import until

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures, ten of them near-copies, one missing; two workers."""
    folder = tmp_path_factory.mktemp("condense")
    write_encoder(folder / "clip")
    write_pictures(folder, 40, {i: i - 20 for i in range(30, 40)})
    (folder / "images" / "3.png").unlink()
    return write_spec(folder, "condense.yaml", part=6)


def write_spec(folder: Path, name: str, **encoder: object) -> Path:
    facts = {
        "name": "tiny",
        "source": {"path": str(folder / "train.json"), "images": str(folder / "images")},
        "encoder": {"model": str(folder / "clip"), "batch": 4, **encoder},
        "clusters": {"count": 4},
        "duplicate": 0.993,
        "text_rank": [0.2, 0.8],
        "centroid_rank": [0.1, 0.7],
        "workers": {"count": 2},
    }
    (folder / name).write_text(yaml.safe_dump(facts))
    return folder / name


def command(spec: Path, out: str, *more: str) -> list[str]:
    where = ["--runs", str(spec.parent / "runs"), "--out", str(spec.parent / out)]
    return [sys.executable, "-m", "remora", "data", "condense", str(spec), *where, *more]


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "REMORA_"))}
    return {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1"}


def said(spec: Path, out: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(spec, out, *more), capture_output=True, text=True, env=environment(spec.parent))


def test_ray_workers_embed_what_one_process_does(spec):
    alone = said(spec, "alone")  # builds the index, so that Ray starts once
    assert alone.returncode == 0, alone.stderr
    by_ray = said(spec, "ray", "--address", "local")
    assert by_ray.returncode == 0, by_ray.stderr
    assert "7 of 7 parts to make" in by_ray.stdout and "embeddings: 40 of 40" in by_ray.stdout
    assert "left out: 1 missing-image" in by_ray.stdout
    again = said(spec, "ray")
    assert "0 of 7 parts to make" in again.stdout and again.stdout.count("(was there)") == 4
    for kind in ("images", "texts"):
        ours, theirs = (sorted((spec.parent / out / "steps").glob(f"*/part-*/{kind}.npy")) for out in ("ray", "alone"))
        assert len(ours) == len(theirs) == 7
        for one, other in zip(ours, theirs, strict=True):
            assert np.allclose(np.load(one), np.load(other), atol=1e-6)
    rows = [np.load(spec.parent / out / "dataset" / "rows.npy").tolist() for out in ("ray", "alone")]
    assert rows[0] == rows[1] and rows[0]


@pytest.mark.faults
def test_a_workers_error_is_told_in_one_line(spec):
    weights = spec.parent / "clip" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:2000])
    try:
        broken = said(spec, "broken", "--address", "local")
    finally:
        weights.write_bytes(whole)
    assert broken.returncode == 1
    assert broken.stderr.splitlines()[-1].startswith(f"remora: {spec.parent / 'clip'}: unreadable encoder")
    assert "Traceback" not in broken.stderr


def test_a_killed_run_goes_on_where_it_was(spec):
    small = write_spec(spec.parent, "small.yaml", part=1)
    first = subprocess.Popen(
        command(small, "killed"), env=environment(spec.parent), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    steps = spec.parent / "killed" / "steps"

    def parts() -> dict[str, int]:
        return {p.parent.name: p.stat().st_mtime_ns for p in steps.glob("*/part-*/images.npy")}

    until("three parts", lambda: len(parts()) >= 3 or first.poll() is not None, 0.005)
    first.kill()
    first.wait()
    before = parts()
    assert 3 <= len(before) < 40
    second = said(small, "killed")
    assert second.returncode == 0, second.stderr
    assert f"{40 - len(before)} of 40 parts to make" in second.stdout
    after = parts()
    assert len(after) == 40 and {name: after[name] for name in before} == before
