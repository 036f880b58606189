"""What killed processes left at a URL goes once it is old, and nothing else; what is published there is verified."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from remora.cli import main
from remora.files import publishing
from remora.pipeline.upkeep.deleting import collect_at_url
from remora.pipeline.upkeep.verifying import verified_at_url
from remora.sharing import SharedRuns, leftovers
from remora.sharing.leftovers import SharedListing
from remora.sharing.objects import Objects
from sharing.conftest import NodeMaker

KEY = "stages/one"
KILLED = "0123456789abcdef" * 2


@pytest.fixture
def shared(node: NodeMaker) -> SharedRuns:
    """With a publication, and an upload of it that was killed."""
    found = node("a")
    with publishing(found.root / KEY) as tmp:
        (tmp / "parts").mkdir()
        (tmp / "parts" / "model").write_text("weights")
    found.send(found.root / KEY)
    found.objects.create(f"{KEY}/{KILLED}/parts/model", b"weig")
    return found


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> dict[str, float | None]:
    """Everything is, except what has an age here, by the beginning of its key."""
    young: dict[str, float | None] = {}

    def age(self: Objects, key: str) -> float | None:
        return next((found for begin, found in young.items() if key.startswith(begin)), 1e6)

    monkeypatch.setattr(Objects, "age", age)
    return young


def keys(shared: SharedRuns) -> list[str]:
    return [found.key for found in SharedListing(shared).leftovers()]


def test_an_age_is_that_of_the_object(shared: SharedRuns) -> None:
    began = time.time()
    shared.objects.write("x", b"x")
    age = shared.objects.age("x")
    assert age is not None and -2 <= age <= time.time() - began + 2  # a store's times are whole seconds
    assert shared.objects.age("nothing") is None and not keys(shared)


def test_an_upload_that_was_killed_goes_after_a_day_and_what_is_published_stays(
    shared: SharedRuns, old: dict[str, float | None], node: NodeMaker
) -> None:
    before = shared.objects.sizes()
    (dry,) = collect_at_url(shared, really=False)
    assert (dry.path, dry.frees) == (f"{shared.url}/{KEY}/{KILLED}", 4) and shared.objects.sizes() == before
    for name, age in (("parts", leftovers.AGE - 1), ("parts", None)):  # it may go on, or the store does not say
        old[f"{KEY}/{KILLED}/{name}"] = age
        assert not keys(shared)
    old.clear()
    with shared.leases.hold(KEY):
        old[f"{KEY}.lease/"] = 3.0  # its holder shows signs of life
        assert not keys(shared)
    old.clear()
    assert len(list(collect_at_url(shared, really=True))) == 1 and not keys(shared)
    assert set(before) - set(shared.objects.sizes()) == {f"{KEY}/{KILLED}/parts/model"}
    other = node("b")
    assert other.bring(other.root / KEY) and (other.root / KEY / "parts/model").read_text() == "weights"


def test_checkpoints_go_once_their_stage_run_is_published(shared: SharedRuns, old: dict[str, float | None]) -> None:
    folder = shared.root / KEY
    unfinished = shared.root / "stages" / "two.work"
    for work in (folder.with_name("one.work"), unfinished):
        for number in (10, 20):
            assert shared.send(work, number, of=folder)
    shared.objects.create(f"stages/two.work/{KILLED}/x", b"")
    shared.objects.create(".probe-1", b"")
    found = {f.key: f.why for f in SharedListing(shared).leftovers()}
    assert found.keys() == {".probe-1", "stages/one.work", f"{KEY}/{KILLED}", f"stages/two.work/{KILLED}"}
    assert found["stages/one.work"] == "its run is published"
    list(collect_at_url(shared, really=True))
    assert not shared.names("stages/one.work") and shared.numbers("stages/two.work") == [10, 20]
    assert not keys(shared) and not [v for v in verified_at_url(shared) if v.problems]


def test_nothing_goes_of_a_key_whose_manifest_cannot_be_read(shared: SharedRuns, old: dict[str, float | None]) -> None:
    shared.objects.write(f"{KEY}/manifest-00000002.json", b"{")
    assert not keys(shared)
    (found,) = verified_at_url(shared)
    assert len(found.problems) == 1 and "manifest-00000002.json: unreadable; delete s3://" in found.problems[0]


@pytest.mark.parametrize(("harm", "said"), [("cut", "has 3 bytes, its manifest says 7"), ("gone", "is missing")])
def test_a_publication_that_lacks_something_is_named(shared: SharedRuns, harm: str, said: str) -> None:
    (found,) = verified_at_url(shared)
    assert found.what == f"{KEY} at the URL" and not found.problems
    version = shared.newest(KEY)
    assert version
    file = f"{KEY}/{version.attempt}/parts/model"
    if harm == "cut":
        shared.objects.write(file, b"wei")
    else:
        shared.objects.remove(file)
    (found,) = verified_at_url(shared)
    assert found.problems == (
        f"{shared.url}/{KEY}: parts/model {said}; delete {shared.url}/{KEY}, it will be made again",
    )


def test_the_command_names_it_before_it_goes(
    shared: SharedRuns, old: dict[str, float | None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def runs(*given: str) -> str:
        main(["runs", *given, "--runs", shared.url, "--tracking-uri", f"sqlite:///{tmp_path}/none.db"])
        return capsys.readouterr().out

    killed = f"{shared.url}/{KEY}/{KILLED}"
    said = runs("gc", "--leftovers")
    assert f"would delete {killed}: an upload that was killed: no manifest names it, " in said
    assert said.splitlines()[-1].endswith("--yes")
    assert killed in [each["path"] for each in json.loads(runs("gc", "--json"))["things"]]
    assert f"deleted {killed}" in runs("gc", "--yes")
    assert f"{KEY} at the URL" in [each["what"] for each in json.loads(runs("verify", "--json"))]
    assert "nothing to delete" in runs("gc")
