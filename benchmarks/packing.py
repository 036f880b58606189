"""Packed rows, padded rows of similar length, and rows padded in step order: fraction of real tokens, and cost.

    python benchmarks/packing.py            # four minutes on two cores; writes benchmarks/results/packing.md

1. Lengths of LLaVA's mix-665k, simulated from its published composition (SOURCES), laid out for 1, 2 and 8 ranks.
2. Time and peak memory of forward and backward passes of a small model over the same samples, each in a process of its
   own, in turns, one thread.
3. Time of the plan itself.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from remora.reading.packing import deal, group, pack

IMAGE, SYSTEM, MAX_LENGTH = 576, 45, 2048
"""Tokens of a picture (CLIP at 336 px), tokens of the vicuna template's system message, and maximum of a sample."""


def rounds(mean: float, tokens: float, once: float = 0.0, most: int = 1_000) -> Callable[[random.Random], int]:
    """Text of 1 to `most` questions with answers, `mean` of them, each about `tokens`, after `once` instructions."""

    def draw(r: random.Random) -> int:
        count = 1 if mean == 1 else min(most, max(1, round(r.gauss(mean, mean / 3))))
        return round(once + sum(tokens * r.lognormvariate(-0.03, 0.25) for _ in range(count)))

    return draw


def prose(median: float, spread: float) -> Callable[[random.Random], int]:
    """Text of log-normal length."""
    return lambda r: round(r.lognormvariate(0, spread) * median)


SOURCES: dict[str, tuple[int, int, Callable[[random.Random], int], str]] = {
    "LLaVA-Instruct": (157_712, IMAGE, prose(230, 0.45), "one answer of 100 to 150 words, or 3 to 5 short rounds"),
    "ShareGPT": (40_688, 0, prose(1_150, 0.8), "long text conversations; the longest are cut at 2,048"),
    "VQAv2": (82_783, IMAGE, rounds(5.4, 21, 11), "443,757 questions on 82,783 pictures, a short answer each"),
    "GQA": (72_140, IMAGE, rounds(13.1, 24, 11), "943,000 questions on 72,140 pictures, a short answer each"),
    "OKVQA": (8_998, IMAGE, rounds(1, 24, 11), "9,009 questions, one a record"),
    "OCRVQA": (80_000, IMAGE, rounds(4.8, 30, 11), "1,002,146 questions on 207,572 covers; titles as answers"),
    "A-OKVQA": (66_160, IMAGE, rounds(1, 62, 14), "one question with four choices and a letter"),
    "TextCaps": (21_953, IMAGE, rounds(1, 85), "one caption, the picture's OCR tokens in the question"),
    "RefCOCO": (48_447, IMAGE, rounds(4, 48, 0, 10), "142,000 phrases and boxes of four numbers, both ways"),
    "VG": (86_417, IMAGE, rounds(9, 42, 0, 10), "regions and boxes, about ten a record"),
}
"""Records, image tokens, text tokens, and the source. Counts are those of the released list; texts are estimated from
the sources' questions per picture and the templates, not measured."""


def lengths(count: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    names = draw.choices(list(SOURCES), [records for records, *_ in SOURCES.values()], k=count)
    return [min(MAX_LENGTH, SYSTEM + image + text(draw)) for _, image, text, _ in (SOURCES[n] for n in names)]


def in_order(tokens: list[int], size: int, ranks: int) -> list[list[list[int]]]:
    """Each rank's passes if samples are padded in step order."""
    mine = [list(range(len(tokens)))[rank::ranks] for rank in range(ranks)]
    return [[m[i : i + size] for i in range(0, len(m), size)] for m in mine]


def passes(layout: str, tokens: list[int], size: int, ranks: int) -> list[list[list[int]]]:
    """Each rank's passes, as indices of the step's samples."""
    if layout == "in order":
        return in_order(tokens, size, ranks)
    shares = pack(tokens, size * MAX_LENGTH, ranks) if layout == "packed" else group(tokens, size, ranks)
    return [deal(shares, rank, ranks) for rank in range(ranks)]


def computed(layout: str, tokens: list[int], share: list[int]) -> int:
    if layout == "packed":
        return sum(tokens[i] for i in share)
    return len(share) * max((tokens[i] for i in share), default=0)


def shares_of_real_tokens(steps: int = 40) -> list[str]:
    lines = [
        "| batch | ranks | layout | micro_batch | passes a rank | real / computed | real / slowest rank's x ranks "
        "| real / room |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for batch in (128, 256):
        for ranks in (1, 2, 8):
            for layout, size in (("in order", 4), ("padded", 4), ("packed", 4), ("packed", 1)):
                real = done = slowest = room = count = 0
                for step in range(steps):
                    tokens = lengths(batch, step)
                    work = passes(layout, tokens, size, ranks)
                    own = [sum(computed(layout, tokens, share) for share in mine) for mine in work]
                    real, done, slowest = real + sum(tokens), done + sum(own), slowest + ranks * max(own)
                    count += len(work[0])
                    rows = sum(len(m) for m in work) * size if layout == "packed" else batch
                    room += rows * MAX_LENGTH
                lines.append(
                    f"| {batch} | {ranks} | {layout} | {size} | {count / steps:.1f} | {real / done:.1%} "
                    f"| {real / slowest:.1%} | {real / room:.1%} |"
                )
    return lines


# Forward and backward passes of one layout, in a separate process.


def trained(layout: str, samples: int, size: int) -> None:
    """Prints loss, CPU seconds, MiB above the model, and passes."""
    import torch
    from psutil import Process
    from torch import nn
    from transformers import LlamaConfig, LlamaForCausalLM

    from remora.model import vlm
    from remora.model.patches.attention import attend_per_sample
    from remora.reading.batches import collate
    from remora.reading.prompt import Tokens
    from remora.spec import Rows

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, num_key_value_heads=4, vocab_size=8192, max_position_embeddings=MAX_LENGTH)
    llm = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    if layout == "packed":
        attend_per_sample(llm)
    model = vlm.VisionLanguageModel(llm, nn.Identity(), nn.Identity(), 1, IMAGE)
    model.image_embeddings = lambda pixels: pixels.view(-1, 1, 1).expand(-1, IMAGE, 256) / 10
    counts = lengths(samples, 1)
    draw = random.Random(2)
    read = []
    for count in counts:
        pictures = count > IMAGE + SYSTEM
        words = [draw.randrange(2, 8192) for _ in range(count - IMAGE * pictures)]
        ids = words[:SYSTEM] + [vlm.IMAGE] * IMAGE * pictures + words[SYSTEM:]
        answered = len(ids) - len(words[SYSTEM:]) // 2
        labels = [vlm.IGNORE] * answered + ids[answered:]
        read.append((Tokens(ids, labels, int(pictures)), [torch.tensor([draw.random()])] * pictures))
    (work,) = passes(layout, counts, size, 1)
    rows: Rows = "packed" if layout == "packed" else "padded"
    batches = [collate([read[i] for i in share], 1, 1, rows=rows) for share in work]
    tokens = sum(b.supervised for b in batches)
    model(collate([(Tokens([2, 3], [2, 3]), [])], 1, 1, rows=rows)).backward()  # one-time costs are not counted
    model.zero_grad()
    before, start = Process().memory_info().rss, time.process_time()
    loss = 0.0
    for batch in batches:
        part = model(batch, 1 / tokens)
        part.backward()
        loss += part.item()
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    json.dump({"loss": loss, "seconds": seconds, "MiB": (peak - before) / 2**20, "passes": len(batches)}, sys.stdout)


LAYOUTS = [("in order", 4), ("padded", 4), ("packed", 4), ("packed", 2)]


def times_and_memory(samples: int, turns: int) -> list[str]:
    found: dict[tuple[str, int], list[dict[str, float]]] = {layout: [] for layout in LAYOUTS}
    for _ in range(turns):
        for layout, size in LAYOUTS:
            command = [sys.executable, __file__, "--trained", layout, str(samples), str(size)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[layout, size].append(json.loads(said))
    base = statistics.median(f["seconds"] for f in found[LAYOUTS[0]])
    lines = [
        "| layout | micro_batch | passes | CPU seconds | against in order | MiB above the model | loss |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (layout, size), runs in found.items():
        median = {k: statistics.median(r[k] for r in runs) for k in runs[0]}
        spread = f"{min(r['seconds'] for r in runs):.1f} to {max(r['seconds'] for r in runs):.1f}"
        lines.append(
            f"| {layout} | {size} | {median['passes']:.0f} | {median['seconds']:.1f} ({spread}) "
            f"| {base / median['seconds']:.2f} x | {median['MiB']:.0f} | {median['loss']:.6f} |"
        )
    return lines


def plan_times() -> list[str]:
    lines = ["| batch | ranks | micro_batch | packed, ms | padded, ms |", "| --- | --- | --- | --- | --- |"]
    for batch in (32, 128, 256):
        for ranks, size in ((1, 4), (8, 4), (8, 1)):
            tokens = lengths(batch, 0)
            spent = []
            for layout in ("packed", "padded"):
                runs = []
                for _ in range(50):
                    start = time.process_time()
                    passes(layout, tokens, size, ranks)
                    runs.append(time.process_time() - start)
                spent.append(f"{1000 * statistics.median(runs):.2f}")
            lines.append(f"| {batch} | {ranks} | {size} | {' | '.join(spent)} |")
    return lines


def simulated() -> list[str]:
    lines = ["| source | records | tokens, mean | median | assumed |", "| --- | --- | --- | --- | --- |"]
    draw = random.Random(0)
    for name, (records, image, text, why) in SOURCES.items():
        tokens = [min(MAX_LENGTH, SYSTEM + image + text(draw)) for _ in range(4000)]
        mean, median = statistics.mean(tokens), statistics.median(tokens)
        lines.append(f"| {name} | {records:,} | {mean:.0f} | {median:.0f} | {why} |")
    tokens = lengths(40_000, 0)
    total = sum(records for records, *_ in SOURCES.values())
    lines.append(f"| all | {total:,} | {statistics.mean(tokens):.0f} | {statistics.median(tokens):.0f} | |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", nargs=3, metavar=("LAYOUT", "SAMPLES", "SIZE"), help=argparse.SUPPRESS)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    if args.trained:
        layout, samples, size = args.trained
        return trained(layout, int(samples), int(size))
    os.environ["OMP_NUM_THREADS"] = "1"
    machine = f"{datetime.date.today()}, {os.cpu_count()} cores of a {platform.machine()} CPU, fp32"
    text = [
        f"{machine}. What each part is: `benchmarks/packing.py`; what the layouts are: docs/batches.md.",
        "`in order` pads samples as they come, `padded` those of like length, `packed` pads nothing.",
        "",
        "## Lengths of LLaVA's mix-665k, simulated",
        "",
        *simulated(),
        "",
        "## Real tokens",
        "",
        "Means of 40 steps. `real / computed`: over all ranks. The next column counts the slowest rank's tokens for",
        "every rank, since the others wait for it. `real / room`: of max_length x samples, or x rows where packed.",
        "",
        *shares_of_real_tokens(),
        "",
        "## Forward and backward",
        "",
        f"A Llama of 6 layers, 256 wide, on {args.samples} of these samples; medians of {args.turns} processes of",
        "one thread each.",
        "",
        *times_and_memory(args.samples, args.turns),
        "",
        "## The plan of a step",
        "",
        *plan_times(),
    ]
    out = Path(__file__).parent / "results" / "packing.md"
    out.write_text("\n".join(text) + "\n")
    sys.stdout.write(out.read_text())
    return None


if __name__ == "__main__":
    main()
