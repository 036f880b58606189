"""The engines beside each other (serve_sides.py): writes results/serve.md.

    make vllm; export REMORA_VLLM_PYTHON=$PWD/.venv-vllm/bin/python
    OMP_NUM_THREADS=1 python benchmarks/serve.py 34M [--sides transformers builtin vllm] [--pictures 1|10] [--clients …]

One thread, fp32 on a CPU. Clients ask one question after the other; all are asked in one event loop, without HTTP.
Everything is in CPU seconds of the process (vLLM's: of both), so that other work on the machine counts little; an idle
machine's clock shows the same for one process, which never waits, and less for two. `first` is from a question to its
first token, `gap` from a token to the next.

The models have random weights and never stop, so an answer is as long as its request allows: log-normal lengths. The
tower is a ViT of 192 x 12 with 196 tokens a picture, the language model a Llama of 512 x 8 (34M) or SmolLM2-135M's
(135M). Each run appends its table.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from serve_sides import Measured, builtin, one_at_a_time, transformers, vllm
from transformers import AutoConfig, AutoModelForCausalLM
from transformers import __version__ as TRANSFORMERS

from remora import catalog
from remora.catalog import Vision
from remora.inference import Answerer, Message, Request
from remora.inference.products import pack
from remora.model.connectors import build_connector
from remora.model.llm import train_tokenizer
from remora.model.vision import build_tower
from remora.model.vlm import VisionLanguageModel
from remora.reading.prompt import Prompter

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from support.machine import cpu_name

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
SIDES = ("transformers", "builtin", "vllm")
HEAD = (
    "| side | clients | tokens a CPU second | to `generate` | first p50 | p95 | gap p50 | p95 | longest | equal |",
    "|---|---|---|---|---|---|---|---|---|---|",
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=("34M", "135M"))
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--pictures", type=int, default=1, help="questions a picture")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--alone", type=int, default=16, help="questions that are asked one at a time")
    parser.add_argument("--chunk", type=int, help="builtin: tokens of prompts in a step")
    parser.add_argument("--dry", action="store_true", help="print only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = answerer(args.shape)
    asked, warm = questions(model, args.count, args.pictures), questions(model, 2, 1, seed=99)
    one_at_a_time(model, asked[:1])
    alone = one_at_a_time(model, asked[: args.alone])
    size = sum(p.numel() for p in model.model.parameters()) / 1e6
    per = "a question a picture" if args.pictures == 1 else f"{args.pictures} questions a picture"
    lines = [
        f"## {args.shape}, {per}",
        "",
        f"{size:.1f} M parameters, {len(asked)} questions, {sum(r.max_new_tokens for r in asked)} tokens of answers; "
        f"{cpu_name()}, {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, transformers "
        f"{TRANSFORMERS}, {datetime.date.today()}.",
        "",
        *HEAD,
        alone.row("`generate`", 1, alone),
    ]
    print("\n".join(lines), flush=True)

    def measure(side: str, run: Callable[[list[Request], int], Measured]) -> None:
        for clients in args.clients if side in args.sides else ():
            some = asked[: max(8, min(len(asked), 4 * clients))]
            lines.append(run(some, clients).row(side, clients, alone))
            print(lines[-1], flush=True)

    with tempfile.TemporaryDirectory() as folder:
        llm = Path(folder) / "llm"
        model.model.llm.save_pretrained(llm)
        measure("transformers", lambda some, clients: transformers(model, some, warm, clients))
        pack(model.model)  # as `Answerer.load` does
        options = {} if args.chunk is None else {"chunk": args.chunk}
        measure("builtin", lambda some, clients: builtin(model, some, warm, clients, **options))
        measure("vllm", lambda some, clients: vllm(model, llm, some, warm, clients))
    if not args.dry:
        with RESULTS.open("a") as out:
            out.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    main()
