"""Errors of connecting to a cluster are one line, at once and before Ray is imported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from remora.cluster import session
from remora.cluster.session import LONGEST_ROOT, check_one_node, ray_session
from remora.errors import ClusterError
from support.ports import free_port


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a session sets is taken back."""
    before = dict(os.environ)
    for key in ("RAY_ADDRESS", "RAY_TMPDIR"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(os, "environ", os.environ)
    yield
    for key in os.environ.keys() - before.keys():
        del os.environ[key]
    os.environ.update(before)


def refused(address: str | None = None) -> str:
    with pytest.raises(ClusterError) as e, ray_session(address):
        pytest.fail("joined")
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://head:8265"])
def test_an_address_for_jobs_is_named_as_one(address: str) -> None:
    """Ray's own message was cut at its list: "To fix this, either:"."""
    assert f"{address} takes jobs and cannot be joined; next: ray job submit --address {address}" in refused(address)


@pytest.mark.parametrize("address", ["nonsense", "localhost", "foo:bar", "127.0.0.1:99999", "head:0", "gcs://a:1", " "])
def test_what_is_no_address_is_refused_with_what_is_one(address: str) -> None:
    assert "host:port" in refused(address) and repr(address) in refused(address)


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_nothing_listens(prefix: str) -> None:
    where = f"{prefix}127.0.0.1:{free_port()}"
    assert refused(where).startswith(f"no Ray cluster at {where}: nothing listens there; ")


def test_a_long_folder_for_temporary_files_is_not_rays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray takes TMPDIR for its sockets, whose names have 107 bytes: "AF_UNIX path length cannot exceed 107 bytes"."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("long" * 20)))
    session._make_room()
    assert os.environ["RAY_TMPDIR"] == "/tmp"
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 20)))
    assert f"may have {LONGEST_ROOT} bytes" in refused()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    monkeypatch.setenv("RAY_TMPDIR", "file")
    assert "in file/ray (RAY_TMPDIR), which cannot be written: Not a directory; next: RAY_TMPDIR=DIR" in refused()


def test_a_ray_that_is_slow_to_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a plain Exception of several lines."""
    import ray

    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen because\n  some of them failed")

    monkeypatch.setattr(ray, "init", init)
    said = refused()
    assert said.startswith("Ray did not start on this machine: The current node timed out during startup. This could")
    assert "session_latest/logs" in said


@pytest.mark.parametrize(("nodes", "where"), [([True, True], "10.0.0.1:6379"), ([True], "ray://10.0.0.1:10001")])
def test_a_url_is_no_run_folder_for_a_cluster_of_several_nodes(
    nodes: list[bool], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": alive} for alive in nodes])
    with pytest.raises(ClusterError, match=r"the run folder is s3://b/runs, .* next: the same command on each node"):
        check_one_node("s3://b/runs", where)
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True}, {"Alive": False}])
    check_one_node("s3://b/runs", None)
