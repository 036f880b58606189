"""A dry run of the largest possible pass, so that a stage that will run out of memory does so at the start.

The bounds follow from the spec: a pass has at most micro_batch x max_length tokens, at most a rank's share of a step,
and as many pictures as fit these tokens. If pictures do not count in max_length, a sample is longer by their tokens, up
to the context, and so is a row with only that sample. All tokens are supervised, which costs little because logits
exist one chunk at a time. Gradients are multiplied by 0, so they do not affect the first step.

Sizes double from one sample to `micro_batch`, which is twice the work of only the largest. The reason: a rank that runs
out of memory during a pass leaves the others inside a collective, so a smaller pass cannot be tried afterwards. By then
it is known what fits.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from remora.batch import Batch
from remora.data.conversation import Sample, Turn
from remora.errors import TrainingError
from remora.model.vlm import VisionLanguageModel
from remora.reading.batches import StageData
from remora.spec import Cluster
from remora.token_ids import IMAGE
from remora.training import journal
from remora.training.engines import Engine

LOOKED_AT = 1000
"""Records of each dataset, spread over it, from which the pictures per record are estimated: reading millions takes a
minute."""
SHORT = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Out of memory messages of torch, the CUDA driver and cuBLAS, besides torch.OutOfMemoryError."""


@dataclass(frozen=True)
class Pass:
    """A pass of `tokens` tokens including padding, with `pictures` in total. Padded: `samples` samples of `length`.
    Packed: as many of `length` as fit, and one with the rest. `samples` is the micro_batch."""

    samples: int
    length: int
    pictures: int
    tokens: int

    def batch(self, model: VisionLanguageModel, packed: bool) -> Batch:
        """Blank pictures first, then text; every position is supervised."""
        shape = (1, self.tokens) if packed else (self.samples, self.length)
        labels = torch.arange(self.tokens) % model.llm.config.vocab_size
        ids = labels.clone()
        # Padded rows have the same number of pictures each, at the start of the row.
        shown = ids.view(1 if packed else self.samples, -1)[:, : self.pictures * model.image_tokens // shape[0]]
        shown.fill_(IMAGE)
        pixels = torch.zeros(self.pictures, 3, model.image_size or 1, model.image_size or 1)
        lengths: tuple[int, ...] = ()
        if packed:
            whole, rest = divmod(self.tokens, self.length)
            lengths = (self.length,) * whole + (rest,) * bool(rest)
        samples = len(lengths) or self.samples
        keys, image_keys = (torch.zeros(max(1, n), dtype=torch.long) for n in (samples, self.pictures))
        ids, labels = ids.view(shape), labels.view(shape)
        return Batch(ids, torch.ones_like(ids), labels, pixels, keys, image_keys, lengths)


@dataclass(frozen=True)
class Bounds:
    """What bounds the passes of a stage, as far as the cluster does not."""

    batch: int
    """Samples of a step."""
    max_length: int
    """Tokens of a sample that count."""
    whole: int | None
    """Tokens of a sample with all of its pictures'; None if unlimited."""
    counted: bool
    """Whether a picture counts with all of its tokens."""
    text: int
    """Tokens of the shortest conversation about a picture, without the picture's."""
    pictures: int
    """Of a sample, at most."""


def bounds_of(data: StageData, image_tokens: int) -> Bounds:
    """The bounds of a stage whose data is here."""
    batch, text, high = min(data.stage.batch, data.total), 0, 0
    if data.encoder is not None:
        text = len(data.prompter.encode([Turn("user", "", 1), Turn("assistant", "")]).ids) - image_tokens
        high = max(n for dataset in data.samples for n in pictures_of(dataset))
    return Bounds(batch, data.max_length, data.whole, data.stage.count_pictures, text, high)


def passes(data: StageData, cluster: Cluster, world: int, image_tokens: int) -> list[Pass]:
    """The passes to try, smallest first; the last is the largest of the stage.

    Example: with 256 samples per step, 8 ranks and micro_batch 16, the last pass has 16 samples.
    """
    return passes_within(bounds_of(data, image_tokens), cluster, world, image_tokens)


def passes_within(bounds: Bounds, cluster: Cluster, world: int, image_tokens: int) -> list[Pass]:
    """The same from the bounds alone."""
    batch, text, high = bounds.batch, bounds.text, bounds.pictures
    share = math.ceil(batch / world)
    most = min(cluster.micro_batch, share)
    sizes = [2**i for i in range(most.bit_length()) if 2**i < most] + [most]
    length = bounds.max_length
    if high:
        counted = image_tokens if bounds.counted else 1
        high = min(high, max(0, bounds.max_length - text) // counted)
        if bounds.whole is not None:
            high = min(high, max(0, bounds.whole - text) // image_tokens)
        length += high * (image_tokens - counted)
        length = min(length, bounds.whole or length)
    if cluster.rows == "padded":
        return [Pass(size, length, size * high, size * length) for size in sizes]
    short = high * image_tokens + text
    found = []
    for size in sizes:
        # A row can always hold the longest sample; the last size means the whole micro_batch.
        rows = size if size < most else cluster.micro_batch
        tokens = min(max(rows * bounds.max_length, length), share * length)
        pictures = 0
        if high:  # many short samples have more pictures than few long ones
            left = min(high, max(0, tokens % short - text) // image_tokens)
            pictures = min(tokens // short * high + left, batch * high)
        found.append(Pass(size, length, pictures, tokens))
    return found


def pictures_of(dataset: Sequence[Sample]) -> list[int]:
    """Pictures of some of its records, spread over it."""
    step = max(1, len(dataset) // LOOKED_AT)
    return [len(dataset[i].images) for i in range(0, len(dataset), step)]


def rehearse(engine: Engine, data: StageData, cluster: Cluster, notes: Path) -> None:
    """Run the stage's largest pass forward and backward, on all ranks together, before the first step.

    `notes` is the stage run's journal, to which a rank that runs out of memory writes its message.

    Raises:
        TrainingError: this rank or another ran out of memory; the message says what fits.
    """
    wanted = engine.device.type == "cuda" if cluster.rehearse is None else cluster.rehearse
    if not wanted:
        return
    began, fits, memory = time.monotonic(), 0, 0.0
    tried = passes(data, cluster, engine.world, engine.model.image_tokens)
    dist.barrier()  # the journal's "started" is written by now
    for one in tried:
        free = _free(engine.device)
        try:
            loss = engine.forward(one.batch(engine.model, cluster.rows == "packed"))
            engine.backward(loss, tokens=math.inf, last=False)
            del loss
            memory = max(memory, *engine.tell(engine.memory())[0])
        except (RuntimeError, MemoryError) as e:
            if not _is_short(e):
                _raise_others(notes)  # a rank that exited closes its connections
                raise
            message = _message(data.stage.name, cluster, one, fits, engine, free)
            journal.append(notes, "short", rank=engine.rank, message=message)
            raise TrainingError(message) from None
        fits = one.samples
    if engine.rank == 0:
        largest, seconds = {"tokens": one.tokens, "pictures": one.pictures}, time.monotonic() - began
        journal.append(notes, "rehearsed", **largest, seconds=seconds, memory=memory)


def _is_short(error: BaseException) -> bool:
    said = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in said for words in SHORT)


def _free(device: torch.device) -> float:
    """GiB of free memory."""
    if device.type == "cuda":
        used = torch.cuda.memory_allocated(device)
        free, total = torch.cuda.mem_get_info(device)
        room = torch.cuda.get_per_process_memory_fraction(device) * total - used  # a worker may have a share of a GPU
        return min(free + torch.cuda.memory_reserved(device) - used, room) / (1 << 30)
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)


def _message(stage: str, cluster: Cluster, one: Pass, fits: int, engine: Engine, free: float) -> str:
    settings = [f"micro_batch: {fits} (tried, it fits)"] if fits else []
    settings += [] if cluster.activation_checkpointing else ["activation_checkpointing: true"]
    settings += ["zero: 3"] if cluster.zero < 3 and engine.world > 1 else []
    if cluster.offload == "none" and engine.device.type == "cuda":
        settings += ["offload: all" if cluster.zero == 3 else "zero: 2 with offload: optimizer"]
    settings = settings or ["workers: more, with zero: 3"]
    return (
        f"stage {stage!r} does not fit its memory: a pass of {one.tokens:,} tokens with {one.pictures:,} pictures, as "
        f"micro_batch {cluster.micro_batch} allows, ran out on rank {engine.rank} with {free:.1f} GiB free; "
        f"set in cluster one of {', '.join(settings)}, or a smaller max_length in the stage"
    )


def _raise_others(notes: Path) -> None:
    """Raise the out of memory error of another rank, if one wrote it since this attempt began."""
    for event in reversed(list(journal.read(notes))):
        if event["event"] == "short":
            raise TrainingError(event["message"]) from None
        if event["event"] == "started":
            return
