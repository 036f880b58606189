"""A Ray Data worker's handling of a batch, without Ray: publish the part, or return a user's error as a row."""

from __future__ import annotations

import numpy as np

from remora.carrier import unpack
from remora.cluster.ray_data import _Worker
from remora.condense.embedding import EmbeddingJob
from remora.data.mixture import open_whole
from remora.errors import DataError
from remora.spec import MixtureEntry
from remora.spec.condensation import Encoder
from support.dual_encoders import write_encoder, write_pictures


def test_a_part_is_published_and_an_error_is_a_row(tmp_path):
    write_encoder(tmp_path / "clip")
    entry = MixtureEntry(path=str(write_pictures(tmp_path, 5, {})), images=str(tmp_path / "images"))
    index = open_whole(entry, tmp_path).folder
    job = EmbeddingJob(index, Encoder(model=str(tmp_path / "clip"), part=3), tmp_path / "out", 5)
    worker = _Worker(job, 1, tmp_path / "logs")
    assert [int(worker({"start": np.array([start])})["rows"][0]) for start in (0, 3)] == [3, 2]
    assert job.missing() == []
    (tmp_path / "clip" / "tokenizer.json").write_text("{")
    row = _Worker(job, 1, tmp_path / "logs")({"start": np.array([0])})
    error = unpack(row["error"][0])
    assert isinstance(error, DataError) and "unreadable encoder" in str(error) and not row["rows"][0]
