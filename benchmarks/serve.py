"""The builtin engine beside transformers' `generate`, one at a time: writes results/serve.md.

    OMP_NUM_THREADS=1 python benchmarks/serve.py 34M [--pictures 1|10] [--clients 1 4 16 32] [--count 32]

One process, one thread, fp32 on a CPU. Clients ask one question after the other; all are asked in one event loop,
without HTTP. Everything is in CPU seconds of the process, so that other work on the machine counts little; an idle
machine's clock shows the same, since the process never waits. `first` is from a question to its first token, `gap`
from a token to the next.

The models have random weights and never stop, so an answer is as long as its request allows: log-normal lengths. The
tower is a ViT of 192 x 12 with 196 tokens a picture, the language model a Llama of 512 x 8 (34M) or SmolLM2-135M's
(135M). Each run appends its table.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM

from remora import catalog
from remora.catalog import Vision
from remora.inference import Answerer, Message, Request
from remora.inference.products import pack
from remora.model.connectors import build_connector
from remora.model.llm import train_tokenizer
from remora.model.vision import build_tower
from remora.model.vlm import VisionLanguageModel
from remora.reading.images import preprocess
from remora.reading.prompt import Prompter
from remora.serving.engines.builtin import BuiltinEngine

RESULTS = Path(__file__).parent / "results" / "serve.md"
WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfgklmnprst"]
"""720 words of one token each."""
LLAMA = {
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
TOWER = Vision(
    short="vit",
    loader="transformers",
    hub="none/vit",
    config={
        "model_type": "siglip_vision_model",
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 3,
        "image_size": 224,
        "patch_size": 16,
    },
    image_size=224,
    tokens=196,
    width=192,
    blocks=12,
    layer=-2,
    prefix=0,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    fit="stretch",
    parameters=1,
    licence="none",
    source="random",
)
HEAD = (
    "| clients | tokens a CPU second | against one at a time | first p50 | p95 | gap p50 | p95 | longest |",
    "|---|---|---|---|---|---|---|---|",
)


def answerer(shape: str) -> Answerer:
    """A model of random weights that never stops."""
    torch.manual_seed(0)
    config = LLAMA if shape == "34M" else catalog.llm("smollm2-135m").config
    template = catalog.template("vicuna")
    tokenizer = train_tokenizer([f"{template.system} USER: {w} {w} {w} ASSISTANT: {w}" for w in WORDS], 2400)
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="sdpa")
    tower = build_tower(TOWER, pretrained=False)
    connector = build_connector(catalog.connector("mlp2x_gelu"), TOWER.width, int(config["hidden_size"]))
    model = VisionLanguageModel(llm, tower, connector, TOWER.image_size, TOWER.tokens)
    made = Answerer(shape, model, Prompter(template, tokenizer, TOWER.tokens), "siglip2-base-224")
    made.encoder = TOWER
    made.stop_id = -1
    return made


def questions(model: Answerer, count: int, a_picture: int, seed: int = 0) -> list[Request]:
    """Questions of 8 to 30 words, `a_picture` of them about each picture; answers of 4 to 128 tokens, 36 on average."""
    draw, made = random.Random(seed), []
    for i in range(count):
        if i % a_picture == 0:
            picture = model.picture(Image.effect_noise((224, 224), draw.uniform(20, 120)).convert("RGB"))
        words = " ".join(draw.choices(WORDS, k=draw.randint(8, 30)))
        length = min(128, max(4, round(draw.lognormvariate(3.3, 0.75))))
        made.append(Request(model.prompt([Message("user", words, (picture,))]), length))
    return made


@dataclass
class Measured:
    """CPU seconds of a run, and of its parts."""

    tokens: int = 0
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    answers: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    def row(self, name: str, base: float) -> str:
        shown = [*(f"{at(each, p):.3f}" for each in (self.first, self.gaps) for p in (0.5, 0.95))]
        return f"| {name} | {self.rate:.1f} | {self.rate / base:.2f} | {' | '.join(shown)} | {max(self.gaps):.3f} |"


def at(values: list[float], part: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(part * 100) - 1] if len(values) > 1 else 0.0


@torch.inference_mode()
def one_at_a_time(model: Answerer, asked: list[Request]) -> Measured:
    """transformers' `generate`, each picture encoded for its question."""
    found, clock = Measured(), time.process_time
    began = clock()

    class Listener:
        """Sees every token as it comes."""

        def __init__(self) -> None:
            self.last = clock()
            self.first, self.prompt = True, True

        def put(self, tokens: torch.Tensor) -> None:
            if self.prompt:  # which comes first
                self.prompt = False
                return
            (found.first if self.first else found.gaps).append(clock() - self.last)
            self.last, self.first = clock(), False

        def end(self) -> None: ...

    llm = model.model.llm
    llm.generation_config.pad_token_id = 0
    for i, request in enumerate(asked):
        listener, prompt = Listener(), request.conversation
        pixels = torch.stack([preprocess(each.image, TOWER) for each in prompt.pictures])  # type: ignore[union-attr]
        inputs = model.model.embed(torch.tensor([prompt.ids]), pixels)  # type: ignore[union-attr]
        said = llm.generate(
            inputs_embeds=inputs,
            max_new_tokens=request.max_new_tokens,
            min_new_tokens=request.max_new_tokens,
            do_sample=False,
            streamer=listener,
        )
        found.answers[i] = tuple(said[0].tolist()[-request.max_new_tokens :])
        found.tokens += request.max_new_tokens
    found.seconds = clock() - began
    return found


def together(model: Answerer, asked: list[Request], clients: int, make: Callable[[], BuiltinEngine]) -> Measured:
    """The builtin engine, with so many clients that each ask the next question when they have an answer."""
    found, clock, waiting = Measured(), time.process_time, list(enumerate(asked))[::-1]

    async def client(engine: BuiltinEngine) -> None:
        while waiting:
            number, request = waiting.pop()
            last, first, tokens = clock(), True, []
            async for delta in engine.submit(request):
                (found.first if first else found.gaps).append(clock() - last)
                last, first = clock(), False
                tokens += delta.tokens
            found.answers[number] = tuple(tokens)
            found.tokens += len(tokens)

    async def run() -> None:
        engine = make()
        warm = questions(model, 2, 1, seed=99)
        for request in warm:
            async for _ in engine.submit(request):
                pass
        began = clock()
        await asyncio.gather(*(client(engine) for _ in range(clients)))
        found.seconds = clock() - began
        await engine.drain()

    asyncio.run(run())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=("34M", "135M"))
    parser.add_argument("--pictures", type=int, default=1, help="questions a picture")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--alone", type=int, default=16, help="questions that are asked one at a time")
    parser.add_argument("--chunk", type=int, help="tokens of prompts in a step")
    parser.add_argument("--dry", action="store_true", help="print only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = answerer(args.shape)
    asked = questions(model, args.count, args.pictures)
    one_at_a_time(model, asked[:1])
    alone = one_at_a_time(model, asked[: args.alone])
    size = sum(p.numel() for p in model.model.parameters()) / 1e6
    pack(model.model)  # as `Answerer.load` does
    about = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(line.split(":")[1].strip() for line in about if line.startswith("model name"))
    per = "a question a picture" if args.pictures == 1 else f"{args.pictures} questions a picture"
    lines = [
        f"## {args.shape}, {per}",
        "",
        f"{size:.1f} M parameters, {len(asked)} questions, {sum(r.max_new_tokens for r in asked)} tokens of answers; "
        f"{cpu}, {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, {datetime.date.today()}.",
        "",
        *HEAD,
        alone.row("`generate`", alone.rate),
    ]
    print("\n".join(lines), flush=True)
    options = {} if args.chunk is None else {"chunk": args.chunk}
    for clients in args.clients:
        some = asked[: max(8, min(len(asked), 4 * clients))]
        found = together(model, some, clients, lambda: BuiltinEngine.of(model, 1 << 30, **options))
        equal = sum(found.answers.get(i) == answer for i, answer in alone.answers.items() if i < len(some))
        lines.append(found.row(str(clients), alone.rate))
        print(lines[-1], f"equal {equal} of {min(len(some), len(alone.answers))}", flush=True)
    if not args.dry:
        with RESULTS.open("a") as out:
            out.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    main()
