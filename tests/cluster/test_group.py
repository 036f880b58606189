"""Which actors a group of workers brings with it; real Ray Train."""

from __future__ import annotations

import pytest
import ray

from remora.cluster.session import OWN, ray_session

pytestmark = pytest.mark.e2e


def test_only_a_cluster_that_may_grow_is_asked_to(tmp_path, monkeypatch):
    with ray_session(dashboard=False):
        assert fit(tmp_path / "own") == set()
        monkeypatch.delenv(OWN)
        assert fit(tmp_path / "joined") == {"AutoscalingCoordinator"}


def fit(folder):
    """Run one worker that does nothing; the named actors that are there afterwards."""
    from ray.train import RunConfig, ScalingConfig

    from remora.cluster.group import Group, Trainer

    Trainer(
        lambda: None,
        backend_config=Group(on_gpus=False, timeout_s=60),
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name="it", storage_path=str(folder)),
    ).fit()
    return {a["name"] for a in ray.util.list_named_actors(all_namespaces=True)}
