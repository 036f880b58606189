"""How many of a search's orders are performed at a time; no Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from remora.cluster import search
from remora.spec import Cluster, Space, load

SPACE = Path(__file__).parents[1] / "e2e" / "tiny.yaml"


@pytest.mark.parametrize(
    ("cluster", "have", "trials"),
    [
        ({"workers": 2}, (8, 0), 4),
        ({"workers": 2, "cpus_per_worker": 3}, (8, 0), 1),
        ({"workers": [1, 4]}, (8, 0), 8),
        ({"workers": 2, "gpus_per_worker": 1}, (64, 5), 2),
        ({"gpus_per_worker": 0.1}, (64, 1), 10),
        ({"gpus_per_worker": 0.5}, (64, 3), 6),
        ({"workers": 4}, (1, 0), 1),  # and the session has said that it does not fit
    ],
)
def test_as_many_trials_as_there_is_room_for(cluster: dict, have: tuple, trials: int, monkeypatch) -> None:
    monkeypatch.setattr(search, "cpus_and_gpus", lambda: have)
    space = load(Space, SPACE).model_copy(update={"cluster": Cluster.model_validate(cluster)})
    assert search._concurrent(space) == trials
