"""Requests per second of the endpoint: two replicas of a small model with random weights, over loopback.

    python benchmarks/serve.py [--clients 16] [--count 240] [--turns 3]

The model never stops, so an answer is as long as its request allows. `equal`: 16 greedy tokens each; `limits`: 4 to
28 tokens, 16 on average; `sampled`: 16 tokens at temperature 0.7, one seed each; `settings`: both. The kinds are
requested in turns, because a machine's pace drifts. docs/serving.md keeps the results.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import random
import signal
import socket
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from PIL import Image

from remora.serving.args import EndpointArgs
from remora.serving.champion import ServedModel
from remora.serving.deploy import serve_forever

LENGTHS = (4, 8, 16, 24, 28)


def load(args: EndpointArgs) -> ServedModel:
    """A model of the demo's size: EfficientNet-Lite0 and a Llama of 2 M parameters."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from remora import catalog
    from remora.catalog.compatibility import check_composition
    from remora.inference import Answerer
    from remora.model.connectors import build_connector
    from remora.model.llm import train_tokenizer
    from remora.model.vision import build_tower
    from remora.model.vlm import VisionLanguageModel
    from remora.reading.prompt import Prompter

    torch.manual_seed(0)
    encoder, entry = catalog.vision("efficientnet-lite0"), catalog.llm("demo-2m")
    connector, template = catalog.connector("mlp2x_gelu"), catalog.template("vicuna")
    tokenizer = train_tokenizer([f"{template.system} USER: red blue ASSISTANT: yes no"] * 50, 600)
    tokens = check_composition(encoder, connector, entry)
    model = VisionLanguageModel(
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**entry.config), attn_implementation="sdpa"),
        build_tower(encoder, pretrained=True),
        build_connector(connector, encoder.width, entry.hidden),
        encoder.input_size,
        tokens,
    )
    answerer = Answerer("small", model, Prompter(template, tokenizer, tokens), "efficientnet-lite0")
    answerer.stop_id = -1
    return ServedModel(answerer, "1")


def body(kind: str, number: int) -> dict[str, Any]:
    draw = random.Random(number)
    out = io.BytesIO()
    Image.new("RGB", (64, 64), tuple(draw.randrange(256) for _ in range(3))).save(out, "PNG")
    url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "red blue yes no"[: 4 + number % 9]},
    ]
    made: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "max_tokens": 16, "temperature": 0}
    if kind in ("limits", "settings"):
        made["max_tokens"] = LENGTHS[number % len(LENGTHS)]
    if kind in ("sampled", "settings"):
        made |= {"temperature": 0.7, "seed": number}
    return made


def measure(url: str, clients: int, count: int, turns: int) -> None:
    rates: dict[str, list[float]] = {"equal": [], "limits": [], "sampled": [], "settings": []}
    failed = 0
    with (
        ThreadPoolExecutor(clients) as pool,
        httpx.Client(
            base_url=url, timeout=120, trust_env=False, limits=httpx.Limits(max_connections=clients)
        ) as client,
    ):

        def ask(sent: dict[str, Any]) -> int:
            return client.post("/v1/chat/completions", json=sent).status_code

        list(pool.map(ask, [body("settings", i) for i in range(4 * clients)]))  # warm
        for _ in range(turns):
            for kind, found in rates.items():
                bodies = [body(kind, i) for i in range(count)]
                began = time.monotonic()
                failed += sum(status != 200 for status in pool.map(ask, bodies))
                found.append(count / (time.monotonic() - began))
    for kind, found in rates.items():
        shown = ", ".join(f"{rate:.1f}" for rate in found)
        print(f"| {kind} | {statistics.median(found):.1f} | {shown} |", flush=True)
    print(f"failed: {failed}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def ready(url: str) -> None:
        def run() -> None:
            try:
                measure(url, args.clients, args.count, args.turns)
            finally:
                os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=run).start()

    serve_forever(EndpointArgs(max_replicas=2, no_keys=True), port=port, ready=ready, load=load)


if __name__ == "__main__":
    main()
