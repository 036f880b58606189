"""A worker without vLLM, at the other end of the socket: transformers' model, one request after the other.

    python vllm_standin.py SOCKET < options.json

What it cannot do as vLLM does (a batch, a cache of pages, other kernels) is tested with vLLM itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import sys
import threading

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from remora.inference.requests import Request
from remora.inference.sampling import choose, logprobs
from remora.inference.vllm.wire import Asked, ToldToken, receive, send


class StandinRow:
    """A request, what was said of its answer, and its cache."""

    def __init__(self, asked: Asked, embeddings: torch.Tensor) -> None:
        bias = tuple((token, value) for token, value in asked["logit_bias"])
        self.asked, self.seed, self.said, self.left = asked, asked["seed"], list(asked["said"]), asked["max_new_tokens"]
        self.inputs: dict[str, torch.Tensor] = {"inputs_embeds": embeddings[None]}
        self.cache = DynamicCache()
        self.request = Request(
            (), self.left, asked["temperature"], asked["top_p"], asked["top_k"], logit_bias=bias,
            frequency_penalty=asked["frequency_penalty"], presence_penalty=asked["presence_penalty"],
        )  # fmt: skip


@torch.inference_mode()
def main() -> None:
    peer, options = socket.socket(fileno=int(sys.argv[1])), json.loads(sys.stdin.read())
    torch.set_num_threads(1)
    try:
        llm = AutoModelForCausalLM.from_pretrained(options["model"], attn_implementation="sdpa").eval()
    except Exception as error:
        send(peer, {"failed": str(error).splitlines()[0][:200]})
        raise
    send(peer, {"ready": "none"})
    rows: dict[int, StandinRow] = {}
    came: queue.SimpleQueue[tuple[str, bytearray]] = queue.SimpleQueue()

    def listen() -> None:
        while (frame := receive(peer)) is not None:
            came.put(frame)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        while not came.empty() or not rows:
            text, behind = came.get()
            said = json.loads(text)
            for number in said.get("cancel", []):
                rows.pop(number, None)
            if asked := said.get("add"):
                if asked["max_new_tokens"] == 13:  # what the tests ask it to refuse
                    send(peer, {"refused": (asked["number"], "thirteen")})
                    continue
                rows[asked["number"]] = StandinRow(
                    asked, torch.frombuffer(behind, dtype=torch.float32).view(asked["shape"])
                )
        step: list[ToldToken] = []
        for number, row in list(rows.items()):
            out = llm(**row.inputs, past_key_values=row.cache, use_cache=True, logits_to_keep=1)
            (token,), (tie,) = choose(out.logits[:, -1], [row], options["near"])
            told = None if row.asked["top_logprobs"] is None else logprobs(out.logits[0, -1], token, 5)
            best = [] if told is None else list(told.best)
            step.append(
                ToldToken(number=number, token=token, tie=tie, cached=0, logprob=told and told.token, best=best)
            )
            row.said.append(token)
            row.inputs = {"input_ids": torch.tensor([[token]])}
            row.left -= 1
            if token == row.asked["stop_id"] or not row.left:
                del rows[number]
        with contextlib.suppress(BrokenPipeError):
            send(peer, {"step": step})


if __name__ == "__main__":
    main()
