"""What HTTP, Ray Serve and the ingress add to the engine: one request at a time on an idle endpoint.

    OMP_NUM_THREADS=1 python benchmarks/serve_overhead.py BUNDLE [--count 60]

BUNDLE is the folder of a trained variant. `engine` is the builtin engine in this process; `endpoint` is `remora serve
BUNDLE --no-keys`, asked over one connection that stays open. Times are wall clock, so they need an idle machine.
Answers have exactly 1 or 30 tokens (`ignore_eos`), and times are until their ends. Each picture is the same one every
time, so that the engine has read it, and what is added is its upload and its decoding; the engine gets it at the
encoder's size. Below each row are the CPU milliseconds that a request took in the endpoint's processes.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import torch
from PIL import Image

from remora.inference import Answerer, Message, Request
from remora.serving.engines.builtin import BuiltinEngine

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from support.machine import cpu_name
from support.ports import free_port

QUESTION = "What is in the picture?"
HEAD = (
    "| request | engine p50, ms | endpoint p50, ms | added p50 | added p10 |",
    "|---|---:|---:|---:|---:|",
)


def pictures() -> dict[str, bytes]:
    """Files of about these sizes, of noise, by what they are."""
    found = {}
    for name, kind, side in (
        ("JPEG 0.1 MB", "JPEG", 400),
        ("JPEG 1 MB", "JPEG", 1350),
        ("PNG 1 MB", "PNG", 590),
        ("PNG 7 MB", "PNG", 1530),
        ("JPEG 7 MB", "JPEG", 3560),
    ):
        file = io.BytesIO()
        Image.effect_noise((side, side), 90).convert("RGB").save(file, kind)
        found[f"{name} ({len(file.getvalue()) / 1e6:.1f})"] = file.getvalue()
    return found


def timed(count: int, ask: Callable[[], float]) -> list[float]:
    """Milliseconds of so many requests, in order, after three that do not count."""
    return sorted([ask() for _ in range(count + 3)][3:])


def of_engine(model: Answerer, picture: bytes | None, tokens: int) -> Callable[[], float]:
    """Asks the engine, and returns how many milliseconds the answer took."""
    loop, engine = asyncio.new_event_loop(), BuiltinEngine.of(model, 1 << 28)
    shown = () if picture is None else (model.picture(Image.open(io.BytesIO(picture)).convert("RGB")),)
    request = Request([Message("user", QUESTION, shown)], tokens, ignore_eos=True)

    async def answer() -> float:
        began = time.perf_counter()
        async for _ in engine.submit(request):
            pass
        return 1000 * (time.perf_counter() - began)

    return lambda: loop.run_until_complete(answer())


def of_endpoint(client: httpx.Client, picture: bytes | None, tokens: int, stream: bool) -> Callable[[], float]:
    """The same over HTTP."""
    content: list[dict[str, object]] = [{"type": "text", "text": QUESTION}]
    if picture is not None:
        url = "data:image/any;base64," + base64.b64encode(picture).decode()
        content.append({"type": "image_url", "image_url": {"url": url}})
    body = {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": stream,
    }
    sent = httpx.Request("POST", "/", json=body).content

    def answer() -> float:
        began = time.perf_counter()
        response = client.post("/v1/chat/completions", content=sent, headers={"content-type": "application/json"})
        assert response.status_code == 200, response.text
        return 1000 * (time.perf_counter() - began)

    return answer


def cpu_by_process(pid: int) -> dict[str, float]:
    """CPU seconds of the endpoint's processes, by their names."""
    import psutil

    found: dict[str, float] = {}
    for one in psutil.Process(pid).children(recursive=True):
        try:
            times, name = one.cpu_times(), " ".join(one.cmdline()).split(".")[0].strip()
        except psutil.Error:
            continue
        if "Replica" in name or "Proxy" in name:
            found[name] = found.get(name, 0.0) + times.user + times.system
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--count", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, port = Answerer.load(args.bundle), free_port()
    command = [sys.executable, "-m", "remora", "serve", str(args.bundle), "--no-keys", "--port", str(port)]
    served = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            while True:
                try:
                    if client.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    assert served.poll() is None, command
                time.sleep(1)
            print(f"{args.bundle.name}; {cpu_name()}, {os.cpu_count()} cores", *HEAD, sep="\n", flush=True)
            asked: list[tuple[str, bytes | None, int, bool]] = [
                ("text, 1 token", None, 1, False),
                ("text, 30 tokens", None, 30, False),
                ("text, 30 tokens, streamed", None, 30, True),
                *((f"{name}, 1 token", file, 1, False) for name, file in pictures().items()),
            ]
            for name, picture, tokens, stream in asked:
                before = cpu_by_process(served.pid)
                there = timed(args.count, of_endpoint(client, picture, tokens, stream))
                after = cpu_by_process(served.pid)
                here = timed(args.count, of_engine(model, picture, tokens))
                p50, bare = statistics.median(there), statistics.median(here)
                low = there[len(there) // 10] - here[len(here) // 10]
                print(f"| {name} | {bare:.1f} | {p50:.1f} | {p50 - bare:.1f} | {low:.1f} |", flush=True)
                used = {k: (v - before.get(k, 0)) / (args.count + 3) * 1000 for k, v in after.items()}
                print(
                    "  CPU ms a request: " + ", ".join(f"{k} {v:.1f}" for k, v in used.items() if v >= 0.05), flush=True
                )
    finally:
        served.send_signal(signal.SIGINT)
        served.wait(150)


if __name__ == "__main__":
    main()
