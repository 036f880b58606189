"""Which version answers a request, as a function of a table and the request's key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from remora.serving.champion import ModelFacts
from remora.serving.versions import ModelVersions, RunningVersion, TrialVersion, VersionTable, place
from support.serving_fake import FakeAnswerer, facts_of

FACTS = facts_of(FakeAnswerer())
KEYS = [f"key {i}" for i in range(2000)]


def running(version: str, **facts: str) -> RunningVersion:
    of: ModelFacts = replace(FACTS, version=version, **facts)  # type: ignore[arg-type]
    return RunningVersion(of, f"app {version}")


def test_a_key_stays_with_its_version_while_the_share_grows() -> None:
    model, chosen = ModelVersions("remora", "champion", running("3")), set[str]()
    assert {model.choose(key).version.version for key in KEYS} == {"3"}
    for share in (0.05, 0.1, 0.5, 1.0):
        tried = replace(model, trial=TrialVersion(running("4"), share))
        now = {key for key in KEYS if tried.choose(key).version.version == "4"}
        assert chosen <= now and abs(len(now) / len(KEYS) - share) < 0.03
        both = {(choice.version.version, choice.shadow and choice.shadow.version) for choice in map(tried.choose, KEYS)}
        assert both <= {("3", "4"), ("4", "3")}, "the other one may answer, too"
        chosen = now
    assert chosen == set(KEYS)
    apart = {key for key in KEYS if place("remora", key) < 0.5} ^ {key for key in KEYS if place("other", key) < 0.5}
    assert abs(len(apart) / len(KEYS) - 0.5) < 0.05, "models draw apart"


def test_in_the_shadow_the_stable_version_answers() -> None:
    model = ModelVersions("remora", "champion", running("3"), TrialVersion(running("4")))
    for key in KEYS[:9]:
        choice = model.choose(key)
        assert (choice.version.version, choice.fingerprint) == ("3", "remora@3")
        assert choice.shadow is not None and choice.shadow.version == "4"
    assert [one.version for one in replace(model, retired=(running("2"),)).running] == ["3", "4", "2"]


def test_names_of_several_models() -> None:
    first = ModelVersions("remora", "champion", running("3"))
    second = ModelVersions("other", "champion", running("7", name="mid"))
    third = ModelVersions("share-Fake", "best", running("1", name="remora"))
    table = VersionTable(1, (first, second, third))
    assert {name: model.model for name, model in table.names().items()} == {
        **{"remora": "remora", "champion": "remora"},
        **{"other": "other", "mid": "other", "other@champion": "other"},
        **{"share-Fake": "share-Fake", "share-Fake@best": "share-Fake"},
    }
    assert table.choose(None, "").model is first and table.choose("mid", "").model is second
    with pytest.raises(KeyError):
        table.choose("gpt-4o", "")
