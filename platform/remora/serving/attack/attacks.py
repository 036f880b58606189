"""The attacks that send one request after the other. Each is a generator that says what it imitates; what it sends is
in the modules beside it. storms.py has those that send many at once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping

from remora.serving.attack import bodies, connections, pictures
from remora.serving.attack.addresses import FILES, forged
from remora.serving.attack.judge import Shot, Wanted, problem
from remora.serving.attack.listener import listener
from remora.serving.attack.wire import CHAT, Attacked, question, shown
from remora.serving.keys import is_loopback


def bombs(at: Attacked) -> Iterator[Shot]:
    """Decompression bombs: kilobytes that unpack to hundreds of megabytes, in pixels, in a PNG's texts, in its colour
    profile, in entities of XML. Pillow refuses texts above a limit since CVE-2014-9601."""
    yield from _pictures(at, pictures.BOMBS)


def sizes(at: Attacked) -> Iterator[Shot]:
    """Headers that promise 100,000 x 100,000 pixels, so that memory is taken before a pixel is read; and pictures of
    1 x 1 or of one long line, which break what scales them (CVE-2026-22773 in vLLM)."""
    yield from _pictures(at, pictures.SIZES)


def torn(at: Attacked) -> Iterator[Shot]:
    """Files that end early. What Pillow says of them had an address of memory in it, which defeats address space layout
    randomisation: the first half of CVE-2026-22778 in vLLM."""
    yield from _pictures(at, pictures.TORN)


def animated(at: Attacked) -> Iterator[Shot]:
    """Pictures of 301 frames, where each frame that is decoded costs as much as the first."""
    yield from _pictures(at, pictures.ANIMATED)


def mime(at: Attacked) -> Iterator[Shot]:
    """Files called what they are not. A decoder that is chosen by the name, or by trying all, is one more to attack:
    PostScript starts Ghostscript in Pillow, JPEG 2000 was the second half of CVE-2026-22778."""
    yield from _pictures(at, pictures.MIME)


def svg(at: Attacked) -> Iterator[Shot]:
    """Vector graphics that name files of the server: ImageMagick read them (CVE-2016-3717, "ImageTragick")."""
    yield from _pictures(at, pictures.VECTORS)


def polyglots(at: Attacked) -> Iterator[Shot]:
    """Files that are two things at once, a picture for who checks and a script or an archive for who uses them."""
    yield from _pictures(at, pictures.POLYGLOTS)


def base64(at: Attacked) -> Iterator[Shot]:
    """data: URLs that are too long, nested, or encoded in letters of other alphabets. A server that decodes before it
    counts holds the file several times (CVE-2026-100650 in vLLM)."""
    yield from _pictures(at, pictures.BASE64)
    yield _posted(at, "bytes that are too many", shown(pictures.too_many_bytes()), "refused")


def files(at: Attacked) -> Iterator[Shot]:
    """file: URLs and paths in place of a picture; a loader that opens what it is given sends the file to the model."""
    for name, url in FILES.items():
        yield _posted(at, name, shown(url), "refused")


def ssrf(at: Attacked) -> Iterator[Shot]:
    """URLs that have the server ask inside its own network, written so that who checks and who connects read them
    differently: CVE-2025-6242 in vLLM, and CVE-2026-24779, where a backslash passed an allow-list. A listener of the
    attack's own on loopback must see no connection. Redirects from an allowed host and rebinding of its name need such
    a host: tests/serving/test_serving_fetch.py has them."""
    with listener() as watching:
        for name, url in forged(watching.port).items():
            before = watching.seen
            body = shown(url)
            came = at.post(body)
            fetched = "the endpoint connected to this machine" if watching.seen > before else None
            yield Shot(name, len(body), came.short, fetched or problem(came, "refused", body))
        body = question([{"type": "input_image", "image_url": f"http://127.0.0.1:{watching.port}/a.png"}, "what?"])
        came = at.post(body)
        fetched = "the endpoint connected to this machine" if watching.seen > before else None
        yield Shot("another type of part", len(body), came.short, fetched or problem(came, "refused", body))


def json_bodies(at: Attacked) -> Iterator[Shot]:
    """JSON that is deep, endless, cut, doubled, in other encodings; with duplicate keys, of which two parsers take
    different ones; with NaN, NUL and lone surrogates, which fail later, where something is written. Deep nesting
    overflows the stack of parsers that recurse."""
    for name, body in bodies.JSON.items():
        yield _posted(at, name, body, "refused")


def texts(at: Attacked) -> Iterator[Shot]:
    """A template's own tokens, a picture's placeholder without a picture, escapes of a terminal, long runs of one
    character. A server that counts placeholders against pictures fails with a 500."""
    for name, text in bodies.TEXTS.items():
        yield _posted(at, name, question(text), "either")


def settings(at: Attacked) -> Iterator[Shot]:
    """A million answers to one question, biases on tokens that are none, expressions that take exponential time,
    templates that run (CVE-2024-34359 in llama-cpp-python)."""
    for name, more in bodies.SETTINGS.items():
        yield _posted(at, name, question("hi", **more), "either")


def media_types(at: Attacked) -> Iterator[Shot]:
    """Bodies under other names: forms, which a page elsewhere may post unasked (CSRF); a gzip bomb."""
    body = question("hi")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "image/png"):
        yield _posted(at, kind, body, "refused", {"content-type": kind})
    bomb = gzip.compress(bytes(2**26))
    yield _posted(at, "a gzip bomb of 64 MB", bomb, "refused", {"content-encoding": "gzip"})
    yield _posted(at, "another charset", body, "either", {"content-type": "application/json; charset=utf-16"})
    yield _posted(at, "a long name", body, "refused", {"content-type": "a/" + "b" * 10_000})


def lengths(at: Attacked) -> Iterator[Shot]:
    """Bodies whose length is missing, told twice or wrong, on which two servers in a row disagree: request smuggling
    (CVE-2025-43859 in h11)."""
    yield from _connections(at, connections.lengths(at.head))


def headers(at: Attacked) -> Iterator[Shot]:
    """Floods: a thousand headers, a header and a path of a megabyte."""
    yield from _connections(at, connections.floods(at.head))


def protocols(at: Attacked) -> Iterator[Shot]:
    """TLS, HTTP/2, WebSockets and no protocol at all where HTTP/1.1 is expected; paths that lead out of the server."""
    yield from _connections(at, connections.malformed(at.head))


def hosts(at: Attacked) -> Iterator[Shot]:
    """DNS rebinding: a page elsewhere has its own name point at 127.0.0.1 and asks an endpoint that trusts this machine
    (CVE-2024-28224 in Ollama). Without keys, another name in Host is refused."""
    if is_keyed(at) or not is_loopback(at.host):
        return
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "evil.example:127.0.0.1"):
        lines = ["Connection: close", f"Content-Length: {len(connections.BODY)}"]
        data = "\r\n".join([f"POST {CHAT} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode() + connections.BODY
        came = at.said(data)
        yield Shot(host, len(data), came.short, problem(came, "refused"))


def keys(at: Attacked) -> Iterator[Shot]:
    """Guessed keys, and other ways to write a header. How long a refusal takes is not judged: keys are compared by
    their hash (serving/keys.py)."""
    if not is_keyed(at):
        return
    guesses = [f"Bearer rmr-{i:043}" for i in range(100)]
    odd = [
        "Bearer",
        "Bearer  ",
        "Basic YWRtaW46YWRtaW4=",
        "Bearer ' OR 1=1 --",
        "Bearer null",
        "Bearer *",
        "Bearer \xff",
    ]
    for i, value in enumerate([*guesses, *odd, "Bearer " + "a" * 60_000]):
        length = f"Content-Length: {len(connections.BODY)}"
        data = at.head(f"Authorization: {value}", length, keyed=False) + connections.BODY
        came = at.said(data)
        wrong = problem(came, "refused", parser=len(value) > 50_000)
        if wrong is None and came.status == 401 and "www-authenticate" not in came.headers:
            wrong = "401 without WWW-Authenticate"
        yield Shot(f"guess {i + 1}" if i < len(guesses) else ascii(value[:30]), len(data), came.short, wrong)


def paths(at: Attacked) -> Iterator[Shot]:
    """What only holders of a key read, asked without one: by its path, and by paths that a check and a router read
    differently; with headers that proxies trust."""
    if not is_keyed(at):
        return
    trusted = ("X-Original-URL: /healthz", "X-Forwarded-For: 127.0.0.1", "X-HTTP-Method-Override: GET")
    for path in connections.DETOURS:
        for lines in ((), trusted):
            data = at.head(*lines, method="GET", path=path, keyed=False)
            came = at.said(data)
            wrong = problem(came, "either", parser=True)
            if wrong is None and came.status is not None and came.status < 300 and not _is_open(came.body):
                wrong = f"answered with {came.status} without a key"
            yield Shot(f"{path}{' as a proxy' if lines else ''}", len(data), came.short, wrong)


def is_keyed(at: Attacked) -> bool:
    """Whether the endpoint asks for a key."""
    return at.said(at.head(method="GET", path="/v1/models", keyed=False)).status == 401


def _is_open(body: bytes) -> bool:
    """Whether an answer is the health check's: all may read it."""
    try:
        found = json.loads(body)
    except ValueError:
        return False
    return isinstance(found, dict) and "status" in found and "data" not in found


def _pictures(at: Attacked, table: pictures.Pictures) -> Iterator[Shot]:
    for name, (wanted, made) in table.items():
        yield _posted(at, name, shown(made()), wanted)


def _connections(at: Attacked, table: Mapping[str, bytes]) -> Iterator[Shot]:
    for name, data in table.items():
        came = at.said(data, whole=False)
        yield Shot(name, len(data), came.short, problem(came, "either", data, parser=True))


def _posted(at: Attacked, name: str, body: bytes, wanted: Wanted, told: Mapping[str, str] | None = None) -> Shot:
    came = at.post(body, **(told or {}))
    return Shot(name, len(body), came.short, problem(came, wanted, body))
