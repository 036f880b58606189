"""Ray Data's tasks build the same index as one process, and their errors reach the user."""

from __future__ import annotations

import pytest

from remora.data.index_builder import open_dataset
from remora.data.sources import find_source, llava
from remora.errors import DataError, WorkerError
from support.tiny import write_records

pytestmark = pytest.mark.ray


def test_a_cluster_builds_the_index_that_one_process_builds(tmp_path, monkeypatch):
    monkeypatch.setattr(llava, "SHARD", 1_500)
    file = write_records(tmp_path, count=60)
    (tmp_path / "images" / "7.png").unlink()
    source, images = find_source(str(file)), str(tmp_path / "images")
    assert sum(1 for _ in source.shards()) > 4
    alone = open_dataset(source, str(file), images, tmp_path / "alone", spread=map)

    from remora.cluster.ray_data import over_ray
    from remora.cluster.session import ray_session

    def on_ray(work, shards):
        return over_ray(work, shards, tmp_path / "logs")

    with ray_session(None, dashboard=False):
        together = open_dataset(source, str(file), images, tmp_path / "ray", spread=on_ray)
        assert together.digest == alone.digest and list(together.flaws()) == list(alone.flaws())
        assert together[59] == alone[59] and together.counts == {"missing-image": 1}

        file.write_bytes(file.read_bytes()[:-40])  # the scan refuses it before any task starts
        with pytest.raises(DataError, match=r"unreadable dataset file: .*: record 59, byte"):
            open_dataset(source, str(file), images, tmp_path / "ray", spread=on_ray)

        def refuse(shard):
            raise DataError("a line for people")

        with pytest.raises(DataError, match=r"^a line for people$"):
            list(on_ray(refuse, list(find_source(str(write_records(tmp_path, "b.json"))).shards())))

        def fail(shard):
            raise KeyError("nobody foresaw this")

        with pytest.raises(WorkerError, match=r"^unexpected KeyError: .*; this is a fault of Remora \(trace: .*\)$"):
            list(on_ray(fail, list(find_source(str(tmp_path / "b.json")).shards())))
        assert "in fail" in next((tmp_path / "logs").iterdir()).read_text()
