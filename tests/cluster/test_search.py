"""How many of a search's orders are performed at a time, and what a slot says of one that fails; no Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from remora.carrier import unpack
from remora.cluster import search
from remora.errors import DataError, WorkerError
from remora.pipeline.search.perform import Order
from remora.spec import Cluster, Space, Variant, load

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


@pytest.mark.parametrize(
    ("met", "said", "tries"),
    [
        (DataError("a broken picture"), DataError("a broken picture"), 1),  # trying again would meet it again
        (WorkerError("a worker died"), WorkerError("a worker died"), 3),
        (ZeroDivisionError("of ours"), WorkerError("unexpected ZeroDivisionError: of ours"), 3),
    ],
)
def test_what_stops_an_order_is_a_result_and_not_a_dead_process(
    met: Exception, said: Exception, tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def fails(*given: object) -> None:
        tried.append(given)
        raise met

    monkeypatch.setattr(search, "perform", fails)
    parts = {"vision": "clip-l-336", "connector": "linear", "llm": "phi-2", "recipe": "base"}
    variant = Variant.model_validate(parts | {"cluster": {"max_failures": 2}})
    found = search._performed(Order(1, "train", "s", "key", variant, "run"), tmp_path)
    error = unpack(str(found["error"]))
    assert type(error) is type(said) and str(error).startswith(str(said)) and len(tried) == tries
