"""An S3 server for the tests of this folder, a bucket for each, and node folders that share it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from remora.sharing import SharedRuns, around, node_folder
from support.s3 import make_bucket, s3_server

NodeMaker = Callable[[str], SharedRuns]


@pytest.fixture(scope="session")
def s3() -> Iterator[Mapping[str, str]]:
    with s3_server() as env:
        yield env


@pytest.fixture
def url(s3: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    bucket = f"b-{uuid.uuid4().hex}"
    make_bucket(s3, bucket)
    return f"s3://{bucket}/runs"


@pytest.fixture
def node(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeMaker:
    """Makes the node folder of a name."""

    def make(name: str) -> SharedRuns:
        monkeypatch.setenv("REMORA_NODE_FOLDER", str(tmp_path / name))
        found = around(node_folder(url))
        assert found
        return found

    return make
