"""Files of published models: a folder, a cache in the hub's real layout, and one line when there is neither."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from remora.errors import DataError
from remora.model.hub import cached, resolved_revision, snapshot
from support.ports import free_port

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


@pytest.mark.parametrize("proxied", [False, True], ids=["hub", "proxy"])
def test_without_a_network_one_connection_is_tried(hub, monkeypatch, proxied):
    """huggingface_hub would try a pinned revision six times."""
    closed = f"127.0.0.1:{free_port()}"
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if proxied:
        monkeypatch.setenv("http_proxy", closed)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid" if proxied else f"http://{closed}")
    monkeypatch.setattr("huggingface_hub.snapshot_download", _only_the_cache)
    with pytest.raises(DataError, match=rf"cannot be downloaded: {closed} does not answer \(.*refused\)\. Next: "):
        snapshot("org/other", COMMIT)


def _only_the_cache(hub, local_files_only=False, **kw):
    assert local_files_only, "the hub was asked"
    raise LocalEntryNotFoundError("not there")


def test_a_hub_that_answers_is_asked(hub, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda hub, **kw: f"/{hub}/{kw['revision']}")
        monkeypatch.setattr("remora.model.hub.cached", lambda *a: None)
        assert snapshot("org/other", COMMIT) == Path(f"/org/other/{COMMIT}")


def test_a_folder_is_known_by_its_contents(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert snapshot(str(tmp_path)) == tmp_path
    first = resolved_revision(str(tmp_path), None)
    (tmp_path / "README.md").write_text("no file of the model")
    assert resolved_revision(str(tmp_path), None) == first
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert resolved_revision(str(tmp_path), None) != first
