"""The cluster block: a number of workers, or a range."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from remora.spec import Cluster, Variant


@pytest.mark.parametrize(
    ("said", "least", "most", "elastic"), [(2, 2, 2, False), ([1, 2], 1, 2, True), ((3, 3), 3, 3, False)]
)
def test_workers_are_a_number_or_a_range(said, least, most, elastic):
    cluster = Cluster(workers=said)
    assert (cluster.least_workers, cluster.most_workers, cluster.elastic) == (least, most, elastic)
    assert Cluster.model_validate(cluster.model_dump(mode="json")) == cluster


@pytest.mark.parametrize("said", [0, [2, 1], [0, 2], [1], [1, 2, 3], "2", True, 1.5])
def test_other_workers_are_refused_in_one_line(said):
    with pytest.raises(ValidationError) as e:
        Cluster(workers=said)
    (error,) = e.value.errors()
    assert "neither a number of workers (1 or more) nor [min, max]" in error["msg"]


def test_a_share_of_a_gpu_is_for_one_worker():
    assert Cluster(gpus_per_worker=0.25).groups(cpus=64, gpus=1) == 4
    assert Cluster(workers=2, gpus_per_worker=1).groups(cpus=64, gpus=5) == 2
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Cluster(gpus_per_worker=2)
    parts = {"vision": "clip-l-336", "connector": "mlp2x_gelu", "llm": "phi-2", "recipe": "base"}
    for workers in (2, [1, 2]):
        shared = Cluster(workers=workers, gpus_per_worker=0.5)  # two workers that answer questions may share one
        with pytest.raises(ValidationError, match=r"gpus_per_worker: 0\.5 is for one worker, and there are 2"):
            Variant(**parts, cluster=shared)
