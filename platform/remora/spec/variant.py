"""Variants: what to build and train, and where."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from remora.spec.base import FileName, Spec, whole_numbers

Rows = Literal["packed", "padded"]
Precision = Literal["fp32", "bf16", "fp16"]
AT_LEAST_ONE: dict[str, object] = {"type": "integer", "minimum": 1}
COUNT_OR_RANGE: dict[str, object] = {
    "anyOf": [AT_LEAST_ONE, {"type": "array", "items": AT_LEAST_ONE, "minItems": 2, "maxItems": 2}]
}
"""The JSON schema of a number of workers, or of the least and the most."""


CHOSEN = (
    *("workers", "gpus_per_worker", "cpus_per_worker", "zero", "offload", "micro_batch", "activation_checkpointing"),
    "rehearse",
)
"""Keys of a cluster block that `auto` chooses."""


class Cluster(Spec):
    """Where and how a stage runs. Only `precision` changes a result, so only it is part of a stage run's identity."""

    auto: bool = False
    """Choose `workers`, `gpus_per_worker`, `cpus_per_worker`, `zero`, `offload`, `micro_batch`,
    `activation_checkpointing` and `rehearse` for the devices that are there, except those that are set beside it;
    `cluster: auto` is short for it."""
    workers: Annotated[int | tuple[int, int], WithJsonSchema(COUNT_OR_RANGE)] = 1
    """Training processes, or [min, max]: a stage runs with as many as the cluster has room for."""
    cpus_per_worker: float = Field(1, gt=0)
    """CPUs that Ray reserves per worker."""
    gpus_per_worker: float = Field(0, ge=0, le=1)
    """0, 1 or a share: with 0.5 and a single worker, two small stage runs train on one GPU, each with half of its
    memory."""
    memory_per_worker: float = Field(0, ge=0)
    """GiB of memory that Ray reserves per worker; 0 reserves none."""
    accelerator: str | None = None
    """The GPU type to run on, by Ray's name for it (H100, A100-80G, L4)."""
    gpu_price: float | None = Field(None, ge=0)
    """Price of a GPU for an hour, in any currency: for what a plan costs, and for `budget.cost`."""
    precision: Precision = "fp32"
    """The dtype of the forward and backward pass. Trained weights, accumulated gradients and AdamW's state are fp32."""
    activation_checkpointing: bool = False
    """Gradient checkpointing: keep only each block's input and recompute the rest in the backward pass. A third more
    compute for a fraction of the memory."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What to keep in host memory: AdamW's state (ZeRO 2, 3), or weights as well (ZeRO 3)."""
    micro_batch: int = Field(16, ge=1)
    """Micro batch per worker: packed, up to this times max_length tokens; padded, this many samples. No pass has more
    than this times max_length tokens, but packed passes come close to it, and the shorter the samples, the more
    pictures one pass has. Gradient accumulation follows from it."""
    rows: Rows = "packed"
    """packed: a step's samples are concatenated into rows without padding. padded: one sample per row, batched with
    others of similar length. Same samples, same loss (docs/batches.md)."""
    loaders: int = Field(0, ge=0)
    """Dataloader workers per training worker that prefetch batches; 0 uses a thread (docs/loading.md)."""
    zero: int = Field(2, ge=0, le=3)
    """DeepSpeed ZeRO stage."""
    checkpoint_every: int = Field(50, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(2, ge=1)
    """The newest checkpoints that are kept while a stage trains."""
    rehearse: bool | None = None
    """Whether a stage begins with a dry run of its largest pass, so that out of memory happens at once or not at all.
    Default: on GPUs only. On a CPU it can take minutes, and the kernel kills a process that takes too much."""
    max_failures: int = Field(3, ge=0)
    """Worker failures that a stage run survives, and as many controller failures. A node preempted with notice does not
    count."""
    hang_timeout: int = Field(300, ge=10, le=604_800)
    """Timeout in seconds for waiting for another worker in a step, or for a stage run to be published; then the worker
    group restarts."""

    @classmethod
    def short_forms(cls) -> tuple[dict[str, object], ...]:
        return ({"const": "auto"},)

    @model_validator(mode="before")
    @classmethod
    def _auto_is_short(cls, said: object) -> object:
        return {"auto": True} if said == "auto" else said

    @property
    def least_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    def groups(self, cpus: float, gpus: float) -> int:
        """As many groups of workers as there is room for."""
        rooms = [cpus / (self.least_workers * self.cpus_per_worker)]
        if self.gpus_per_worker:
            rooms.append(gpus / (self.least_workers * self.gpus_per_worker))
        return math.floor(min(rooms) + 1e-9)

    @property
    def elastic(self) -> bool:
        return self.least_workers < self.most_workers

    @field_validator("workers", mode="before")
    @classmethod
    def _count_or_range(cls, said: object) -> object:
        several, span = isinstance(said, list | tuple), whole_numbers(said)
        if not (len(span) == 1 + several and 1 <= span[0] <= span[-1]):
            raise ValueError(f"{said!r} is neither a number of workers (1 or more) nor [min, max]")
        return tuple(span) if several else span[0]

    @model_validator(mode="after")
    def _offload_fits_zero(self) -> Self:
        least = {"none": 0, "optimizer": 2, "all": 3}[self.offload]
        if self.zero < least:
            what = "weights sharded over ranks" if least == 3 else "gradients sharded over ranks"
            raise ValueError(
                f"offload: {self.offload} needs {what}, and zero is {self.zero}; "
                f"set zero: {least}{' or 3' if least == 2 else ''}, or offload: none"
            )
        return self


class Job(Spec):
    """What variants and spaces have in common."""

    overrides: dict[str, dict[str, object]] = Field(default_factory=dict)
    """Stage name to overrides of the recipe's keys, merged key by key."""
    seed: int = Field(0, ge=0)
    """Decides the order of samples, dropout and the weights of new parts. Another seed is another stage run."""
    cluster: Cluster = Cluster()
    benchmarks: tuple[str, ...] = ()
    """Names from `remora catalog benchmarks`, measured after the last stage."""

    @model_validator(mode="after")
    def _a_group_has_whole_gpus(self) -> Self:
        share, workers = self.cluster.gpus_per_worker, self.cluster.most_workers
        if 0 < share < 1 and workers > 1:  # questions may be answered by several workers on one
            raise ValueError(
                f"cluster.gpus_per_worker: {share:g} is for one worker, and there are {workers}: NCCL refuses two of a "
                "group on one GPU; set workers: 1, or gpus_per_worker: 1"
            )
        return self


class Variant(Job):
    """One composition and its recipe."""

    name: FileName | None = None
    """Display name; default: recipe-vision-llm-connector in the catalog's short names."""
    vision: str
    """The encoder: a name from `remora catalog vision`."""
    connector: str
    """The connector: a name from `remora catalog connectors`."""
    llm: str
    """The language model: a name from `remora catalog llm`."""
    recipe: str
    """A name from `remora catalog recipes`, or the path of a YAML."""
    choice: dict[str, object] = Field(default_factory=dict, exclude_if=lambda choice: not choice)
    """A space's choices on axes other than parts and recipe, for display only. Training depends only on the other
    keys."""
