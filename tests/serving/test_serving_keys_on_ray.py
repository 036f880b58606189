"""Keys on Ray Serve: the proxy refuses before a body has come, and follows the file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from remora.serving.keys import add_key, remove_key
from support import serving_fake
from support.ports import free_port
from support.serving_fake import CHAT
from support.waiting import until

FAKE = Path(serving_fake.__file__)
HI = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.ray
def test_the_proxy_checks_keys(tmp_path: Path) -> None:
    file, port = tmp_path / "keys.yaml", free_port()
    key, other = add_key(file, "tests", requests_per_minute=1000), add_key(file, "limited", requests_per_minute=1)
    url = f"http://127.0.0.1:{port}"
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(FAKE.parents[1])}
    log = tmp_path / "log"
    with log.open("w") as out:
        command = [sys.executable, str(FAKE), str(port), "champion", str(file)]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
    try:
        until("the endpoint", lambda: "READY" in log.read_text() or process.poll() is not None, 0.2)
        assert process.poll() is None, log.read_text()

        def ask(key: str) -> int:
            return httpx.post(url + CHAT, json=HI, headers={"Authorization": f"Bearer {key}"}, timeout=30).status_code

        assert httpx.get(f"{url}/healthz").status_code == 200
        assert [httpx.get(url + path).status_code for path in ("/v1/models", "/-/routes")] == [401, 401]
        told = httpx.get(f"{url}/version", headers={"Authorization": f"Bearer {key}"}).json()
        assert told["key_limits_of"] == "proxy"
        assert (ask(key), ask("rmr-none"), ask(other), ask(other)) == (200, 401, 200, 429)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
            raw.sendall(head.encode())  # and nothing of the body
            assert raw.recv(65536).startswith(b"HTTP/1.1 401")
        remove_key(file, "tests")
        until("the removal", lambda: ask(key) == 401, 0.2)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
