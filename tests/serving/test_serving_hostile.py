"""Hostile requests over a real connection, through the proxy's middleware: answered or refused, never a 5xx, and the
endpoint answers as before."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from remora.serving.args import EndpointArgs, Limits
from remora.serving.attack import addresses, connections, pictures
from remora.serving.attack.bodies import HI, JSON, TEXTS
from remora.serving.attack.judge import problem
from remora.serving.attack.pictures import as_url
from remora.serving.attack.wire import Attacked, Came, question, shown
from remora.serving.front import Front
from support.listening import listening
from support.serving_fake import CHAT, fake_api

LIMITS = Limits(max_body_bytes=4 * 2**20, max_image_bytes=2**20)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The endpoint behind its middleware and the proxy's HTTP parser."""
    with listening(Front(fake_api(EndpointArgs(limits=LIMITS))[0], body_s=5)) as port:
        yield port


@pytest.fixture(autouse=True)
def _it_answers_as_before(port: int) -> Iterator[None]:
    yield
    assert httpx.post(f"http://127.0.0.1:{port}{CHAT}", json=HI, timeout=60).status_code == 200
    assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=60).json()["status"] == "ok"


def post(port: int, content: bytes, **headers: str) -> httpx.Response:
    told = {"content-type": "application/json"} | headers
    return httpx.post(f"http://127.0.0.1:{port}{CHAT}", content=content, headers=told, timeout=60)


def refused(response: httpx.Response, sent: bytes = b"") -> dict[str, Any]:
    """The error of a refusal, which is one line of our own words."""
    came = Came(response.status_code, response.content, dict(response.headers))
    assert problem(came, "refused", sent) is None
    assert response.status_code == 400
    return dict(response.json()["error"])


PICTURES = {
    name: found
    for table in (
        *(pictures.BOMBS, pictures.SIZES, pictures.TORN, pictures.ANIMATED, pictures.MIME, pictures.VECTORS),
        *(pictures.POLYGLOTS, pictures.BASE64),
    )
    for name, found in table.items()
}
GOOD = {name: made for name, (wanted, made) in PICTURES.items() if wanted == "answered"}
BAD: dict[str, Callable[[], str]] = {
    **{name: made for name, (wanted, made) in PICTURES.items() if wanted == "refused"},
    **{name: lambda url=url: url for name, url in (addresses.FILES | addresses.forged(9)).items()},
    "bytes that are too many": lambda: as_url(bytes(2**20 + 1)),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", GOOD)
def test_what_is_a_picture_by_its_bytes_is_read(port: int, name: str) -> None:
    response = post(port, shown(GOOD[name]()))
    assert response.status_code == 200, response.text
    assert ("2x2 RGB" if name == "2 x 2" else "24x16 RGB") in response.text


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", BAD)
def test_what_is_none_is_refused(port: int, name: str) -> None:
    body = shown(BAD[name]())
    error = refused(post(port, body), body)
    assert error["param"] == "messages" and "passwd" not in error["message"].replace(BAD[name]()[:40], "")


def test_a_profile_that_unpacks_to_much_is_not_unpacked(port: int) -> None:
    assert post(port, shown(PICTURES["a colour profile of 50 MB"][1]())).status_code in (200, 400)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", JSON)
def test_json_of_any_kind_is_refused_in_one_line(port: int, name: str) -> None:
    refused(post(port, JSON[name]), JSON[name])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_any_kind_are_texts(port: int, name: str) -> None:
    assert post(port, question(TEXTS[name])).status_code == 200


HEAD = Attacked("http://localhost:80", key="none").head
CONNECTIONS = connections.floods(HEAD) | connections.lengths(HEAD) | connections.malformed(HEAD)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", CONNECTIONS)
def test_connections_of_any_kind(port: int, name: str) -> None:
    came = Attacked(f"http://127.0.0.1:{port}").said(CONNECTIONS[name], whole=False)
    assert came.why == "closed" or came.status in range(200, 500), came
    assert b"root:" not in came.body and b"Traceback" not in came.body


def test_clients_that_leave_cost_nothing(port: int) -> None:
    for sent in (connections.BODY, connections.BODY[:5]):
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
                raw.sendall(HEAD(f"Content-Length: {len(connections.BODY)}") + sent)
