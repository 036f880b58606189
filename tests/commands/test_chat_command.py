"""`remora chat`: in a pipe and in a terminal, with pictures, stopped, and against what is no endpoint."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from remora.errors import RemoraError, ServingError
from remora.serving.args import EndpointArgs
from remora.serving.keys import ApiKey, hash_of
from remora.serving.session import ChatSession
from support.interrupts import hear_interrupts
from support.scripted_endpoint import PIECES, served
from support.waiting import until

KEY = "rmr-of-the-tests"
WHOLE = "".join(PIECES)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (30, 20), (255, 0, 0)).save(tmp_path / "a picture.png")
    return tmp_path / "a picture.png"


def piped(url: str, lines: str, *options: str, key: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "remora", "chat", url, *options]
    env = {k: v for k, v in os.environ.items() if k != "REMORA_KEY"} | ({"REMORA_KEY": key} if key else {})
    return subprocess.run(command, input=lines, env=env, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_a_pipe_gets_answers_only(picture: Path) -> None:
    with served() as (url, app):
        app.scripted = False
        said = piped(url, "what?\n\n/clear\nand now?\n", "--image", str(picture))
        assert (said.returncode, said.stderr) == (0, "")
        first, second = said.stdout.splitlines()
        assert first.startswith("user | ['30x20 RGB (255, 0, 0)'] | what? | ")
        assert second.startswith("user | [] | and now? | ")
        said = piped(f"{url}/v1/", f"/image '{picture}'\nwhat?\n/quit\nnever", "--system", "Be brief.")
        assert said.stdout.startswith("system,user | ['30x20 RGB (255, 0, 0)'] | what? | ")
        assert said.stdout.count("\n") == 1
        for wrong in ("/image nowhere.png", "/image", "/imag a.png", "/image 'a", "too long"):
            failed = piped(url, f"{wrong}\nnever\n")
            assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (1, "", 1), wrong
            assert failed.stderr.startswith("remora: "), wrong
        assert piped(url, " /clear\n").stdout.startswith("user | [] | /clear | ")


def test_settings_and_conversation() -> None:
    with served() as (url, app):
        app.let.release(2 * len(PIECES))
        options = ("--max-tokens", "9", "--temperature", "0.5", "--model", "remora")
        assert piped(url, "what?\nand?\n", *options).stdout == f"{WHOLE}\n{WHOLE}\n"
        first, second = app.asked
        assert (first["max_tokens"], first["temperature"], first["model"], first["stream"]) == (9, 0.5, "remora", True)
        turns = [("user", "what?"), ("assistant", WHOLE), ("user", "and?")]
        assert [(m["role"], m["content"]) for m in second["messages"]] == turns


@pytest.mark.slow
def test_keys(tmp_path: Path) -> None:
    with served(EndpointArgs(keys={"tests": ApiKey(sha256=hash_of(KEY))})) as (url, app):
        app.scripted = False
        assert piped(url, "what?\n", key=KEY).stdout.startswith("user | [] | what? | ")
        for key in ("", "rmr-wrong", "\u00e9"):
            said = piped(url, "what?\n", key=key)
            assert said.returncode == 1 and said.stderr.count("\n") == 1 and "REMORA_KEY" in said.stderr, key


@pytest.mark.slow
def test_a_terminal(picture: Path) -> None:
    """Typed: pictures, an answer that is stopped by Ctrl-C, a mistake that does not end it, and steering characters."""
    with served() as (url, app):
        app.pieces = ["red\x1b[31m ", "circle"]
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "remora", "chat", url]
        process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=hear_interrupts
        )
        os.close(theirs)
        seen = bytearray()

        def read() -> None:
            try:
                while data := os.read(ours, 65536):
                    seen.extend(data)
            except OSError:  # how Linux says that the other end is closed
                return

        threading.Thread(target=read, daemon=True).start()

        def shown(text: str, times: int = 1) -> None:
            until(text, lambda: seen.decode(errors="replace").count(text) >= times or process.poll() is not None)
            assert process.poll() is None, seen.decode(errors="replace")

        def typed(line: str) -> None:
            os.write(ours, f"{line}\n".encode())

        try:
            shown("> ")
            typed("/image nowhere.png")
            shown("remora: nowhere.png: no such file")
            typed(f"/image '{picture}'")
            shown("with the next question: a picture.png")
            typed("what?")
            app.let.release()
            shown("red\ufffd[31m ")
            process.send_signal(signal.SIGINT)
            shown("stopped]")
            assert app.gone.wait(60)
            typed("and?")
            app.let.release(2)
            shown("circle")
            shown("[remora@3 · first token ")
            assert [m["role"] for m in app.asked[1]["messages"]] == ["user", "assistant", "user"]
            assert len(app.asked[1]["messages"][0]["content"]) == 2
            assert b"\x1b[31m" not in seen
            typed("/help")
            shown("/clear         begin a new conversation")
            typed("/quit")
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
            os.close(ours)


def test_the_pace_is_the_streams() -> None:
    with served() as (url, app):
        app.let.release(len(PIECES))
        ticks = iter(range(100))
        session = ChatSession(url, clock=lambda: next(ticks) / 4)
        assert list(session.ask("what?")) == PIECES
        assert str(session.pace) == "remora@3 · first token 250 ms · 8.8 tokens/s"
        app.cut = True
        app.let.release(len(PIECES))
        with pytest.raises(ServingError, match="cut off"):
            list(session.ask("what?"))


@contextmanager
def says(status: int, content: bytes, kind: str = "text/event-stream") -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-type", kind)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, b"<html>hello</html>"),
        (200, b"data: <html>\n\n"),
        (200, b"data: 3\n\n"),
        (200, b'data: {"choices": [3]}\n\n'),
        (200, b'data: {"choices": [{"delta": 3}]}\n\ndata: [DONE]\n\n'),
        (200, b'data: {"error": {"message": "the model failed"}}\n\n'),
        (500, b"Internal\nServer Error"),
        (502, b'{"error": "bad gateway"}'),
    ],
)
def test_what_is_no_endpoint_is_one_line(status: int, content: bytes) -> None:
    with says(status, content) as url:
        session = ChatSession(url)
        with pytest.raises(RemoraError) as caught:
            list(session.ask("what?"))
        assert "\n" not in str(caught.value) and session.messages == []


@pytest.mark.slow
@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "127.0.0.1:8000", "http://[", "ftp://127.0.0.1", ""])
def test_nobody_there_is_one_line(url: str) -> None:
    said = piped(url, "what?\n")
    assert (said.returncode, said.stderr.count("\n")) == (1, 1) and said.stderr.startswith("remora: "), said.stderr
    assert not re.search("Traceback|unexpected", said.stderr), said.stderr
