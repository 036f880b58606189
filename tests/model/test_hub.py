"""Files of published models: a folder, a cache in the hub's real layout, and one line when there is neither."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from remora.errors import DataError
from remora.model.hub import cached, resolved_revision, snapshot

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache that holds one repository as `hf download` leaves it, and no network."""
    cache = tmp_path / "hub"
    repository = cache / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / "b").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "snapshots" / COMMIT / "config.json").symlink_to(repository / "blobs" / "b")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return repository / "snapshots" / COMMIT


def test_a_cached_repository_is_found_by_name_and_by_commit(hub):
    assert snapshot("org/name") == cached("org/name") == snapshot("org/name", COMMIT) == hub
    assert resolved_revision("org/name", None) == COMMIT
    assert resolved_revision("org/name", "v1") == "v1"


def test_what_is_not_there_is_one_line(hub, tmp_path):
    assert cached("org/other") is None
    assert resolved_revision("org/other", None) == "unresolved"
    with pytest.raises(DataError, match=r"^org/other is not in the cache .* Next: `hf download org/other`") as caught:
        snapshot("org/other")
    assert "licence" not in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"licence must be accepted at huggingface.co/org/other and `hf auth login`"):
        snapshot("org/other", gated=True)
    with pytest.raises(DataError, match=r"no folder .*nothing"):
        snapshot(str(tmp_path / "nothing"))


def test_a_folder_is_known_by_its_contents(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert snapshot(str(tmp_path)) == tmp_path
    first = resolved_revision(str(tmp_path), None)
    (tmp_path / "README.md").write_text("no file of the model")
    assert resolved_revision(str(tmp_path), None) == first
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert resolved_revision(str(tmp_path), None) != first
