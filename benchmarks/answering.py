"""Questions a second, batched against one at a time, and how far their logits differ: writes results/answering.md.

    python benchmarks/answering.py [BUNDLE DATA]      # ~/remora/bundles/base-Eff-2M-mlp-… ~/remora/data, of remora demo

Both ways in one process and in turns. One at a time is `Answerer.answer_alone`, which encodes the picture for each
question, as harnesses do that ask at batch size 1.
"""

from __future__ import annotations

import argparse
import datetime
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
from remora.catalog.fit import check_composition
from remora.data.prompt import Prompter
from remora.inference import Answerer, Turn
from remora.inference.decoding import NEAR
from remora.inference.reading import read_shared, read_whole
from remora.model.connectors import build_connector
from remora.model.llm import train_tokenizer
from remora.model.vision import build_tower
from remora.model.vlm import VisionLanguageModel

RESULTS = Path(__file__).parent / "results" / "answering.md"
WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfgklmnprst"]
"""720 words, a token each."""
CALL = 192
"""Conversations of a call, at most."""
Conversations = list[list[Turn]]


@dataclass(frozen=True)
class Work:
    """Questions like a benchmark's: how many a picture, how many words with their suffix, tokens of an answer."""

    name: str
    a_picture: int
    words: tuple[int, int]
    answer: int
    questions: int = 0
    """What the benchmark has, the weight in the mix; 0 where it is none of it."""


WORK = (
    Work("several questions a picture", 10, (18, 30), 3),
    Work("mixed lengths, a picture each", 1, (20, 250), 3),
    Work("a caption each", 1, (10, 20), 48),
    Work("like GQA", 32, (18, 34), 3, 12_578),
    Work("like POPE", 18, (18, 26), 2, 8_910),
    Work("like MME", 2, (20, 60), 2, 2_374),
    Work("like TextVQA with OCR tokens", 2, (50, 200), 4, 5_000),
    Work("like ScienceQA-IMG", 1, (50, 250), 2, 2_017),
    Work("like MMBench", 1, (50, 130), 2, 4_377),
    Work("like MM-Vet", 1, (15, 50), 96, 218),
)
"""Questions a picture and how many there are: the benchmarks' own. Words: a range that their prompts
suggest, assumed. VQAv2's test-dev is left out: its 107,394 questions, six a picture, would be three quarters."""


def conversations(work: Work, count: int, seed: int) -> Conversations:
    draw = random.Random(seed)
    asked: Conversations = []
    while len(asked) < count:
        picture = Image.effect_noise((160, 120), draw.uniform(20, 120)).convert("RGB")
        for _ in range(work.a_picture):
            text = " ".join(draw.choices(WORDS, k=draw.randint(*work.words)))
            asked.append([Turn("user", text, (picture,))])
    return asked[:count]


def untrained(vision: str, llm: str) -> Answerer:
    """A model of these shapes with random weights: it never stops, so every answer has as many tokens as it may."""
    torch.manual_seed(0)
    encoder, entry = catalog.vision(vision), catalog.llm(llm)
    connector = catalog.connector("mlp2x_gelu")
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
    answerer = Answerer(llm, model, Prompter(template, tokenizer, tokens), vision)
    answerer.stop_id = -1
    return answerer


def in_calls(answerer: Answerer, asked: Conversations, limit: int) -> list[object]:
    calls = range(0, len(asked), CALL)
    return [a for start in calls for a in answerer.answer(asked[start : start + CALL], max_new_tokens=limit)]


def seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


@dataclass(frozen=True)
class Timed:
    """Seconds a question, a figure for each turn."""

    alone: list[float]
    together: list[float]

    @property
    def faster(self) -> list[float]:
        return [a / b for a, b in zip(self.alone, self.together, strict=True)]


def timed(
    answerer: Answerer, asked: Conversations, sample: int, limit: int, turns: int, clock: Callable[[], float]
) -> Timed:
    """`sample` of the questions are asked one at a time, evenly spread; all of them together."""
    few = asked[:: max(1, len(asked) // sample)][:sample]
    found = Timed([], [])
    for _ in range(turns):
        one = seconds(lambda: [answerer.answer_alone(c, max_new_tokens=limit) for c in few], clock)
        found.alone.append(one / len(few))
        found.together.append(seconds(lambda: in_calls(answerer, asked, limit), clock) / len(asked))
    return found


def row(name: str, about: str, found: Timed) -> str:
    alone, together = statistics.median(found.alone), statistics.median(found.together)
    low, high = min(found.faster), max(found.faster)
    faster = f"**{statistics.median(found.faster):.1f} x** ({low:.1f} to {high:.1f})"
    return f"| {name} | {about} | {1 / alone:.2f} | {1 / together:.2f} | {faster} |"


HEAD = [
    "| questions | a picture | prompt | answer | one at a time, a second | batched, a second | faster |",
    "|---|---|---|---|---|---|---|",
]


def shapes(
    vision: str, llm: str, works: Sequence[Work], count: int, turns: int, clock: Callable[[], float]
) -> list[str]:
    answerer = untrained(vision, llm)
    lines, mix = [*HEAD], []
    for work in works:
        # Whole pictures, so that none is asked about less often than the benchmark does.
        asked = conversations(work, -(-count // work.a_picture) * work.a_picture, 0)
        prompt = statistics.mean(len(answerer._row(c, 1).ids) for c in asked)
        found = timed(answerer, asked, 3 if work.answer > 9 else 5, work.answer, turns, clock)
        lines.append(row(work.name, f"{work.a_picture} | {prompt:.0f} | {work.answer}", found))
        print(lines[-1], flush=True)
        mix += [(work.questions, found)] if work.questions else []
    if total := sum(n for n, _ in mix):
        all_ = Timed(
            [sum(n * f.alone[t] for n, f in mix) / total for t in range(turns)],
            [sum(n * f.together[t] for n, f in mix) / total for t in range(turns)],
        )
        lines.append(row(f"all {total:,} of the last {len(mix)}", " | | ", all_))
    return lines


def demo_questions(data: Path, count: int) -> Conversations:
    """The first questions of easy-VQA's test file; those about one picture show the same object."""
    lines = (data / "demo" / "easy-vqa-test.jsonl").read_text().splitlines()[:count]
    questions = [json.loads(line) for line in lines]
    opened = {q["image"]: Image.open(data / "demo" / "images" / q["image"]).convert("RGB") for q in questions}
    return [[Turn("user", q["text"], (opened[q["image"]],))] for q in questions]


def differences(answerer: Answerer, asked: Conversations, limit: int) -> str:
    """How far the logits of a batch are from those of its rows alone, after the same tokens; and the answers."""
    model = answerer.model.llm
    rows = [answerer._row(c, limit) for c in asked]
    shown = {id(i): i for c in asked for turn in c for i in turn.images}
    far, close, choices, said = 0.0, 0, 0, []
    with torch.inference_mode():
        for start in range(0, len(rows), 48):
            batch = rows[start : start + 48]
            names = {name for r in batch for name in r.images}
            together = answerer._encode({name: shown[name] for name in names}, 16)
            apart = [answerer._encode({name: shown[name] for name in r.images}, 1) for r in batch]
            readings = [read_whole(model, [r], pictures) for r, pictures in zip(batch, apart, strict=True)]
            reading = read_shared(model, batch, together, limit)
            for step in range(limit):
                logits = torch.cat([r.logits for r in readings])
                largest = logits.abs().amax(-1)
                far = max(far, float(((reading.logits - logits).abs().amax(-1) / largest).max()))
                best = logits.topk(2, dim=-1).values
                close += int((best[:, 0] - best[:, 1] <= NEAR * largest).sum())
                choices += len(batch)
                tokens = logits.argmax(-1)
                if step + 1 < limit:
                    reading.step(model, tokens)
                    for i, one in enumerate(readings):
                        one.step(model, tokens[i : i + 1])
    alone = [answerer.answer_alone(c, max_new_tokens=limit) for c in asked]
    asked_again = 0
    ask = answerer._alone

    def counting(*args: object) -> list[int]:
        nonlocal asked_again
        asked_again += 1
        return ask(*args)  # type: ignore[arg-type]

    answerer._alone = counting  # type: ignore[assignment]
    for size in (2, 7, 32, len(asked)):
        found = [
            a for s in range(0, len(asked), size) for a in answerer.answer(asked[s : s + size], max_new_tokens=limit)
        ]
        said.append(sum(a != b for a, b in zip(found, alone, strict=True)))
    answerer._alone = ask  # type: ignore[method-assign]
    return (
        f"{len(asked):,} | {choices:,} | {far:.1e} | {close} | "
        f"{', '.join(map(str, said))} | {asked_again / 4 / len(asked):.2%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", nargs="*", type=Path, metavar="BUNDLE DATA")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--count", type=int, default=64, help="questions of each kind")
    parser.add_argument("--wall", action="store_true", help="wall-clock seconds on all cores, for a quiet machine")
    args = parser.parse_args()
    torch.set_num_threads((os.cpu_count() or 1) if args.wall else 1)
    clock = time.perf_counter if args.wall else time.process_time
    how = f"wall-clock, {os.cpu_count()} threads" if args.wall else "CPU seconds of one thread"
    text = [f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, fp32; {how}."]
    if args.demo:
        bundle, data = args.demo
        answerer = Answerer.load(bundle)
        found = timed(answerer, demo_questions(data, 960), 96, 8, args.turns, clock)
        text += [*HEAD, row(answerer.name, "10 | 22 | 2", found)]
        text += [differences(answerer, demo_questions(data, 960), 4)]
    for vision in ("efficientnet-lite0", "siglip2-base-224"):
        text += [vision, *shapes(vision, "smollm2-135m", WORK, args.count, args.turns, clock)]
    print("\n".join(text))


if __name__ == "__main__":
    main()
