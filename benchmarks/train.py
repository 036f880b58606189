"""Training compared with the usual loop: real tokens per second and peak memory.

    python benchmarks/train.py               # writes benchmarks/results/train.md; half an hour of one core
    python benchmarks/train.py demo-2m       # one model, without writing
    python benchmarks/train.py --ray RUNS    # Ray Train against torchrun; RUNS has the demo's data
    python benchmarks/train.py --gpu         # one GPU, without Ray: bf16, compiled or not, MFU

The baseline is transformers' LLaVA class in a plain loop: samples padded in step order, logits of every position,
torch's default AdamW. It starts from our weights (exported to the stock llava layout) and reads our
samples, so its losses must equal ours. Then each of our optimisations is switched off in turn. Every
measurement is a separate process, and they alternate, so that a busy minute of the machine affects all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from train_gpu import on_one_gpu
from train_ray import against_torchrun
from train_shapes import BATCH, MICRO_BATCH, RATES, TUNINGS, Shape, composed, export, samples, shapes

from remora.spec import Rows
from support.machine import cpu_name

TURNS = 2
"""Processes per setting."""
STEPS = {"demo-2m": (4, 8), "pythia-70m": (2, 3)}
"""For each model: warm-up steps and timed steps of a process."""
SAME = 1e-4
"""Relative tolerance of losses. Summing in another order changes gradients by 1e-6, relative, but AdamW's
first steps divide by them: an entry near zero may move the other way."""

Step = Callable[[list[Any]], tuple[float, int]]
"""Trains on samples; their loss, and how many of their tokens are supervised."""


# The baseline.

BASELINES = {"usual": False, "usual, like lengths together": True}
"""Whether a step's samples are sorted first, as group_by_modality_length does in the published scripts."""


def usual_loop(shape: Shape, how: str, folder: Path, sort: bool) -> Step:
    import torch
    from transformers import LlavaForConditionalGeneration

    from remora.reading.batches import collate
    from remora.token_ids import IGNORE, IMAGE

    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    _, connector, llm = (mode == "full" for mode in TUNINGS[how])
    model.requires_grad_(llm).train()
    model.model.vision_tower.requires_grad_(False).eval()
    model.model.multi_modal_projector.requires_grad_(connector)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATES[how], weight_decay=0.0)
    picture = model.config.image_token_id

    def step(read: list[Any]) -> tuple[float, int]:
        total, supervised = 0.0, sum(label != IGNORE for tokens, _ in read for label in tokens.labels)
        read = sorted(read, key=lambda one: len(one[0].ids)) if sort else read
        for start in range(0, len(read), MICRO_BATCH):
            batch = collate(read[start : start + MICRO_BATCH], 1, shape.vision["image_size"])
            loss = model(
                input_ids=batch.ids.masked_fill(batch.ids == IMAGE, picture),
                attention_mask=batch.mask,
                labels=batch.labels,
                pixel_values=batch.pixels if len(batch.pixels) else None,
                use_cache=False,
                num_items_in_batch=supervised,
            ).loss
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        return total, supervised

    return step


# Ours: a step as in a stage, with its engine.


def ours(shape: Shape, how: str, loop: Loop) -> Step:
    import torch.distributed as dist

    from remora.model.tuning import parameter_groups
    from remora.reading.batches import collate
    from remora.reading.packing import deal, group, pack
    from remora.spec import Cluster, Stage
    from remora.training import engines
    from remora.training.allocator import keep_freed
    from remora.training.build import set_up

    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ[name] = value
    os.environ["LOCAL_RANK"] = "0"
    dist.init_process_group("gloo")
    tune = dict(zip(("vision", "connector", "llm"), TUNINGS[how], strict=True))
    stage = Stage(name="it", mixture=[{"path": "it"}], tune=tune, batch=BATCH, steps=9, lr=RATES[how])
    _, model = composed(shape)
    keep_freed()
    cluster = Cluster(zero=0, rows=loop.rows)
    set_up(model, stage, cluster)
    engine = engines.create(model, parameter_groups(model, stage), stage, cluster)
    loop.changed(model, engine)

    def step(read: list[Any]) -> tuple[float, int]:
        lengths = [len(tokens.ids) for tokens, _ in read]
        if loop.rows == "packed":
            shares = deal(pack(lengths, loop.micro_batch * shape.max_length, 1), 0, 1)
        else:
            shares = deal(group(lengths, loop.micro_batch, 1), 0, 1)
        batches = [collate([read[i] for i in s], 1, shape.vision["image_size"], rows=loop.rows) for s in shares]
        supervised = sum(b.supervised for b in batches)
        total = 0.0
        for batch in batches:
            loss = engine.forward(batch)
            engine.backward(loss, supervised, last=batch is batches[-1])
            total += loss.item()
        engine.step(1.0)
        return total / supervised, supervised

    return step


def timed(step: Step, shape: Shape, warm: int, steps: int) -> dict[str, Any]:
    """Runs steps; the first `warm` are not timed. Memory is the highest RSS from here on, above that of the model."""
    data = [samples(shape, i) for i in range(warm + steps)]
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
    before = _status("VmRSS")
    losses, seconds, supervised = [], [], []
    for read in data:
        began = time.process_time()
        loss, of = step(read)
        seconds.append(time.process_time() - began)
        losses.append(loss)
        supervised.append(of)
    real = [sum(len(tokens.ids) for tokens, _ in read) for read in data]
    return {
        "losses": losses,
        "seconds": seconds[warm:],
        "rates": [n / s for n, s in zip(real[warm:], seconds[warm:], strict=True)],
        "real": real,
        "supervised": supervised,
        "MiB": (_status("VmHWM") - before) / 1024,
    }


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


# Our optimisations, each switched off.


@dataclass(frozen=True)
class Loop:
    """Our loop with one change."""

    rows: Rows = "packed"
    micro_batch: int = MICRO_BATCH // 2
    """Rows of max_length that a packed pass has room for; samples of a padded one. Half as many rows as the usual loop
    has samples: these are half as long as the longest, so a step has two passes in both."""
    changed: Callable[[Any, Any], None] = lambda model, engine: None


def all_logits(model: Any, engine: Any) -> None:
    """Logits of every position; the loss uses the supervised ones."""
    from torch.nn import functional as F

    from remora.model.patches.attention import states

    def forward(batch: Any) -> Any:
        hidden = states(model.llm, model.embed(batch.ids, batch.pixels), batch.lengths)
        logits = model.llm.get_output_embeddings()(hidden[:, :-1]).float()
        return F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum")

    model.forward = forward


def whole_block(model: Any, engine: Any) -> None:
    """The last block for every position, like the others."""
    model.narrowed = []


def loss_apart(model: Any, engine: Any) -> None:
    """The head's logits, then torch's cross entropy of them."""
    from torch import nn
    from torch.nn import functional as F

    from remora.model.patches.head import LossHead

    def summed(head: Any, hidden: Any, targets: Any, weights: Any = None) -> Any:
        return F.cross_entropy(nn.Linear.forward(head, hidden).float(), targets, reduction="sum")

    LossHead.forward = summed


def plain_adamw(model: Any, engine: Any) -> None:
    """torch's default AdamW on this device, not the fused kernel."""
    for group in engine.optimizer.param_groups:
        group["fused"] = False


def all_gradients(model: Any, engine: Any) -> None:
    """Gradients of frozen parts too, as in a loop that only leaves them out of its optimiser."""
    model.requires_grad_(True)


LEVERS = {
    "ours": Loop(),
    "a step in one pass": Loop(micro_batch=MICRO_BATCH),
    "rows padded, of like length": Loop("padded", MICRO_BATCH),
    "logits of every position": Loop(changed=all_logits),
    "all of the last block": Loop(changed=whole_block),
    "head and loss apart": Loop(changed=loss_apart),
    "AdamW not fused": Loop(changed=plain_adamw),
    "gradients of frozen parts": Loop(changed=all_gradients),
}
SETTINGS = {
    "fine-tuning": [*BASELINES, *list(LEVERS)[:-1]],
    "alignment": [*BASELINES, *list(LEVERS)[:-2], "gradients of frozen parts"],
}
"""What is measured: AdamW has little to do in alignment, and frozen parts have little to do in fine-tuning."""


def measured(name: str, how: str, setting: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", __file__, name, "--one", how, setting, str(folder)]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(said.stdout.splitlines()[-1])


def one(name: str, how: str, setting: str, folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    shape = shapes()[name]
    with contextlib.redirect_stdout(sys.stderr):
        if setting in BASELINES:
            step = usual_loop(shape, how, folder, BASELINES[setting])
        else:
            step = ours(shape, how, LEVERS[setting])
        found = timed(step, shape, *STEPS[name])
    print(json.dumps(found))


def table(name: str, shape: Shape, how: str) -> list[str]:
    found: dict[str, list[dict[str, Any]]] = {s: [] for s in SETTINGS[how]}
    with tempfile.TemporaryDirectory() as tmp:
        export(shape, Path(tmp) / "llava")
        for turn in range(TURNS):
            for setting, runs in found.items():
                runs.append(measured(name, how, setting, Path(tmp) / "llava"))
                sys.stderr.write(f"{name} {how} turn {turn} {setting}: {runs[-1]}\n")
    first = found["usual"][0]
    lines = [
        f"{sum(first['supervised']) / sum(first['real']):.0%} of the {sum(first['real'])} tokens are supervised.",
        "",
        "| | step, s | real tokens/s | against usual | MiB above the model | against usual | last loss | apart |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for setting, runs in found.items():
        seconds = [s for r in runs for s in r["seconds"]]
        (rate, memory), (usual, much) = medians(runs), medians(found["usual"])
        losses = runs[0]["losses"]
        apart = max(abs(a / b - 1) for a, b in zip(losses, first["losses"], strict=True))
        if apart > SAME:
            sys.exit(f"{name} {how} {setting}: losses {losses} are {apart:.1e} from those of the usual loop")
        lines.append(
            f"| {setting} | {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | {rate:.0f} "
            f"| {rate / usual:.2f} x | {memory:.0f} | {memory / much:.2f} x | {losses[-1]:.6f} | {apart:.0e} |"
        )
    return lines


def medians(runs: list[dict[str, Any]]) -> tuple[float, float]:
    """Real tokens per second over all timed steps, and MiB."""
    return statistics.median(rate for r in runs for rate in r["rates"]), statistics.median(r["MiB"] for r in runs)


def against_the_usual_loop(names: list[str]) -> list[str]:
    lines = []
    for name in names:
        shape = shapes()[name]
        for how in TUNINGS:
            lines += [
                f"### {name}, {how}",
                "",
                f"{shape.about}; a picture is {shape.image_tokens} tokens, a sample at most {shape.max_length}.",
                *table(name, shape, how),
                "",
            ]
    return lines


def machine() -> str:
    import torch

    return f"{datetime.date.today()}, {os.cpu_count()} cores of a CPU ({cpu_name()}), fp32, torch {torch.__version__}"


def about() -> list[str]:
    many = " and ".join(f"{steps} ({name})" for name, (_, steps) in STEPS.items())
    return [
        f"{machine()}. What each part is: `benchmarks/train.py`; what the levers are: docs/training-speed.md.",
        "",
        f"Steps of {BATCH} samples in two passes, ZeRO 0, a process of one thread. Seconds are its CPU's. Medians of",
        f"{TURNS} processes, {many} steps each behind the first few; in brackets the fastest and the slowest.",
        "Real tokens are those that are no padding. Memory is the highest resident size above that of the model before",
        "the first step (VmHWM). `apart` is the largest relative difference to the losses of the usual loop. Lengths",
        "are those of LLaVA's mix-665k as benchmarks/packing.py simulates them, times a picture's tokens over 576.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[[], *shapes()])
    parser.add_argument("--one", nargs=3, metavar=("TUNING", "SETTING", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--ray", type=Path, metavar="RUNS", help="a run folder that holds the demo's data")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="for --gpu")
    parser.add_argument("--tiny", action="store_true", help="for --gpu")
    args = parser.parse_args()
    if args.one:
        how, setting, folder = args.one
        one(args.models[0], how, setting, Path(folder))
    elif args.gpu:
        write("train-gpu.md", on_one_gpu(args.device, args.tiny), keep=not args.tiny)
    elif args.ray:
        write("train-ray.md", [f"{machine()}. `benchmarks/train.py --ray`", "", *against_torchrun(args.ray)])
    elif args.models:
        write("train.md", against_the_usual_loop(args.models), keep=False)
    else:
        write("train.md", [*about(), "", *against_the_usual_loop(list(shapes()))])


def write(name: str, lines: list[str], keep: bool = True) -> None:
    text = "\n".join(lines).rstrip() + "\n"
    sys.stdout.write(text)
    if keep:
        (Path(__file__).parent / "results" / name).write_text(text)


if __name__ == "__main__":
    main()
