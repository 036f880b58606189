"""`remora attack`: all ok against the endpoint, and FAILED in the right row against endpoints that are broken on
purpose."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Awaitable, Callable, Iterator

import pytest
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from remora.cli import main
from remora.serving.args import EndpointArgs
from remora.serving.attack import listener, storms
from remora.serving.attack.judge import Wanted, problem
from remora.serving.attack.run import ATTACKS, AttackRow, run
from remora.serving.attack.wire import Attacked, Came
from remora.serving.auth import KeyCheck
from remora.serving.front import Front
from remora.serving.keys import ApiKey, hash_of
from support.listening import listening
from support.serving_fake import fake_api

KEY = "rmr-of-the-tests"
KEYED = {"tests": ApiKey(sha256=hash_of(KEY))}
Broken = Callable[[Scope, bytes], Awaitable[Response | None]]


def endpoint(keys: dict[str, ApiKey] | None = None) -> ASGIApp:
    app: ASGIApp = Front(fake_api(EndpointArgs())[0], body_s=5)
    return app if keys is None else KeyCheck(app, keys)


@pytest.fixture(scope="module")
def open_one() -> Iterator[str]:
    with listening(endpoint()) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def keyed() -> Iterator[str]:
    with listening(endpoint(KEYED)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_the_endpoint_withstands(open_one: str, keyed: str, name: str) -> None:
    of_keys = name in ("keys", "paths")
    at = Attacked(keyed, KEY) if of_keys else Attacked(open_one)
    row, memory = run(at, [name], attack_s=300, run_s=300)
    assert (row.verdict, row.problems) == ("ok", ())
    assert row.shots and row.seconds > 0 and len(row.about) > 40
    assert memory.name == "memory"


def test_what_is_not_there_is_not_attacked(open_one: str, keyed: str) -> None:
    verdicts = {row.name: row.verdict for row in run(Attacked(open_one), ["keys", "paths"])}
    assert (verdicts["keys"], verdicts["paths"]) == ("none", "none")
    assert next(iter(run(Attacked(keyed, KEY), ["hosts"]))).verdict == "none"


class BrokenEndpoint:
    """The endpoint, but for requests that `broken` answers."""

    def __init__(self, broken: Broken) -> None:
        self.app, self.broken = endpoint(), broken

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        held = [await receive()]
        while held[-1].get("more_body"):
            held.append(await receive())
        body = b"".join(message.get("body", b"") for message in held)
        if found := await self.broken(scope, body):
            return await found(scope, receive, send)

        async def again() -> Message:
            return held.pop(0) if held else await receive()

        await self.app(scope, again, send)


def rows_of(app: ASGIApp, *names: str, key: str | None = None) -> dict[str, AttackRow]:
    with listening(app) as port:
        return {row.name: row for row in run(Attacked(f"http://127.0.0.1:{port}", key), names, 300, 300)}


def told(message: str, status: int = 400) -> Response:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": None}
    return JSONResponse({"error": error}, status)


def url_in(body: bytes) -> str:
    try:
        return str(json.loads(body)["messages"][0]["content"][0]["image_url"]["url"])
    except (ValueError, LookupError, TypeError):
        return ""


async def echoes(scope: Scope, body: bytes) -> Response | None:
    torn = len(url_in(body)) < 60 and url_in(body).startswith("data:image/png")
    return told("cannot identify image file <_io.BytesIO object at 0x7f2a4c1e9d50>") if torn else None


async def falls_over_svg(scope: Scope, body: bytes) -> Response | None:
    return told("the model failed", 500) if url_in(body).startswith("data:image/svg") else None


async def fetches(scope: Scope, body: bytes) -> Response | None:
    if url_in(body).startswith("http://127.0.0.1:"):
        with urllib.request.urlopen(url_in(body).partition("#")[0], timeout=5) as found:
            found.read()
        return told("an image cannot be fetched")
    return None


async def follows_files(scope: Scope, body: bytes) -> Response | None:
    return JSONResponse({"choices": []}) if url_in(body).startswith("file:") else None


async def answers_in_text(scope: Scope, body: bytes) -> Response | None:
    return Response("Unprocessable", 422) if body == b"null" else None


async def trusts_any_host(scope: Scope, body: bytes) -> Response | None:
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return JSONResponse({"choices": []}) if hosts and b"evil" in hosts[0] else None


async def says_full_without_when(scope: Scope, body: bytes) -> Response | None:
    return told("full", 503) if b'"n": 2' in body else None


async def obeys_a_turn_in_text(scope: Scope, body: bytes) -> Response | None:
    return told("placeholders and pictures differ", 500) if b"<image>" in body else None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "attack", "beside", "why"),
    [
        (echoes, "torn", "svg", "a library's text"),
        (falls_over_svg, "svg", "torn", "status 500"),
        (fetches, "ssrf", "files", "connected to this machine"),
        (follows_files, "files", "svg", "answered with 200"),
        (answers_in_text, "json-bodies", "files", "no OpenAI error object"),
        (trusts_any_host, "hosts", "svg", "answered with 200"),
        (says_full_without_when, "crowds", "svg", "without Retry-After"),
        (obeys_a_turn_in_text, "texts", "svg", "status 500"),
    ],
)
def test_a_broken_endpoint_fails_in_its_row(broken: Broken, attack: str, beside: str, why: str) -> None:
    found = rows_of(BrokenEndpoint(broken), attack, beside)
    assert found[attack].verdict == "FAILED" and why in found[attack].problems[0]
    assert found[beside].verdict == "ok"


class PassesHealth:
    """A check of keys that looks at a path's beginning alone."""

    def __init__(self) -> None:
        self.app, self.checked = endpoint(), endpoint(KEYED)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        passes = scope["path"] == "/metrics"
        await (self.app if passes else self.checked)(scope, receive, send)


def test_a_path_past_the_check_is_found() -> None:
    row = rows_of(PassesHealth(), "paths", key=KEY)["paths"]
    assert [p for p in row.problems if "answered with 200 without a key" in p] == list(row.problems) != []


class Forgets:
    """An endpoint whose answers change once it has seen a GIF."""

    def __init__(self) -> None:
        self.seen = False
        self.inner = BrokenEndpoint(self.answer)

    async def answer(self, scope: Scope, body: bytes) -> Response | None:
        self.seen |= b"data:image/gif" in body
        if self.seen and b"What is in the picture?" in body:
            return JSONResponse({"choices": [{"message": {"content": "nothing"}}]})
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.inner(scope, receive, send)


def test_another_answer_afterwards_is_found() -> None:
    (wrong,) = rows_of(Forgets(), "polyglots")["polyglots"].problems
    assert wrong == "an ordinary question afterwards: its answer is another one than before"


@pytest.mark.parametrize(
    ("came", "wanted", "why"),
    [
        (Came(200), "answered", None),
        (Came(200), "refused", "not refused"),
        (Came(None, why="timeout"), "either", "no answer"),
        (Came(500), "either", "status 500"),
        (Came(429, b"", {"retry-after": "1"}), "either", "outside of a storm"),
        (Came(400, b"Bad Request"), "refused", "no OpenAI error object"),
        (Came(400, b'{"detail": "x"}'), "refused", "no OpenAI error object"),
        (Came(400, b'{"error": {"message": "x"}}'), "refused", "an error with message"),
        (Came(400, b"x" * 3000), "refused", "3,000 bytes"),
        (Came(200, b"root:x:0:0:root"), "either", "a file of the server"),
    ],
)
def test_what_counts_as_ok(came: Came, wanted: Wanted, why: str | None) -> None:
    found = problem(came, wanted)
    assert found is None if why is None else found is not None and why in found


def test_a_budget_is_held(open_one: str) -> None:
    cut, _ = run(Attacked(open_one), ["json-bodies"], attack_s=0.01)
    assert cut.verdict == "cut" and len(cut.shots) < 5
    late, _ = run(Attacked(open_one), ["svg"], run_s=-1)
    assert late.verdict == "FAILED" and late.problems == ("the run's time was over; next: --only svg",)


def test_the_listener_sees_who_comes() -> None:
    with listener.listener() as watching:
        for path in ("redirect", "a.png"):
            with urllib.request.urlopen(f"http://127.0.0.1:{watching.port}/{path}", timeout=30) as found:
                assert found.read(4) == b"\x89PNG"
        assert watching.seen == 3


def test_a_bystander_tells_of_the_first_that_failed() -> None:
    with storms.BystanderThread(lambda: "no answer") as beside:
        pass
    assert beside.problem == "no answer" and beside.answered == 0


@pytest.mark.slow
def test_the_command(open_one: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["attack", open_one, "--only", "svg", "files"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows] == [["ok", "svg"], ["ok", "files"], ["ok", "memory"]]
    main(["attack", open_one, "--only", "svg", "--json"])
    (found, _) = json.loads(capsys.readouterr().out)
    assert found["name"] == "svg" and found["verdict"] == "ok" and found["shots"][0]["came"] == "400"


def test_a_failure_is_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    with listening(BrokenEndpoint(falls_over_svg)) as port, pytest.raises(SystemExit) as ended:
        main(["attack", f"http://127.0.0.1:{port}", "--only", "svg"])
    assert ended.value.code == "remora: 1 of 2 rows FAILED: svg"
    assert "! svg: status 500" in capsys.readouterr().out


def test_an_attack_that_was_cut_is_exit_1(open_one: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["attack", open_one, "--only", "json-bodies", "--seconds", "0.01"])
    told = "1 cut before all was sent: json-bodies; next: remora attack "
    assert told in str(ended.value.code) and str(ended.value.code).endswith("--seconds 0.05")
    assert "cut    json-bodies" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["http://127.0.0.1:9", "--seconds", "0"], "--seconds is up to 600; found 0"),
        (["http://192.0.2.1:8000"], "192.0.2.1 is not this machine; attack only what you operate"),
        (["http://192.0.2.1:8000", "--host", "192.0.2.2"], "is not this machine"),
        (["ftp://127.0.0.1"], "is no endpoint; expected http://HOST:PORT"),
        (["http://127.0.0.1:x"], "is no endpoint"),
        (["http://127.0.0.1:9", "--only", "svgs"], "no attack 'svgs'; did you mean 'svg'?"),
        (["http://127.0.0.1:9"], "an ordinary question is not answered (closed (ConnectError)), so nothing was sent"),
    ],
)
def test_what_is_refused(words: list[str], why: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["attack", *words])
    assert why in str(ended.value.code)


@pytest.mark.slow
def test_an_endpoint_with_keys_needs_one(keyed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REMORA_KEY", raising=False)
    with pytest.raises(SystemExit, match=r"next: export REMORA_KEY=KEY"):
        main(["attack", keyed])
    monkeypatch.setenv("REMORA_KEY", KEY)
    main(["attack", keyed, "--only", "keys"])
