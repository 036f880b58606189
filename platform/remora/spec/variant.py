"""Variants and spaces: what to build and train, or what a search may choose from."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from remora.spec.base import FileName, Spec

MOST_VARIANTS = 10_000
Rows = Literal["packed", "padded"]
Precision = Literal["fp32", "bf16", "fp16"]


class Cluster(Spec):
    """Where and how a stage runs. Only `precision` changes a result, so only it is part of a stage run's identity."""

    workers: int | tuple[int, int] = 1
    """Processes that train, or [least, most]: a stage goes on with as many as the cluster has room for."""
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0)
    memory_per_worker: float = Field(0, ge=0)
    """GiB that Ray sets aside for a worker; 0 for no claim."""
    accelerator: str | None = None
    """The kind of GPU that Ray is to choose, by Ray's name for it (H100, A100-80G, L4)."""
    precision: Precision = "fp32"
    """What the model computes in. Trained weights, their gradients' sums and AdamW's state are fp32 in any case."""
    activation_checkpointing: bool = False
    """Keep only what enters each block, and compute the rest again for the backward pass: a third more work for a
    fraction of the memory."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What the host's memory holds while a GPU computes: AdamW's state (ZeRO 2, 3), or weights as well (ZeRO 3)."""
    micro_batch: int = Field(16, ge=1)
    """How much one worker puts through the model at once: packed, up to this times max_length tokens; padded, this many
    samples. So no pass holds more than this times max_length tokens, but packed passes come near it wherever a step has
    as many, and the shorter the samples, the more of their pictures one pass shows. Accumulation follows."""
    rows: Rows = "packed"
    """packed: a step's samples follow each other in rows without padding. padded: one sample a row, beside others of
    like length. Same samples, same loss (docs/batches.md)."""
    loaders: int = Field(0, ge=0)
    """Processes of each worker that make batches ahead; 0 for a thread of the worker (docs/loading.md)."""
    zero: int = Field(2, ge=0, le=3)
    """DeepSpeed ZeRO stage."""
    checkpoint_every: int = Field(50, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(2, ge=1)
    rehearse: bool | None = None
    """Whether a stage begins with a dry run of its largest pass, to run out of memory at once or not at all; on GPUs
    if not said. On a CPU it can take minutes, and a process that takes too much is killed without a word."""
    max_failures: int = Field(3, ge=0)
    """Failures of workers that a stage run survives, and as many of what controls them. A node that is taken away after
    a notice is not one."""
    hang_timeout: int = Field(300, ge=10, le=604_800)
    """Seconds that a worker waits for another in a step, or for a stage run to be published, before its group is
    started again."""

    @property
    def least_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def elastic(self) -> bool:
        return self.least_workers < self.most_workers

    @field_validator("workers", mode="before")
    @classmethod
    def _count_or_range(cls, said: Any) -> Any:
        span = said if isinstance(said, list | tuple) else (said, said)
        if not (all(type(n) is int for n in span) and len(span) == 2 and 1 <= span[0] <= span[1]):
            raise ValueError(f"{said!r} is neither a number of workers from 1 on nor [least, most]")
        return tuple(span) if isinstance(said, list) else said

    @model_validator(mode="after")
    def _offload_fits_zero(self) -> Self:
        least = {"none": 0, "optimizer": 2, "all": 3}[self.offload]
        if self.zero < least:
            what = "weights that ranks share" if least == 3 else "gradients that ranks share"
            raise ValueError(
                f"offload: {self.offload} needs {what}, and zero is {self.zero}; "
                f"set zero: {least}{' or 3' if least == 2 else ''}, or offload: none"
            )
        return self


class Champion(Spec):
    """How a search chooses."""

    benchmark: str
    """The benchmark that decides; keep it apart from those that are reported."""
    register_as: str = "remora"
    """Model name in the registry; the best variant gets the alias `champion`."""


class Job(Spec):
    """What a single variant and a space have in common."""

    overrides: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Stage name to the keys that replace the recipe's; merged key by key."""
    seed: int = Field(0, ge=0)
    cluster: Cluster = Cluster()
    benchmarks: tuple[str, ...] = ()
    """Names from `remora catalog benchmarks`, measured after the last stage."""


class Variant(Job):
    """One composition and its recipe."""

    name: FileName | None = None
    """Shown everywhere; by default recipe-vision-llm-connector with the catalog's short names."""
    vision: str
    connector: str
    llm: str
    recipe: str


class Space(Job):
    """What a search may choose from: every combination of the lists is a variant."""

    name: FileName
    vision: tuple[str, ...] = Field(min_length=1)
    connector: tuple[str, ...] = Field(min_length=1)
    llm: tuple[str, ...] = Field(min_length=1)
    recipe: tuple[str, ...] = Field(min_length=1)
    champion: Champion
    concurrent: int | None = Field(None, ge=1)
    """Trials at a time; by default as many as the cluster's CPUs and GPUs hold."""

    @model_validator(mode="after")
    def _can_be_listed(self) -> Self:
        if (count := prod(map(len, (self.vision, self.connector, self.llm, self.recipe)))) > MOST_VARIANTS:
            raise ValueError(f"{count:,} variants, and a space has {MOST_VARIANTS:,} at most; shorten its lists")
        return self

    def variants(self) -> list[Variant]:
        """Every combination, recipe slowest, so that variants that share early stages stand next to each other."""
        shared = {k: getattr(self, k) for k in Job.model_fields}
        return [
            Variant(**shared, recipe=r, vision=v, llm=m, connector=c)
            for r, v, m, c in product(self.recipe, self.vision, self.llm, self.connector)
        ]
