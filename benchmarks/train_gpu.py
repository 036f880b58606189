"""Training on one GPU, without Ray: step time, MFU, wait and memory with language models of 1 and 3 B.

`--device cpu --tiny` runs the same program with a tiny model without a GPU; its figures are meaningless.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from train_shapes import BATCH, MICRO_BATCH, RATES, TUNINGS, Shape, composed, samples, shapes

WARM, STEPS, AHEAD = 5, 20, 2


def gpu_shapes() -> dict[str, Shape]:
    from remora import catalog

    vision = catalog.vision("clip-l-336").config
    return {name: Shape(catalog.llm(name).config, vision, name) for name in ("tinyllama-1.1b-chat", "qwen2.5-3b")}


def loaded(shape: Shape, steps: int) -> Iterator[list[Any]]:
    """Micro batches of each step, prefetched by a thread as in a stage."""
    from remora.reading.batches import collate
    from remora.reading.packing import deal, pack

    def make(step: int) -> list[Any]:
        read = samples(shape, step)
        shares = deal(pack([len(tokens.ids) for tokens, _ in read], MICRO_BATCH * shape.max_length, 1), 0, 1)
        return [collate([read[i] for i in s], 1, shape.vision["image_size"], rows="packed") for s in shares]

    with ThreadPoolExecutor(1) as pool:
        made = [pool.submit(make, step) for step in range(AHEAD)]
        for step in range(AHEAD, AHEAD + steps):
            yield made.pop(0).result()
            made.append(pool.submit(make, step))


def trained(shape: Shape, how: str, precision: str, compiled: bool) -> str:
    """A row of the table."""
    import torch

    from remora.model.tuning import parameter_groups
    from remora.spec import Cluster, Stage
    from remora.training import engines
    from remora.training.build import set_up
    from remora.training.flops import StepFlops, peak_flops

    tune = dict(zip(("vision", "connector", "llm"), TUNINGS[how], strict=True))
    stage = Stage(name="it", mixture=[{"path": "it"}], tune=tune, batch=BATCH, steps=STEPS, lr=RATES[how])
    _, model = composed(shape)
    cluster = Cluster(zero=0, precision=precision)
    set_up(model, stage, cluster)
    count = StepFlops(model)
    engine = engines.create(model, parameter_groups(model, stage), stage, cluster)
    seconds, waits, operations, tokens = [], [], [], []
    batches = loaded(shape, WARM + STEPS)
    for step in range(WARM + STEPS):
        if step == 1 and compiled:  # after the pass in which operations are counted
            model.llm.base_model.compile(dynamic=True)
        began = time.perf_counter()
        passes = next(batches)
        waits.append(time.perf_counter() - began)
        supervised = sum(b.supervised for b in passes)
        for batch in passes:
            engine.backward(engine.forward(batch), supervised, last=batch is passes[-1])
        engine.step(1.0)  # its norm waits for the device
        seconds.append(time.perf_counter() - began)
        operations.append(count(passes))
        tokens.append(sum(int(b.mask.sum()) for b in passes))
    took = statistics.median(seconds[WARM:])
    peak = peak_flops(engine.device, precision)
    share = statistics.median(o / s for o, s in zip(operations[WARM:], seconds[WARM:], strict=True)) / (peak or 1)
    rate = statistics.median(n / s for n, s in zip(tokens[WARM:], seconds[WARM:], strict=True))
    memory, waited = engine.memory(), sum(waits[WARM:]) / sum(seconds[WARM:])
    engine.close()
    del engine, model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return (
        f"| {shape.about} | {how} | {'yes' if compiled else 'no'} | {1000 * took:.0f} | {rate:,.0f} "
        f"| {f'{share:.1%}' if peak else ''} | {waited:.2%} | {memory:.1f} |"
    )


def on_one_gpu(device: str, tiny: bool) -> list[str]:
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch
    import torch.distributed as dist

    if device != "cpu" and not torch.cuda.is_available():
        sys.exit("there is no GPU here; next: --gpu --device cpu --tiny")
    one = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    os.environ.update(one)
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    named = {"demo-2m": shapes()["demo-2m"]} if tiny else gpu_shapes()
    precision = "fp32" if device == "cpu" else "bf16"
    name = "a CPU" if device == "cpu" else torch.cuda.get_device_name()
    lines = [
        f"{name}, {precision}, torch {torch.__version__}; {BATCH} samples a step, ZeRO 0; medians of {STEPS} steps.",
        "",
        "| | stage | compiled | step, ms | real tokens/s | MFU | waited | GiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for shape in named.values():
        for how in TUNINGS:
            for compiled in (False, True):
                lines.append(trained(shape, how, precision, compiled))
                sys.stderr.write(lines[-1] + "\n")
    dist.destroy_process_group()
    return lines
