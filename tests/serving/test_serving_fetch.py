"""Pictures by https: from named hosts only, from the address that was checked, within bounds. A server on loopback
plays the internet; tests name the addresses that its hosts have."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from PIL import Image

from remora.errors import SpecError
from remora.serving.args import EndpointArgs, Limits
from remora.serving.fetch import Fetcher, is_public
from remora.serving.openai_api import Refusal
from support.serving_fake import CHAT, call, data_url

PICTURE = b"any bytes: images.py decodes them"
NAMES = ("pictures.example.org", "other.example.org")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of NAMES, which signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    day = datetime.datetime(2020, 1, 1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(day)
        .not_valid_after(day + datetime.timedelta(36500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in NAMES]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


class Host:
    """A TLS server whose answer to each path is given; it writes down what it was asked."""

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        self.certificate = certificate
        self.answers: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.hold = asyncio.Event()

    async def __aenter__(self) -> Host:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*self.certificate)
        self.server = await asyncio.start_server(self._one, "127.0.0.1", 0, ssl=tls)
        self.port = int(self.server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self.hold.set()
        self.server.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ")[1]
        host = next(line[6:] for line in head.split("\r\n") if line.lower().startswith("host: "))
        self.asked.append((host, path))
        if path == "/slow":
            await self.hold.wait()
        writer.write(self.answers.get(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
        try:
            await writer.drain()
        finally:
            writer.close()


def ok(body: bytes = PICTURE, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def to(place: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def fetched(
    certificate: tuple[Path, Path],
    path: str | Sequence[str] = "/a.png",
    answers: dict[str, bytes] | None = None,
    limits: Limits | None = None,
    addresses: Sequence[str] = ("127.0.0.1",),
    hosts: Sequence[str] = ("pictures.example.org",),
    loopback_is_public: bool = True,
) -> tuple[list[Any], list[tuple[str, str]]]:
    """What becomes of a request's pictures (bytes, or the Refusal's code), and what the host was asked."""

    async def go() -> tuple[list[Any], list[tuple[str, str]]]:
        async with Host(certificate) as host:
            port = f":{host.port}"
            host.answers = {k: v.replace(b":PORT", port.encode()) for k, v in (answers or {"/a.png": ok()}).items()}

            async def resolving(name: str, at: int) -> Sequence[str]:
                assert (name, at) in {(each, host.port) for each in NAMES}, "nothing else is ever looked up"
                return addresses

            fetcher = Fetcher(
                [f"{each}{port}" for each in hosts],
                limits or Limits(),
                resolving,
                lambda address: is_public(address) or (loopback_is_public and address == "127.0.0.1"),
                ssl.create_default_context(cafile=str(certificate[0])),
            )
            paths = [path] if isinstance(path, str) else path
            urls = [p if ":" in p else f"https://pictures.example.org{port}{p}" for p in paths]
            parts: list[dict[str, Any]] = [
                {"type": "image_url", "image_url": {"url": url.replace(":PORT", port)}} for url in urls
            ]
            try:
                await fetcher.fill([{"role": "user", "content": parts}])
            except Refusal as refusal:
                assert refusal.status == 400 and "\n" not in str(refusal) and len(str(refusal)) < 300
                assert "127.0.0.1" in str(urls) + str(answers) or "127.0.0.1" not in str(refusal)
                return [refusal.code], host.asked
            return [part["image_url"] for part in parts], host.asked

    return asyncio.run(asyncio.wait_for(go(), 60))


def test_a_picture_is_fetched_from_the_checked_address_by_its_hosts_name(certificate: Any) -> None:
    found, ((host, path),) = fetched(certificate, "/a.png?size=1&x=%20#part", {"/a.png?size=1&x=%20": ok()})
    assert found == [PICTURE] and host.startswith("pictures.example.org:") and path == "/a.png?size=1&x=%20"


def test_every_other_url_is_left_to_the_reader_of_data_urls(certificate: Any) -> None:
    urls = ["data:image/png;base64,AAAA", "http://pictures.example.org:PORT/a.png", "file:///etc/passwd", "//x:1"]
    found, asked = fetched(certificate, urls)
    assert [part["url"][:5] for part in found] == ["data:", "http:", "file:", "//x:1"] and asked == []


@pytest.mark.parametrize(
    "url",
    [
        "https://elsewhere.example.org:PORT/a.png",
        "https://pictures.example.org/a.png",  # another port
        "https://pictures.example.org.evil.example:PORT/a.png",
        "https://evil.example:PORT/pictures.example.org",
        "https://xpictures.example.org:PORT/",
        "https://pictures.example.org.:PORT/",
        "https://localhost:PORT/a.png",
        "https://127.0.0.1:PORT/a.png",
        "https://2130706433:PORT/a.png",
        "https://0x7f000001:PORT/a.png",
        "https://0177.0.0.1:PORT/a.png",
        "https://127.1:PORT/a.png",
        "https://169.254.169.254/latest/meta-data/",
    ],
)
def test_hosts_that_are_not_named_are_not_even_looked_up(certificate: Any, url: str) -> None:
    assert fetched(certificate, url) == (["image_host_not_allowed"], [])


@pytest.mark.parametrize(
    "url",
    [
        "https://user@pictures.example.org:PORT/a.png",
        "https://pictures.example.org:PORT@evil.example/a.png",
        "https://evil.example\\@pictures.example.org:PORT/a.png",
        "https://pictures.example.org:PORT\\@evil.example/a.png",
        "https://pictures.example.org:PORT\\.evil.example/a.png",
        "https:\\\\pictures.example.org:PORT/a.png",
        "https:/pictures.example.org:PORT/a.png",
        "https:pictures.example.org:PORT/a.png",
        "https:///pictures.example.org:PORT/a.png",
        "https://[::1]:PORT/a.png",
        "https://[::ffff:127.0.0.1]:PORT/a.png",
        "https://pictures.example.org%2f:PORT/a.png",
        "https://pictures。example.org:PORT/a.png",
        "https://ⓟictures.example.org:PORT/a.png",
        "https://pictures.example.org:PORT/a b.png",
        "https://pictures.example.org:PORT/a\r\nHost: evil.example",
        "https://pictures.example.org:PORT/\ta",
        "https://pictures.example.org:PORT/é",
        "https://pictures.example.org:PORTx/a.png",
        "https://pictures.example.org:99999999/a.png",
        "https://?pictures.example.org:PORT/",
        "https:",
    ],
)
def test_urls_that_parsers_read_differently_are_refused(certificate: Any, url: str) -> None:
    assert fetched(certificate, url) == (["invalid_image_url"], [])


@pytest.mark.parametrize(
    "addresses",
    [("127.0.0.1",), ("10.0.0.1",), ("8.8.8.8", "127.0.0.1"), ("169.254.169.254",), ("::ffff:127.0.0.1",), ()],
)
def test_a_name_that_points_inside_is_refused(certificate: Any, addresses: Sequence[str]) -> None:
    """Also if only one of its addresses does: who answers the name must not choose."""
    assert fetched(certificate, addresses=addresses, loopback_is_public=False) == (["image_host_not_allowed"], [])


def test_a_name_is_looked_up_once_for_a_connection(certificate: Any) -> None:
    """DNS rebinding: the second lookup would give another address."""

    async def go() -> None:
        async with Host(certificate) as host:
            host.answers = {"/a.png": ok()}
            said = iter([["127.0.0.1"], ["10.0.0.1"]])

            async def resolving(name: str, port: int) -> Sequence[str]:
                return next(said)

            tls = ssl.create_default_context(cafile=str(certificate[0]))
            fetcher = Fetcher([f"{NAMES[0]}:{host.port}"], Limits(), resolving, lambda a: a == "127.0.0.1", tls)
            url = f"https://{NAMES[0]}:{host.port}/a.png"
            assert await fetcher.fetch(url, 1000) == PICTURE
            with pytest.raises(Refusal, match="no public address"):
                await fetcher.fetch(url, 1000)

    asyncio.run(asyncio.wait_for(go(), 60))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("64:ff9b::8.8.8.8", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("100.100.100.200", False),
        ("169.254.169.254", False),
        ("168.63.129.16", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::7f00:1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::127.0.0.1", False),
        ("64:ff9b:1::1", False),
        ("2002:7f00:1::", False),
        ("2002:a00:1::", False),
        ("2001:0:a00:1::1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("fec0::1", False),
        ("2001:db8::1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_redirect_is_a_url_like_the_first(certificate: Any) -> None:
    hosts = NAMES
    answers = {"/a.png": to("/b.png"), "/b.png": to("https://other.example.org:PORT/c.png"), "/c.png": ok()}
    found, asked = fetched(certificate, answers=answers, hosts=hosts)
    assert found == [PICTURE] and [host.partition(":")[0] for host, _ in asked] == [NAMES[0], NAMES[0], NAMES[1]]
    for place, code in [
        ("https://evil.example:PORT/", "image_host_not_allowed"),
        ("https://127.0.0.1:PORT/", "image_host_not_allowed"),
        ("//169.254.169.254/latest", "image_host_not_allowed"),
        ("http://pictures.example.org:PORT/b.png", "invalid_image_url"),
        ("file:///etc/passwd", "invalid_image_url"),
        ("https://pictures.example.org:PORT\\@evil.example/", "invalid_image_url"),
        ("https://a@pictures.example.org:PORT/b.png", "invalid_image_url"),
        ("", "image_not_fetched"),
        ("/a.png", "image_not_fetched"),
    ]:
        found, asked = fetched(certificate, answers={"/a.png": to(place)})
        assert found == [code], place
        assert {path for _, path in asked} == {"/a.png"} and len(asked) <= 4, place


def test_bytes_and_seconds_are_bounded(certificate: Any) -> None:
    limits = Limits(max_image_bytes=1024, max_body_bytes=1500, fetch_seconds=0.5)
    assert fetched(certificate, answers={"/a.png": ok(b"x" * 1024)}, limits=limits)[0] == [b"x" * 1024]
    assert fetched(certificate, answers={"/a.png": ok(b"x" * 1025)}, limits=limits)[0] == ["image_not_fetched"]
    endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n1\r\nx\r\n"
    assert fetched(certificate, answers={"/a.png": endless}, limits=limits)[0] == ["image_not_fetched"]
    two = ["/a.png", "/a.png"]
    assert fetched(certificate, two, {"/a.png": ok(b"x" * 900)}, limits)[0] == ["image_not_fetched"], "together"
    assert fetched(certificate, "/slow", limits=limits)[0] == ["image_not_fetched"]
    assert fetched(certificate, ["/a.png"] * 9) == (["too_many_images"], [])


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 None\r\n\r\n",
        b"SSH-2.0-server\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
    ],
)
def test_whatever_a_host_answers_is_one_line(certificate: Any, answer: bytes) -> None:
    assert fetched(certificate, answers={"/a.png": answer})[0] == ["image_not_fetched"]


def test_compressed_bytes_stay_as_they_are(certificate: Any) -> None:
    """A small file could unpack to gigabytes; a picture is compressed by itself."""
    assert fetched(certificate, answers={"/a.png": ok(PICTURE, "Content-Encoding: gzip")})[0] == [PICTURE]


def test_the_certificate_must_be_the_names(certificate: Any) -> None:
    async def go() -> str | None:
        async with Host(certificate) as host:

            async def resolving(name: str, port: int) -> Sequence[str]:
                return ["127.0.0.1"]

            tls = ssl.create_default_context(cafile=str(certificate[0]))
            fetcher = Fetcher([f"third.example.org:{host.port}"], Limits(), resolving, lambda _: True, tls)
            with pytest.raises(Refusal) as caught:
                await fetcher.fetch(f"https://third.example.org:{host.port}/a.png", 1000)
            return caught.value.code

    assert asyncio.run(asyncio.wait_for(go(), 60)) == "image_not_fetched"


def chat(url: str, args: EndpointArgs) -> Any:
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]
    return call("POST", CHAT, args, json={"messages": [{"role": "user", "content": content}]})


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """URL -> file, in place of Fetcher.fetch."""
    there: dict[str, bytes] = {}

    async def fetch(self: Fetcher, url: str, most: int) -> bytes:
        return there[url]

    monkeypatch.setattr(Fetcher, "fetch", fetch)
    yield there


def test_off_by_default_and_decoded_like_any_other(internet: dict[str, bytes], tmp_path: Path) -> None:
    url = "https://images.example.org/a.html"
    Image.new("RGB", (30, 20), (255, 0, 0)).save(tmp_path / "a.png")
    internet[url] = (tmp_path / "a.png").read_bytes()
    refused = chat(url, EndpointArgs())
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "image_url_scheme")
    args = EndpointArgs(image_hosts=("*.example.org",))
    said = chat(url, args).json()["choices"][0]["message"]["content"]
    assert said.startswith("user | ['30x20 RGB (255, 0, 0)'] | what? | ")
    assert chat(data_url(Image.new("RGB", (4, 4))), args).status_code == 200
    internet[url] = b"<svg/>"
    assert chat(url, args).json()["error"]["code"] == "invalid_image"


@pytest.mark.parametrize(
    "host",
    [
        "",
        "*",
        "*.",
        "localhost",
        "127.0.0.1",
        "[::1]",
        "0x7f.1",
        "a.example.org/x",
        "https://a.example.org",
        "A.example.org",
    ],
)
def test_what_is_no_host_is_refused_when_it_is_deployed(host: str) -> None:
    with pytest.raises(SpecError, match="is no host"):
        EndpointArgs.read({"image_hosts": [host]})
    EndpointArgs.read({"image_hosts": ["a.example.org", "*.example.org:8443"]})
