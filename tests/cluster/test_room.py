"""A stage's resources are compared with the cluster's before anything starts; real Ray."""

from __future__ import annotations

import os

import pytest

from remora.cluster.session import ray_session
from remora.cluster.train import _check_room
from remora.errors import ClusterError
from remora.spec import Cluster

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def two_cpus():
    with ray_session(dashboard=False):
        import ray

        yield ray.cluster_resources()["CPU"]


def test_what_fits_is_let_through(two_cpus):
    _check_room(Cluster(workers=int(two_cpus), memory_per_worker=0.1))
    _check_room(Cluster(workers=[1, 10_000]))  # starts with as many as there are


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"workers": 10_000}, r"asks for 10000 CPUs, the cluster has \d+ CPUs; lower cluster.workers"),
        ({"workers": [10_000, 10_001]}, "asks for 10000 CPUs"),
        ({"memory_per_worker": 1e6}, r"asks for 1 CPUs and 1e\+06 GiB of memory, the cluster has"),
        ({"workers": 900, "gpus_per_worker": 1}, "asks for 900 CPUs and 900 GPUs, the cluster has"),
        ({"accelerator": "H100"}, r"asks for accelerator H100, the cluster has \w+; change cluster.accelerator"),
    ],
)
def test_what_does_not_fit_is_one_line(two_cpus, asked, says):
    with pytest.raises(ClusterError, match=says) as e:
        _check_room(Cluster(**asked))
    assert "\n" not in str(e.value)


def test_a_worker_that_asked_for_no_gpu_sees_none(two_cpus):
    """On a machine with GPUs it would compute on the first one, even if that is in use."""
    import ray

    seen = ray.remote(lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
    assert ray.get(seen.options(num_gpus=0).remote()) == ""
