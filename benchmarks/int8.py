"""What 8-bit layers cost and save: a bundle's answers with float32 and with int8 weights, by the builtin engine.

    OMP_NUM_THREADS=1 python benchmarks/int8.py BUNDLE QUESTIONS.jsonl [--count 400] [--cache DIR]

QUESTIONS has `image` (below the file's folder, in images/ or beside it) and `text` a line, as the demo's do. CPU
seconds of one process and thread. `layers` are those that change: the linear ones in the language model's blocks.
`alone`: some of the questions at batch size 1, encoder and prompt included.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from remora.inference import Answerer, Message, Request
from remora.inference.bundle import with_weights

HEAD = (
    "| weights | layers | tokens a CPU second | a token alone | near ties | equal to float32 | equal alone |",
    "|---|---:|---:|---:|---:|---:|---:|",
)


def requests(answerer: Answerer, file: Path, count: int) -> list[Request]:
    found, opened = [], {}
    for line in file.read_text().splitlines()[:count]:
        said = json.loads(line)
        if said["image"] not in opened:
            places = [folder / said["image"] for folder in (file.parent / "images", file.parent)]
            with Image.open(next(place for place in places if place.exists())) as image:
                opened[said["image"]] = answerer.picture(image.convert("RGB"))
        found.append(Request(answerer.prompt([Message("user", said["text"], (opened[said["image"]],))]), 16))
    return found


def layer_bytes(answerer: Answerer) -> int:
    """Of the linear layers in the language model's blocks."""
    held = 0
    for module in answerer.model.llm.base_model.layers.modules():
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        tensors += [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
        if hasattr(module, "in_features"):
            held += sum(t.element_size() * t.numel() for t in tensors)
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--alone", type=int, default=60)
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("\n".join(HEAD), flush=True)
    first: list[str] = []
    with tempfile.TemporaryDirectory() as made:
        for weights in ("float32", "int8"):
            cache = args.cache or args.bundle.parent.parent / "cache"
            answerer = Answerer.load(with_weights(args.bundle, weights, Path(made)), cache)
            asked = requests(answerer, args.questions, args.count)
            answerer.answer(asked[:8])
            engine, texts = answerer.engine(), dict[int, str]()
            began = time.process_time()
            for request in asked:
                engine.add(request)
            while engine.busy:
                texts |= {event.request: event.answer.text for event in engine.step() if event.answer is not None}
            seconds, stats = time.process_time() - began, engine.stats
            began = time.process_time()
            alone = [answerer.answer_alone(request) for request in asked[: args.alone]]
            per = (time.process_time() - began) / sum(answer.completion_tokens for answer in alone)
            said = [texts[i] for i in range(len(asked))]
            first = first or said
            same = sum(a == b for a, b in zip(first, said, strict=True))
            exact = sum(a.text == b for a, b in zip(alone, said, strict=False))
            print(
                f"| {weights} | {layer_bytes(answerer) / 1e6:.2f} MB | {stats.answer_tokens / seconds:.0f} | "
                f"{1000 * per:.1f} ms | {stats.near_ties} of {stats.answer_tokens} | {same} of {len(said)} | "
                f"{exact} of {len(alone)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
