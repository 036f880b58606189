"""Who needs what of a run folder, by its own files: held against what was written there; and what is deleted of it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest

import remora
from remora.errors import DataError, StoreError
from remora.files import MANIFEST, exclusive, is_published, publishing
from remora.files.disk import size_of
from remora.inference.bundle import serving_lock, weights_digest
from remora.pipeline import tracked_runs
from remora.pipeline.command_records import at_work
from remora.pipeline.search.search import lease_of
from remora.pipeline.upkeep.deleting import collect, collect_leftovers, fresh, remove
from remora.pipeline.upkeep.holdings import Holding, find, holdings
from remora.pipeline.upkeep.moving import move_runs, rename_bundle
from remora.pipeline.upkeep.needs import Needs, needs
from remora.pipeline.upkeep.verifying import verified, verified_records, verified_torn_apart
from remora.runs import variant_name
from remora.serving.champion import hold
from remora.tracking.every_version import Registered
from remora.tracking.record import Claim, Run, RunModel, read_record
from support.explained_folder import ExplainedFolder, age, write_explained


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> ExplainedFolder:
    return write_explained(tmp_path_factory.mktemp("upkeep"))


@pytest.fixture
def runs(written: ExplainedFolder, tmp_path: Path) -> Path:
    """A copy of it, written long ago, with the records of its variants."""
    copied = tmp_path / "runs"
    shutil.copytree(written.runs, copied)
    for connector, variant in written.variants.items():
        tracked_runs.variant_run(variant, written.lineages[connector], copied, tracked_runs.ALONE).keep()
    age(copied)
    return copied


def version(folder: Path | None = None, **said: object) -> Registered:
    made: Registered = {
        "name": "remora", "version": "3", "aliases": ["champion"], "tags": {}, "digest": "", "key": "",
        "source": str(folder), "folder": folder,
    }  # fmt: skip
    return made | said  # type: ignore[return-value]


def users(found: Needs, name: str) -> list[str]:
    return [u.shown for u in found.of(find(name, found.runs, found.holdings))]


def names(written: ExplainedFolder, connector: str) -> list[str]:
    return [run.name for run in written.lineages[connector]]


def test_everything_is_held_and_who_needs_it_is_known(runs: Path, written: ExplainedFolder) -> None:
    found = needs(runs, ())
    kinds = [h.kind for h in found.holdings]
    # Both variants share the language model's stage run, and read two datasets.
    assert {k: kinds.count(k) for k in kinds} == {"stage run": 5, "bundle": 2, "scores": 2, "index": 2, "search": 1}
    assert not found.unneeded() and not found.at_work
    first, second = (written.bundles[c].name for c in ("mlp2x_gelu", "resampler"))
    language = users(found, names(written, "mlp2x_gelu")[0])
    children = {f"stage run {names(written, c)[1]}" for c in written.lineages}
    assert set(language) == {*children, f"bundle {first}", f"bundle {second}", "search two"}
    scores = [h for h in found.holdings if h.kind == "scores"]
    assert {u.shown for h in scores for u in found.of(h)} == {f"bundle {first}", f"bundle {second}"}
    (words,) = (h for h in found.holdings if h.kind == "index" and "words" in h.place)
    assert {u.shown for u in found.of(words)} > {f"stage run {names(written, 'resampler')[0]}"}


def test_what_a_bundle_was_made_of_goes_when_bundle_and_search_are_gone(runs: Path, written: ExplainedFolder) -> None:
    for name in ("two", written.bundles["resampler"].name):
        found = needs(runs, ())
        remove(find(name, runs, found.holdings), found, really=True)
    found = needs(runs, ())
    _, *own = names(written, "resampler")  # the first is the other's, too
    gone = {f"stages/{name}" for name in own} | {h.place for h in found.holdings if "-res-easy" in h.place}
    assert {h.place for h in found.unneeded()} == gone and len(gone) == 3
    dry = list(collect(found, really=False))
    assert len(dry) == 3 and all(g.path.exists() and g.frees for g in dry)
    assert {g.path for g in collect(found, really=True)} == {runs / place for place in gone}
    assert not any((runs / place).exists() for place in gone)
    assert all(is_published(runs / "stages" / name) for name in names(written, "mlp2x_gelu"))
    assert not list(collect_leftovers(runs, really=False)) and not needs(runs, ()).unneeded()


def test_what_is_new_stays_for_an_hour(runs: Path) -> None:
    with publishing(runs / "stages" / "finetune-0123456789ab") as tmp:
        (tmp / "weights").write_text("w")
    found = needs(runs, ())
    assert [h.name for h in fresh(found)] == ["finetune-0123456789ab"] and not list(collect(found, really=True))
    age(runs)
    assert [g.path.name for g in collect(needs(runs, ()), really=True)] == ["finetune-0123456789ab"]


@pytest.fixture
def spare(runs: Path, written: ExplainedFolder) -> Iterator[Callable[[], set[str]]]:
    """What nobody needs, once bundles and search are gone: everything, unless something else needs it."""
    for name in ("two", *(bundle.name for bundle in written.bundles.values())):
        found = needs(runs, ())
        remove(find(name, runs, found.holdings), found, really=True)
    age(runs)
    yield lambda: {h.path.name for h in needs(runs, ()).unneeded()}


def test_a_registered_version_keeps_what_it_came_from(
    runs: Path, written: ExplainedFolder, spare: Callable[[], set[str]]
) -> None:
    lineage = names(written, "resampler")
    assert set(lineage) <= spare()
    # Its files are on this machine: they say of which stage runs they are, and their scores are found by their weights.
    kept = needs(runs, [version(written.bundles["resampler"])])
    assert not {h.path.name for h in kept.unneeded()} & set(lineage)
    assert [u.shown for u in kept.of(find(lineage[-1], runs, kept.holdings))] == ["remora version 3 (champion)"]
    assert not any("-res-easy" in h.place for h in kept.unneeded())
    assert any("-mlp-easy" in h.place for h in kept.unneeded())
    # They are elsewhere: the run that it belongs to says of which.
    key = tracked_runs.variant_key(written.lineages["resampler"], tracked_runs.ALONE)
    assert not {h.path.name for h in needs(runs, [version(key=key)]).unneeded()} & set(lineage)


def test_a_version_whose_files_are_torn_keeps_the_bundle_that_it_was_made_of(
    runs: Path, written: ExplainedFolder, tmp_path: Path
) -> None:
    bundle = written.bundles["resampler"]
    shutil.copytree(bundle, tmp_path / "version")
    (tmp_path / "version" / MANIFEST).unlink()
    variant = variant_name(written.variants["resampler"])
    found = needs(runs, [version(tmp_path / "version", tags={"variant": variant})])
    assert users(found, bundle.name) == ["remora version 3 (champion)"]


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_variant_that_is_not_finished_keeps_its_stage_runs(
    runs: Path, written: ExplainedFolder, spare: Callable[[], set[str]], status: str
) -> None:
    lineage = written.lineages["mlp2x_gelu"]
    run = tracked_runs.variant_run(written.variants["mlp2x_gelu"], lineage, runs, tracked_runs.ALONE)
    name = variant_name(written.variants["mlp2x_gelu"])
    with pytest.raises(KeyError if status == "FAILED" else KeyboardInterrupt), run:
        assert needs(runs, ()).at_work == [f"variant {name}"]
        raise KeyError if status == "FAILED" else KeyboardInterrupt
    assert not spare() & {r.name for r in lineage}
    assert users(needs(runs, ()), lineage[0].name)[-1] == f"variant {name}, which is not finished"
    with run:
        pass
    assert {r.name for r in lineage} <= spare()


def test_nothing_goes_while_a_command_works(runs: Path, written: ExplainedFolder, spare) -> None:
    name = names(written, "mlp2x_gelu")[0]
    with exclusive(runs / "stages" / f"{name}.lease"):
        found = needs(runs, ())
        assert name not in {h.path.name for h in found.unneeded()} and found.at_work == [f"stage run {name}"]
        assert not list(collect(found, really=True))
        with pytest.raises(StoreError, match=f"stage run {name} is needed by .*which is worked at"):
            remove(find(name, runs, found.holdings), found, really=True)
    assert len(list(collect(needs(runs, ()), really=True))) == len(spare()) or not spare()


@pytest.mark.parametrize(
    ("kind", "lock", "work"),
    [
        ("stage run", "stages/{name}.lease", "stage run {name}"),
        ("stage run", "stages/{name}.validations.lease", "validation of {name}"),
        ("unfinished stage run", "stages/{name}.lease", "stage run {name}"),
        ("scores", "scores/.{name}.lease", "evaluation {name}"),
        ("scores", "scores/.{name}.speed.lease", "answer speed of {name}"),
        ("weights", "cache/weights/.{name}.lock", "weights {name}"),
        ("index", "data/index/{home}/lock", "index {home}"),
        ("index", "data/index/{home}/lengths/{name}-0123456789abcdef.lock", "lengths {name}-0123456789abcdef"),
        ("index", "data/index/{home}/contents/{name}.lock", "contents {name}"),
        ("search", "searches/{name}/.lease", "search {name}"),
    ],
)
def test_what_a_command_works_at_is_neither_deleted_nor_moved(
    runs: Path, tmp_path: Path, kind: str, lock: str, work: str
) -> None:
    """By the names that the writers give their locks."""
    for made in ("stages/finetune-0123456789ab.work", "cache/weights/share-int8-0123456789ab"):
        (runs / made).mkdir(parents=True)
    age(runs)
    before = needs(runs, ())
    one = next(h for h in before.holdings if h.kind == kind)
    names = {"name": one.path.name.removesuffix(".work"), "home": one.path.parent.name}
    with exclusive(runs / lock.format(**names)):
        found = needs(runs, ())
        assert found.at_work == [work.format(**names)]
        with pytest.raises(StoreError, match=r"is needed by .*which is worked at"):
            remove(find(one.place, runs, found.holdings), found, really=True)
        with pytest.raises(StoreError, match=r"a command works in .* \("):
            move_runs(runs, tmp_path / "there", found)
        with pytest.raises(StoreError, match="a command works at it"):  # it began after the count
            remove(one, Needs(runs, before.holdings), really=True)
    assert one.path.is_dir() and not needs(runs, ()).at_work


def test_a_bundle_stays_while_an_endpoint_serves_it(runs: Path, written: ExplainedFolder, tmp_path: Path) -> None:
    """Each replica holds it; a killed one holds nothing."""
    bundle, other = (runs / "bundles" / written.bundles[name].name for name in ("resampler", "mlp2x_gelu"))
    with hold(bundle, runs), hold(bundle, runs) as second:
        found = needs(runs, ())
        # The endpoint runs for weeks: what nothing needs goes meanwhile.
        assert not found.at_work and found.serving == {f"bundles/{bundle.name}": f"endpoint of {bundle.name}"}
        with pytest.raises(StoreError, match=f"is needed by endpoint of {bundle.name}, which serves it"):
            remove(find(bundle.name, runs, found.holdings), found, really=True)
        with pytest.raises(StoreError, match="a command works at it"):
            remove(find(bundle.name, runs, found.holdings), Needs(runs, found.holdings), really=True)
        with pytest.raises(StoreError, match=rf"a command works in .* \(endpoint of {bundle.name}\)"):
            move_runs(runs, tmp_path / "there", found)
        with pytest.raises(StoreError, match=rf"\(endpoint of {bundle.name}\)"):
            rename_bundle(find(bundle.name, runs, found.holdings), "best", runs, found)
        assert rename_bundle(find(other.name, runs, found.holdings), "other", runs, found).is_dir()
        second.close()
        assert needs(runs, ()).serving  # the first one's
    assert not needs(runs, ()).serving and not list((runs / "bundles").glob(".*.lock"))
    left = serving_lock(bundle)
    left.touch()
    assert not needs(runs, ()).serving
    assert [g.path for g in collect_leftovers(runs, really=True)] == [left] and not left.exists()


def test_a_bundle_stays_while_its_8_bit_weights_are_served(runs: Path, written: ExplainedFolder) -> None:
    bundle = runs / "bundles" / written.bundles["resampler"].name
    made = runs / "cache" / "weights" / f"share-int8-{weights_digest(bundle)[:12]}"
    made.mkdir(parents=True)
    with hold(made, runs):
        found = needs(runs, ())
        for name in (bundle.name, made.name):
            with pytest.raises(StoreError, match=f"is needed by endpoint of {made.name}, which serves it"):
                remove(find(name, runs, found.holdings), found, really=True)


def test_a_folder_that_cannot_be_held_is_served_all_the_same(
    runs: Path, written: ExplainedFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = runs / "bundles" / written.bundles["resampler"].name
    serving_lock(bundle).mkdir()  # as a folder that may not be written
    with hold(bundle, runs), hold(tmp_path / "elsewhere", runs):
        assert "`remora runs` cannot see that" in caplog.text and not list(tmp_path.glob(".*"))


def test_every_lock_of_the_package_is_known() -> None:
    """Who takes a new one says here whether what it is about may be deleted meanwhile."""
    about_holdings = {
        *("data/held_out.py", "reading/lengths.py", "runs/store.py", "inference/bundle.py", "pipeline/variant.py"),
        *("pipeline/measure.py", "pipeline/answer_speed.py", "pipeline/search/search.py", "pipeline/promotion.py"),
    }
    others = {
        "pipeline/upkeep/deleting.py": "of those",
        "pipeline/command_records.py": "keeps everything (`commands_at_work`)",
        "pipeline/feed.py": "of a command, which is recorded",
        "pipeline/search/verdict.py": "of a search, which has its own",
        "inference/vllm/weights.py": "of what is in no holding",
        "runs/leftovers.py": "Ray's files",
        "serving/keys.py": "of a file that is no run folder's",
        "sharing/node.py": "of a folder that is being made",
    }
    package = Path(remora.__file__).parent
    sources = {p.relative_to(package).as_posix(): p.read_text() for p in package.rglob("*.py")}
    found = {place for place, text in sources.items() if re.search(r"(?<!def )\bexclusive\(", text)}
    assert found == about_holdings | set(others)


def test_an_index_goes_with_what_was_measured_of_it(runs: Path, written: ExplainedFolder, spare) -> None:
    (words,) = (h for h in holdings(runs) if h.kind == "index" and "words" in h.place)
    home, name = words.path.parent, words.path.name
    for mine in (f"lengths/{name}-0123456789abcdef", f"contents/{name}"):
        with publishing(home / mine) as tmp:
            (tmp / "table").write_bytes(bytes(8))
        (home / f"{mine}.lock").touch()
    (home / "state.json").unlink()  # its dataset is gone
    age(runs)
    assert name in spare()
    with exclusive(home / "contents" / f"{name}.lock"):
        assert not list(collect(needs(runs, ()), really=True))
    assert words.path in {g.path for g in collect(needs(runs, ()), really=True)}
    assert not home.exists()


def test_leftovers_of_a_published_run_stay_while_it_is_validated(runs: Path, written: ExplainedFolder) -> None:
    work = runs / "stages" / f"{names(written, 'resampler')[1]}.work"
    work.mkdir()
    with exclusive(work.with_suffix(".validations.lease")):
        assert not list(collect_leftovers(runs, really=True)) and work.is_dir()
    assert [g.path for g in collect_leftovers(runs, really=True)] == [work] and not work.exists()


def test_a_running_search_keeps_what_it_lists(runs: Path) -> None:
    found = needs(runs, ())
    assert not found.of(find("two", runs, found.holdings))
    with exclusive(lease_of(runs, "two")):
        found = needs(runs, ())
        with pytest.raises(StoreError, match="search two is needed by search two, which is worked at"):
            remove(find("two", runs, found.holdings), found, really=True)
    assert (runs / "searches" / "two").is_dir()


def test_what_stopped_variants_left_goes_only_if_asked_for(runs: Path) -> None:
    """`slow` was paused by the search's rule; its checkpoints are what it would go on from."""
    file = runs / "searches" / "two" / "space.json"
    said = json.loads(file.read_text())
    some = next(iter(said["variants"].values()))
    said["variants"]["slow"] = {**some, "lineage": [some["lineage"][0], "finetune-0123456789ab"]}
    file.write_text(json.dumps(said))
    work = runs / "stages" / "finetune-0123456789ab.work" / "checkpoints"
    work.mkdir(parents=True)
    (work / "state").write_bytes(bytes(1000))
    age(runs)
    assert not needs(runs, ()).unneeded()
    found = needs(runs, (), stopped=True)
    (only,) = collect(found, really=False)
    assert only.path == work.parent and only.frees == 1000
    with exclusive(lease_of(runs, "two")):
        assert not needs(runs, (), stopped=True).unneeded()


def test_an_index_of_data_that_changed_goes_with_the_last_stage_run_that_read_it(
    runs: Path, written: ExplainedFolder, spare: Callable[[], set[str]]
) -> None:
    (words,) = (h for h in holdings(runs) if h.kind == "index" and "words" in h.place)
    assert words.path.name not in spare()  # the dataset is there, and unchanged
    data = Path(json.loads((words.path.parent / "state.json").read_text())["files"][0][0])
    kept = data.read_bytes()
    try:
        data.write_bytes(kept + b" ")
        assert words.path.name in spare()
        assert words.path in {g.path for g in collect(needs(runs, ()), really=True)}
    finally:
        data.write_bytes(kept)
    assert not words.path.parent.exists()


def test_scores_of_a_model_from_elsewhere_stay(runs: Path) -> None:
    folder = runs / "scores" / "imported-gqa-0123456789ab"
    folder.mkdir()
    (folder / "about.json").write_text(
        json.dumps({"model": "imported", "weights": "w", "benchmark": "gqa", "questions": "q"})
    )
    age(runs)
    assert users(needs(runs, ()), folder.name) == ["evaluation of imported, which was not trained here"]


def test_one_thing_is_refused_by_who_needs_it(runs: Path, written: ExplainedFolder) -> None:
    bundle = written.bundles["resampler"]
    found = needs(runs, [version(bundle)])
    with pytest.raises(StoreError, match=rf"bundle {bundle.name} is needed by remora version 3 \(champion\); next:"):
        remove(find(bundle.name, runs, found.holdings), found, really=True)
    language = names(written, "resampler")[0]
    with pytest.raises(StoreError, match=f"stage run {language} is needed by .* and 2 more"):
        remove(find(language, runs, found.holdings), found, really=True)
    dry = remove(find("two", runs, found.holdings), found, really=False)
    assert dry.path.is_dir()
    with pytest.raises(DataError, match="did you mean 'two'"):
        find("tow", runs, found.holdings)


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(bytes(100))
    os.link(tmp_path / "a" / "one", tmp_path / "a" / "two")
    assert (size_of([tmp_path / "a"]).bytes, size_of([tmp_path / "a"]).frees) == (100, 100)
    os.link(tmp_path / "a" / "one", tmp_path / "three")
    assert size_of([tmp_path / "a"]).frees == 0


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("stages/{last}/parts/connector/model.safetensors", "does not match its sha256"),
        ("bundles/{bundle}/connector/model.safetensors", "does not match its sha256"),
        ("{index}/records.bin", "does not match its sha256"),
        ("scores/{scores}/report.json", "Expecting"),
        ("searches/two/space.json", "Expecting"),
    ],
)
def test_a_flipped_byte_is_named(runs: Path, written: ExplainedFolder, file: str, said: str) -> None:
    held = holdings(runs)
    assert not [v for v in verified(runs, held) if v.problems]
    places = {
        "last": written.lineages["resampler"][-1].name,
        "bundle": written.bundles["resampler"].name,
        "index": next(h.place for h in held if h.kind == "index"),
        "scores": next(h.name for h in held if h.kind == "scores"),
    }
    torn = runs / file.format(**places)
    content = bytearray(torn.read_bytes())
    content[0] ^= 0xFF
    torn.unlink()
    torn.write_bytes(b"x" if torn.suffix == ".json" else bytes(content))
    (found,) = (v for v in verified(runs, held) if v.problems)
    assert torn.is_relative_to(found.path) and said in found.problems[0] and "next: " in found.problems[0]


def test_weights_that_are_whole_but_not_those_of_its_stage_runs(runs: Path, written: ExplainedFolder) -> None:
    bundle = runs / "bundles" / written.bundles["resampler"].name
    with publishing(bundle) as tmp:
        shutil.copytree(written.bundles["resampler"], tmp, dirs_exist_ok=True)
        (tmp / MANIFEST).unlink()
        (tmp / "connector" / "model.safetensors").write_bytes(b"other weights")
    (found,) = (v for v in verified(runs, holdings(runs)) if v.problems)
    assert "connector/model.safetensors is not what its stage runs published" in found.problems[0]


def test_a_record_that_cannot_be_read(runs: Path) -> None:
    (runs / "tracking").mkdir(exist_ok=True)
    (runs / "tracking" / "stage-0.json").write_text("{")
    (found,) = verified_records(runs)
    assert "stage-0.json" in found.problems[0] and "next: delete it" in found.problems[0]


def test_a_bundle_is_renamed_with_what_names_it(runs: Path, written: ExplainedFolder) -> None:
    old = written.bundles["resampler"].name
    claim = Claim("remora", f"bundles/{old}", "d", "champion", 1, {})
    Run.again(runs, "registration/x").claim(claim)
    Run.again(runs, "registration/x").note(models={"bundle/w": RunModel(old, "bundle", f"bundles/{old}", False)})
    (runs / "cards" / old).mkdir(parents=True)
    found = needs(runs, ())
    made = rename_bundle(find(old, runs, found.holdings), "best", runs, found)
    assert made == runs / "bundles" / "best" and is_published(made) and (runs / "cards" / "best").is_dir()
    (record,) = (read_record(f) for f in (runs / "tracking").glob("registration-*.json"))
    assert [asdict(c) for c in record.claims] == [asdict(claim) | {"folder": "bundles/best"}]
    assert record.models["bundle/w"].folder == "bundles/best"
    assert not [v for v in verified(runs, holdings(runs)) if v.problems]
    with pytest.raises(DataError, match="is named by its stage and identity"):
        rename_bundle(find(names(written, "resampler")[0], runs, found.holdings), "x", runs, found)
    with pytest.raises(StoreError, match="is there already"):
        rename_bundle(find("best", runs, holdings(runs)), written.bundles["mlp2x_gelu"].name, runs, needs(runs, ()))


def test_a_run_folder_is_moved_unless_a_command_works_in_it(runs: Path, tmp_path: Path) -> None:
    with exclusive(lease_of(runs, "two")), pytest.raises(StoreError, match=r"a command works in .* \(search two\)"):
        move_runs(runs, tmp_path / "there", needs(runs, ()))
    for place, said in ((runs / "in", "is inside of"), (tmp_path, "is there already")):
        with pytest.raises(StoreError, match=said):
            move_runs(runs, place, needs(runs, ()))
    before: list[Holding] = holdings(runs)
    moved = move_runs(runs, tmp_path / "new" / "there", needs(runs, ()))
    assert not runs.exists() and [h.place for h in holdings(moved)] == [h.place for h in before]
    assert not needs(moved, ()).unneeded()


def test_to_another_disk_weights_stay_stored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    (runs / "a").mkdir(parents=True)
    (runs / "a" / "weights").write_bytes(bytes(100))
    monkeypatch.chdir(runs)  # a socket's address is short
    with closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind("left-by-ray")
    os.link(runs / "a" / "weights", runs / "again")
    rename = Path.rename

    def refused(self: Path, to: Path) -> Path:
        if self == runs:
            raise OSError(18, "Invalid cross-device link")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", refused)
    moved = move_runs(runs, tmp_path / "there", needs(runs, ()))
    assert not runs.exists() and (moved / "again").samefile(moved / "a" / "weights")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("harm", ["torn", "gone"])
@pytest.mark.parametrize(
    "file",
    ["bundles/{bundle}/bundle.json", "stages/{last}/{manifest}", "searches/two/space.json", "tracking/{record}"],
)
def test_nothing_goes_while_a_file_cannot_be_read_that_says_what_is_needed(
    runs: Path, written: ExplainedFolder, file: str, harm: str
) -> None:
    with publishing(runs / "stages" / "finetune-0123456789ab") as tmp:
        (tmp / "weights").write_text("w")
    place = runs / file.format(
        bundle=written.bundles["resampler"].name,
        last=written.lineages["resampler"][-1].name,
        manifest=MANIFEST if harm == "gone" else "record.json",
        record=next((runs / "tracking").glob("variant-*.json")).name,
    )
    place.unlink()
    if harm == "torn":
        place.write_text('{"na')
    elif place.parent.name in ("two", "tracking"):
        return  # a search that had not begun, and a record that there never was
    age(runs)
    found = needs(runs, ())
    assert found.unread == [place] and not list(collect(found, really=True))
    with pytest.raises(StoreError, match=rf"may be needed: .*{place.name} cannot be read; next: remora runs verify"):
        remove(find("finetune-0123456789ab", runs, found.holdings), found, really=True)


def test_scores_stay_while_the_weights_of_their_bundle_cannot_be_told(runs: Path, written: ExplainedFolder) -> None:
    bundle = runs / "bundles" / written.bundles["resampler"].name
    (bundle / MANIFEST).unlink()
    age(runs)
    found = needs(runs, ())
    (scores,) = found.unneeded()
    assert found.unread == [bundle] and not list(collect(found, really=True))
    with pytest.raises(StoreError, match=f"may be needed: {bundle} cannot be read"):
        remove(scores, found, really=True)


def test_what_lacks_the_file_by_which_it_is_known_is_named(runs: Path, written: ExplainedFolder) -> None:
    index = next(h.path for h in holdings(runs) if h.kind == "index")
    bundle, stage = (
        runs / "bundles" / written.bundles["resampler"].name,
        runs / "stages" / names(written, "resampler")[1],
    )
    for beside in ("lengths", "contents"):  # of an index, and no index
        (index.parent / beside).mkdir()
    assert not list(verified_torn_apart(runs))
    for file in (index / "index.json", bundle / "bundle.json", stage / MANIFEST):
        assert not [v for v in verified_torn_apart(runs) if v.path == file.parent]
        file.unlink()
        (only,) = (v for v in verified_torn_apart(runs) if v.path == file.parent)
        assert f"no {file.name}; next: " in only.problems[0]


def test_answers_whose_model_is_not_known_stay_and_are_named(runs: Path) -> None:
    scores = next(h for h in holdings(runs) if h.kind == "scores")
    (scores.path / "about.json").unlink()
    age(runs)
    assert not needs(runs, ()).unneeded()
    (found,) = (v for v in verified(runs, holdings(runs)) if v.problems)
    assert "no about.json" in found.problems[0]


def test_a_folder_that_cannot_be_listed_stops_the_count(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Path.iterdir

    def stale(self: Path) -> Iterator[Path]:
        if self.name == "stages":
            raise OSError(errno.ESTALE, "Stale file handle")
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", stale)
    with pytest.raises(StoreError, match="stages cannot be listed: Stale file handle"):
        needs(runs, ())


def test_nothing_goes_or_moves_under_a_command_that_has_just_begun(runs: Path, spare, tmp_path: Path) -> None:
    """It looks at data before it takes the first lease, and has chosen what it goes on from."""
    assert spare()
    before = needs(runs, ())
    with at_work(runs, "train", "single", "it", ["train", "it.yaml"]):
        assert needs(runs, ()).at_work == ["train it"]
        assert not list(collect(needs(runs, ()), really=True))
        assert not list(collect(before, really=True))  # it began after the count
        with pytest.raises(StoreError, match=r"a command works in .* \(train it\)"):
            move_runs(runs, tmp_path / "there", needs(runs, ()))
    assert list(collect(before, really=True))


def test_a_bundle_stays_while_it_is_asked(runs: Path, written: ExplainedFolder) -> None:
    scores = next(h for h in holdings(runs) if h.kind == "scores" and "-res-" in h.place)
    with exclusive(scores.path.with_name(f".{scores.name}.lease")):
        found = needs(runs, ())
        assert found.at_work == [f"evaluation {scores.name}"]
        with pytest.raises(StoreError, match=f"is needed by evaluation {scores.name}, which is worked at"):
            remove(find(written.bundles["resampler"].name, runs, found.holdings), found, really=True)


def test_two_collections_at_once_delete_everything_once(runs: Path, spare, monkeypatch: pytest.MonkeyPatch) -> None:
    assert spare()
    found, rmtree = needs(runs, ()), shutil.rmtree

    def meanwhile(folder: Path, **more: bool) -> None:
        assert not list(collect_leftovers(runs, really=True))  # of the other one
        rmtree(folder, **more)

    monkeypatch.setattr(shutil, "rmtree", meanwhile)
    assert len(list(collect(found, really=True))) == len(found.unneeded())
    assert not list(collect(found, really=True))  # which counted before
    assert not spare()


def test_what_is_worked_at_since_the_count_stays(runs: Path) -> None:
    found = needs(runs, ())
    scores = next(h for h in found.holdings if h.kind == "scores")
    alone = Needs(runs, found.holdings)
    with (
        exclusive(scores.path.with_name(f".{scores.name}.lease")),
        pytest.raises(StoreError, match="a command works at it"),
    ):
        remove(scores, alone, really=True)
    assert scores.path.is_dir()


def test_of_a_link_what_it_leads_to_stays(runs: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (runs / "searches" / "two").rename(elsewhere)
    (runs / "searches" / "two").symlink_to(elsewhere)
    found = needs(runs, ())
    remove(find("two", runs, found.holdings), found, really=True)
    assert not list((runs / "searches").iterdir()) and (elsewhere / "space.json").is_file()
    link = tmp_path / "link"
    link.symlink_to(runs)
    with pytest.raises(StoreError, match=f"is a link to {runs}; next: remora runs mv . .* --runs {runs}"):
        move_runs(link, tmp_path / "there", needs(link, ()))


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", "x\ny", "z" * 300])
def test_a_name_that_is_none_is_refused(runs: Path, written: ExplainedFolder, name: str) -> None:
    found = needs(runs, ())
    old = find(written.bundles["resampler"].name, runs, found.holdings)
    with pytest.raises(DataError if len(name) < 9 else StoreError, match=r"and .* is none|the path is too long"):
        rename_bundle(old, name, runs, found)
    assert old.path.is_dir()


def test_what_was_written_while_it_was_copied_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    (runs / "a").mkdir(parents=True)
    (runs / "a" / "weights").write_bytes(bytes(100))
    copytree, rename = shutil.copytree, Path.rename

    def meanwhile(*given: object, **more: object) -> object:
        made = copytree(*given, **more)
        (runs / "a" / "later").write_text("of a command that began meanwhile")
        return made

    def refused(self: Path, to: Path) -> Path:
        if self == runs:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", refused)
    monkeypatch.setattr(shutil, "copytree", meanwhile)
    with pytest.raises(StoreError, match=r"a command wrote in .* while it was copied; nothing was moved"):
        move_runs(runs, tmp_path / "there", needs(runs, ()))
    assert (runs / "a" / "later").is_file() and [p.name for p in tmp_path.iterdir()] == ["runs"]


def test_a_bundle_stays_of_which_a_version_is_asked_for(runs: Path, written: ExplainedFolder) -> None:
    """MLflow was away when it was registered, or it is not the server that was asked now."""
    name = written.bundles["resampler"].name
    Run.again(runs, "registration/x").claim(Claim("remora", f"bundles/{name}", "d", "champion", 1, {}))
    found = needs(runs, [version(written.bundles["mlp2x_gelu"], digest="other")])
    with pytest.raises(StoreError, match=r"is needed by record registration-.*json, of which `remora sync` makes a"):
        remove(find(name, runs, found.holdings), found, really=True)
    found = needs(runs, [version(folder=None, digest="d", version="4")])  # it has it
    assert users(found, name) == ["remora version 4 (champion)"]
