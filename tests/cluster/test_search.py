"""What Tune said of a search's trials, and how many go on at a time; no Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from remora.carrier import pack
from remora.cluster import search
from remora.errors import ClusterError, DataError, SpecError
from remora.pipeline.variant import Outcome
from remora.runs import Store
from remora.spec import Cluster, Space, load

SPACE = Path(__file__).parents[1] / "e2e" / "tiny.yaml"
NAMES = ["base", "share"]


def outcome(name: str) -> Outcome:
    return Outcome(name, Path("/b"), name, {}, {}, {})


def said(error: BaseException | None = None, **metrics: Any) -> Any:
    return SimpleNamespace(error=error, metrics=metrics or None)


def test_outcomes_are_the_variants_in_order() -> None:
    outcomes = [outcome(name) for name in NAMES]
    assert search._outcomes([said(outcome=o) for o in outcomes], NAMES, Path("/logs")) == tuple(outcomes)


@pytest.mark.parametrize(
    ("trial", "why"),
    [
        (
            SimpleNamespace(error=None, metrics={"error": pack(DataError("train.json is not there"))}),
            "train.json is not there",
        ),
        (said(DataError("a picture is torn")), "a picture is torn"),
        (said(ValueError("nobody foresaw this")), "ValueError: nobody foresaw this"),
    ],
)
def test_a_variant_that_failed_is_named_with_its_reason_and_the_others_are_kept(trial: Any, why: str, tmp_path) -> None:
    with pytest.raises(ClusterError, match=r"1 of 2 variants failed: share: .*; the others are kept") as failed:
        search._outcomes([said(outcome=outcome("base")), trial], NAMES, tmp_path)
    assert why in str(failed.value) and "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("cluster", "have", "trials"),
    [
        ({"workers": 2}, (8, 0), 4),
        ({"workers": 2, "cpus_per_worker": 3}, (8, 0), 1),
        ({"workers": [1, 4]}, (8, 0), 8),
        ({"workers": 2, "gpus_per_worker": 1}, (64, 5), 2),
        ({"workers": 4}, (1, 0), 1),  # and the session has said that it does not fit
    ],
)
def test_as_many_trials_as_there_is_room_for(cluster: dict, have: tuple, trials: int, monkeypatch) -> None:
    monkeypatch.setattr(search, "cpus_and_gpus", lambda: have)
    space = load(Space, SPACE).model_copy(update={"cluster": Cluster.model_validate(cluster)})
    assert search._concurrent(space) == trials


def test_a_champion_that_is_not_measured_is_refused_before_anything_starts(tmp_path) -> None:
    space = load(Space, SPACE).model_copy(update={"benchmarks": ("pope", "gqa")})
    with pytest.raises(SpecError, match="'easy-vqa-val' is not measured; benchmarks are: pope, gqa"):
        search.check(space, Store(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_search_is_the_same_on_any_cluster() -> None:
    space = load(Space, SPACE)
    wider = space.model_copy(update={"cluster": Cluster(workers=8), "concurrent": 3})
    other = space.model_copy(update={"benchmarks": ("easy-vqa-val",)})
    assert search.search_key(space) == search.search_key(wider) != search.search_key(other)
