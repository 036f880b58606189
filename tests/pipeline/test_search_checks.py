"""What a search refuses, before and after; and what makes two searches one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from remora.errors import ClusterError, SpecError, StoreError
from remora.files import exclusive
from remora.pipeline.search import search
from remora.pipeline.search.search import Here, lease_of
from remora.runs import Store
from remora.spec import Budget, Cluster, Space, load

SPACE = Path(__file__).parents[1] / "e2e" / "tiny.yaml"


def driver(**states: str) -> SimpleNamespace:
    """A search that has ended, with its variants in these states, and the errors of those that failed."""
    trials = {
        name: SimpleNamespace(name=name, state="failed" if why else "finished", error=why)
        for name, why in states.items()
    }
    outcomes = {n: SimpleNamespace(name=n, scores={"gqa": 1}) for n, t in trials.items() if t.state == "finished"}
    space = SimpleNamespace(champion=SimpleNamespace(benchmark="gqa"))
    return SimpleNamespace(work=SimpleNamespace(trials=trials), outcomes=outcomes, space=space, stopped=lambda: "")


@pytest.mark.parametrize("why", ["train.json is not there", "ValueError: nobody foresaw this"])
def test_a_variant_that_failed_is_named_with_its_reason_and_the_others_are_kept(why) -> None:
    with pytest.raises(ClusterError, match=r"1 of 2 variants failed: share: .*; what was finished is kept") as failed:
        search._check(driver(base="", share=why))
    assert why in str(failed.value) and "\n" not in str(failed.value)


def test_a_search_without_a_measured_variant_has_no_champion() -> None:
    search._check(driver(base=""))
    with pytest.raises(ClusterError, match="no variant was trained to its end"):
        search._check(driver())


def test_a_champion_that_is_not_measured_is_refused_before_anything_starts(tmp_path) -> None:
    space = load(Space, SPACE).model_copy(update={"benchmarks": ("pope", "gqa")})
    with pytest.raises(SpecError, match="'easy-vqa-val' is not measured; benchmarks are: pope, gqa"):
        search.check(space, Store(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_money_without_prices_is_refused(tmp_path) -> None:
    space = load(Space, SPACE).model_copy(update={"budget": Budget(cost=10)})
    with pytest.raises(SpecError, match=r"budget\.cost counts GPU-hours .* cluster\.gpu_price is not set"):
        search.check(space, Store(tmp_path))
    priced = space.cluster.model_copy(update={"gpu_price": 2.5})
    with pytest.raises(SpecError, match=r"cluster\.gpus_per_worker is 0"):
        search.check(space.model_copy(update={"cluster": priced}), Store(tmp_path))
    whole = priced.model_copy(update={"gpus_per_worker": 1})
    search.check(space.model_copy(update={"cluster": whole}), Store(tmp_path))


def test_hours_of_gpus_that_nobody_has_are_refused(tmp_path) -> None:
    space = load(Space, SPACE).model_copy(update={"budget": Budget(gpu_hours=10)})
    with pytest.raises(SpecError, match=r"budget\.gpu_hours counts nothing: cluster\.gpus_per_worker is 0"):
        search.check(space, Store(tmp_path))
    search.check(space.model_copy(update={"cluster": Cluster(gpus_per_worker=1)}), Store(tmp_path))


def test_a_search_runs_once_at_a_time(tmp_path) -> None:
    space = load(Space, SPACE)
    with exclusive(lease_of(tmp_path, space.name)), pytest.raises(StoreError, match="search tiny runs already"):
        search.search(space, tmp_path, None, Here(None))  # type: ignore[arg-type]


def test_a_search_is_the_same_on_any_cluster() -> None:
    space = load(Space, SPACE)
    wider = space.model_copy(update={"cluster": Cluster(workers=8), "concurrent": 3, "published": {"a": {"gqa": 1.0}}})
    other = space.model_copy(update={"benchmarks": ("easy-vqa-val",)})
    assert search.search_key(space) == search.search_key(wider) != search.search_key(other)


def test_a_full_disk_after_an_item_ends_the_search_with_its_line(monkeypatch) -> None:
    """The item was done: it is not to be counted as failed besides."""
    heard, closed = [], []

    def done(number, performed) -> None:
        raise StoreError("the disk is full")

    def failed(*said) -> None:
        heard.append(said)

    order, space = SimpleNamespace(number=0), load(Space, SPACE)
    places = {"runs": Path("r"), "folder": Path("r/searches/tiny")}
    full = SimpleNamespace(over=False, next=lambda: order, done=done, failed=failed, space=space, **places)
    trainer = SimpleNamespace(close=lambda: closed.append(1))
    monkeypatch.setattr(search, "perform", lambda order, runs, trainer: "performed")
    with pytest.raises(StoreError, match="the disk is full"):
        Here(lambda cluster, runs: trainer).work(full)
    assert not heard and closed
