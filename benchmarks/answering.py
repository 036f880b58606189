"""Questions per second, batched and one at a time, and what batching changes: writes results/answering.md.

    python benchmarks/answering.py BUNDLE DATA     # ~/remora/bundles/base-Eff-2M-mlp-… ~/remora/data, of `remora demo`

One at a time is `Answerer.answer_alone`, which encodes the picture for each question, as harnesses with batch
size 1 do. Both are timed in one process, alternating.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM

from remora import catalog
from remora.catalog.compatibility import check_composition
from remora.inference import Answerer, Message, Request
from remora.inference.decoding import SlotBatch, WholeBatch
from remora.inference.sampling import NEAR
from remora.model.connectors import build_connector
from remora.model.llm import train_tokenizer
from remora.model.vision import build_tower
from remora.model.vlm import VisionLanguageModel
from remora.reading.prompt import Prompter

RESULTS = Path(__file__).parent / "results" / "answering.md"
WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfgklmnprst"]
"""720 words of one token each."""
LLM = "smollm2-135m"
Conversations = list[list[Message]]


@dataclass(frozen=True)
class Work:
    """Questions like a benchmark's: questions per picture, words with their suffix, tokens of an answer."""

    name: str
    a_picture: int
    words: tuple[int, int]
    answer: int
    questions: int = 0
    """Size of the benchmark, and its weight in the mix; 0 if it is not part of it."""


WORK = (
    Work("several questions a picture", 10, (18, 30), 3),
    Work("mixed lengths, a picture each", 1, (20, 250), 3),
    Work("a caption each", 1, (10, 20), 48),
    Work("like VQAv2", 5, (18, 26), 3, 107_394),
    Work("like GQA", 32, (18, 34), 3, 12_578),
    Work("like POPE", 18, (18, 26), 2, 8_910),
    Work("like TextVQA with OCR tokens", 2, (50, 200), 4, 5_000),
    Work("like MMBench", 1, (50, 130), 2, 4_377),
)
"""Questions and questions per picture are the benchmarks'; words and answers are estimates, not measured."""


WHY = (
    "A token of an answer costs a pass over all weights, and 64 rows together take about four times as long as",
    "one: long answers gain most. A prompt is a product of matrices at batch size 1 too, so it gains only what it",
    "shares: the picture's tokens and its encoding, by as many questions as the picture has. Where each picture",
    "has one question and the answer is a word, reading is nearly everything, and the CPU was busy before.",
)


@dataclass(frozen=True)
class Timed:
    """Seconds per question, for each turn."""

    alone: list[float]
    together: list[float]

    def row(self, name: str, about: str) -> str:
        faster = [a / b for a, b in zip(self.alone, self.together, strict=True)]
        alone, together = (1 / statistics.median(s) for s in (self.alone, self.together))
        spread = f"{min(faster):.1f} to {max(faster):.1f}"
        return f"| {name} | {about} | {alone:.3g} | {together:.3g} | **{statistics.median(faster):.1f} x** ({spread}) |"


HEAD = [
    "| questions | a picture | prompt, tokens | answer, tokens | one at a time, a second | batched | faster |",
    "|---|---|---|---|---|---|---|",
]


def seconds(run: Callable[[], object]) -> float:
    """CPU time if there is one thread, so that other work on the machine does not count; else wall-clock time."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    return clock() - start


def timed(answerer: Answerer, asked: Conversations, few: int, limit: int, turns: int) -> Timed:
    """`few` of the questions are asked one at a time, all of them together."""
    found = Timed([], [])
    some = asked[:: len(asked) // few][:few]
    for _ in range(turns):
        alone = seconds(lambda: [answerer.answer_alone(Request(c, limit)) for c in some])
        found.alone.append(alone / len(some))
        found.together.append(seconds(lambda: answerer.answer([Request(c, limit) for c in asked])) / len(asked))
    return found


def conversations(work: Work, count: int) -> Conversations:
    """At least `count`, and all questions about each picture."""
    draw = random.Random(0)
    asked: Conversations = []
    while len(asked) < count:
        picture = Image.effect_noise((160, 120), draw.uniform(20, 120)).convert("RGB")
        for _ in range(work.a_picture):
            asked.append([Message("user", " ".join(draw.choices(WORDS, k=draw.randint(*work.words))), (picture,))])
    return asked


def untrained(vision: str) -> Answerer:
    """A model of these shapes with random weights. It never stops, so every answer has its maximum length."""
    torch.manual_seed(0)
    encoder, entry, connector = catalog.vision(vision), catalog.llm(LLM), catalog.connector("mlp2x_gelu")
    template = catalog.template("vicuna")
    tokenizer = train_tokenizer([f"{template.system} USER: {w} {w} {w} ASSISTANT: {w}" for w in WORDS], 2400)
    tokens = check_composition(encoder, connector, entry)
    model = VisionLanguageModel(
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**entry.config), attn_implementation="sdpa"),
        build_tower(encoder, pretrained=encoder.package is not None),
        build_connector(connector, encoder.width, entry.hidden),
        encoder.input_size,
        tokens,
    )
    answerer = Answerer(LLM, model, Prompter(template, tokenizer, tokens), vision)
    answerer.stop_id = -1
    return answerer


def shapes(vision: str, works: Sequence[Work], count: int, turns: int) -> list[str]:
    answerer, lines, parts = untrained(vision), [*HEAD], []
    for work in works:
        asked = conversations(work, count)
        found = timed(answerer, asked, 2, work.answer, turns)
        prompt = statistics.mean(len(answerer.prompt(c).ids) for c in asked)
        lines.append(found.row(work.name, f"{work.a_picture} | {prompt:.0f} | {work.answer}"))
        parts += [(work.questions, found)] if work.questions else []
    total = sum(n for n, _ in parts)
    mix = (
        [sum(n * seconds_of(f)[turn] for n, f in parts) / total for turn in range(turns)]
        for seconds_of in (lambda f: f.alone, lambda f: f.together)
    )
    lines.append(Timed(*mix).row(f"all {total:,} of the last {len(parts)}", " | | "))
    return lines


def demo_questions(data: Path, count: int) -> Conversations:
    """The first questions of easy-VQA's test file; those about one picture show the same object."""
    lines = (data / "demo" / "easy-vqa-test.jsonl").read_text().splitlines()[:count]
    questions = [json.loads(line) for line in lines]
    opened = {q["image"]: Image.open(data / "demo" / "images" / q["image"]).convert("RGB") for q in questions}
    return [[Message("user", q["text"], (opened[q["image"]],))] for q in questions]


def open_questions(asked: Conversations) -> Conversations:
    """Questions about the same pictures that the model was not trained on: random words."""
    draw = random.Random(0)
    return [[Message("user", " ".join(draw.choices(WORDS, k=draw.randint(1, 20))), c[0].images)] for c in asked]


def logits_apart(answerer: Answerer, asked: Conversations, limit: int) -> tuple[float, int, int]:
    """Rows decoded in a batch and one by one, with the tokens chosen one by one: the largest difference of logits in
    units of the row's largest, the number of near ties, and the number of choices."""
    llm, edge = answerer.model.llm, NEAR[answerer.dtype]
    far, near, choices = 0.0, 0, 0
    prompts = sorted((answerer.prompt(c) for c in asked), key=lambda prompt: (prompt.body, len(prompt.ids)))
    with torch.inference_mode():
        for start in range(0, len(prompts), 48):
            some = prompts[start : start + 48]
            pictures = list({p.digest: p for prompt in some for p in prompt.pictures}.values())
            shown = dict(zip([p.digest for p in pictures], answerer.embeddings(pictures, 16), strict=True))
            by_itself = {p.digest: answerer.embeddings([p])[0] for p in pictures}
            together = SlotBatch(llm, 1 << 30)
            together.resize(len(some), max(len(prompt.ids) for prompt in some) + limit)
            rows = [together.join(prompt) for prompt in some]
            _, found = together.step([], [(row, row.unread) for row in rows], shown)
            alone = [WholeBatch(llm, [prompt], by_itself) for prompt in some]
            for _ in range(limit):
                logits = torch.cat([one.logits for one in alone])
                largest = logits.abs().amax(-1)
                far = max(far, float(((found - logits).abs().amax(-1) / largest).max()))
                best = logits.topk(2, dim=-1).values
                near += int((best[:, 0] - best[:, 1] <= edge * largest).sum())
                choices += len(some)
                tokens = logits.argmax(-1).tolist()
                _, found = together.step(list(zip(rows, tokens, strict=True)), [], shown)
                for one, token in zip(alone, tokens, strict=True):
                    one.step([token])
    return far, near, choices


def answers_apart(answerer: Answerer, asked: Conversations, limit: int) -> str:
    """How many answers differ from those at batch size 1, by number of questions per call."""
    alone = [answerer.answer_alone(Request(c, limit)) for c in asked]
    counts = []
    for call in (2, 7, 32, 300):
        calls = (asked[start : start + call] for start in range(0, len(asked), call))
        found = [answer for some in calls for answer in answerer.answer([Request(c, limit) for c in some])]
        counts.append(f"{sum(a != b for a, b in zip(found, alone, strict=True))}")
    return " | ".join(counts)


def apart(name: str, answerer: Answerer, asked: Conversations, limit: int) -> str:
    far, near, choices = logits_apart(answerer, asked[:960], limit)
    return f"| {name} | {len(asked):,} | {far:.1e} | {near} of {choices:,} | {answers_apart(answerer, asked, limit)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--count", type=int, default=32, help="questions of each kind")
    parser.add_argument("--demo", type=int, default=1000, help="questions of the demo")
    parser.add_argument("--threads", type=int, default=1, help="with more than one, seconds are the clock's")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    unit = "CPU seconds of one thread" if args.threads == 1 else f"Seconds on {args.threads} threads"
    demo = Answerer.load(args.bundle)
    asked = demo_questions(args.data, args.demo)
    a_picture = len(asked) / len({id(c[0].images[0]) for c in asked})
    text = [
        "# Answering",
        "",
        f"`benchmarks/answering.py BUNDLE DATA`: {platform.machine()}, {os.cpu_count()} cores, fp32, 2026-11-21.",
        f"{unit}, medians of {args.turns} turns; in brackets the slowest and the fastest turn.",
        "",
        *WHY,
        "",
        "## The demo's model on easy-VQA's test questions",
        "",
        *HEAD,
        timed(demo, asked, 100, 8, args.turns).row(demo.name, f"{a_picture:.0f} | 22 | 2"),
    ]
    for vision in ("efficientnet-lite0", "siglip2-base-224"):
        tokens = catalog.vision(vision).tokens
        text += ["", f"## {LLM} with {vision}, {tokens} tokens a picture, random weights", ""]
        text += shapes(vision, WORK, args.count, args.turns)
    text += [
        "",
        "## What a batch changes",
        "",
        "| demo's model | questions | logits apart | near ties | other answers in calls of 2 | 7 | 32 | 300 |",
        "|---|---|---|---|---|---|---|---|",
        apart("easy-VQA test", demo, asked, 4),
        apart("words at random", demo, open_questions(asked), 16),
    ]
    RESULTS.write_text("\n".join(text) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
