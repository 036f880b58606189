"""Memory that a stage takes on a device before it runs: its terms, and whether it fits.

Without network, GPU, data index or weights: the largest pass of the real composition is traced on fake tensors
(`training.traced`), DeepSpeed's buffers included. It loads torch, so neither `remora.runs` nor `remora.planning`
imports it.

What no trace can see is assumed, and said: on a GPU the CUDA context with its libraries, and what the caching allocator
loses between blocks; on a CPU the process itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from remora import catalog
from remora.catalog import Device, Template
from remora.catalog.compatibility import check_composition
from remora.data.conversation import Turn
from remora.data.index import Dataset
from remora.data.mixture import Readable
from remora.errors import SpecError
from remora.reading.prompt import rendered_words
from remora.runs.operations import CHARACTERS
from remora.spec import Cluster, Stage
from remora.training.engines.simulated import BUCKETS, COPY, GATHERED, GRADIENTS, MOMENTS, SHARE, STEP, WEIGHTS
from remora.training.rehearsal import Bounds, Pass, passes_within, pictures_of
from remora.training.traced import Traced, trace

GIB = 1 << 30
CONTEXT = GIB * 3 // 4
"""Bytes of a GPU that CUDA's context, cuBLAS and NCCL take: assumed."""
FRAGMENTS = 0.05
"""Share of what comes and goes in a pass that the caching allocator takes on top: assumed."""
PROCESS = GIB * 7 // 10
"""Bytes of a training process on a CPU without its tensors: assumed. With torch, transformers and DeepSpeed imported
it has 0.5 GiB; gloo, data and pictures come on top."""
HELD = {WEIGHTS, SHARE, GATHERED, COPY, GRADIENTS, BUCKETS, MOMENTS, STEP}
"""Terms that do not come from the pass."""
CHAT = 16
"""Tokens that a chat template, which only the tokenizer has, is assumed to add to a conversation."""


_TRACED: dict[str, Traced] = {}


@dataclass(frozen=True)
class PlacedStage:
    """A stage and what it runs on."""

    stage: Stage
    parts: Mapping[str, str]
    """Part -> catalog name."""
    cluster: Cluster
    ranks: int
    """Training processes, one a GPU."""
    device: Device
    datasets: Sequence[Readable] = ()
    """Those of its mixture, to count pictures."""
    process: int = PROCESS
    """Bytes of a training process on a CPU without its tensors."""

    def with_settings(self, settings: Mapping[str, object]) -> PlacedStage:
        """The same with other settings of the cluster."""
        return replace(self, cluster=self.cluster.model_copy(update=dict(settings)))


@dataclass(frozen=True)
class MemoryTerm:
    """One part of the peak."""

    name: str
    size: int
    """Bytes."""


@dataclass(frozen=True)
class StageMemory:
    """What one rank of a stage takes at its peak."""

    stage: str
    cluster: Cluster
    ranks: int
    device: Device
    largest_pass: Pass
    terms: tuple[MemoryTerm, ...]
    """The largest first; their sum is `total`."""
    capacity: int
    """Bytes that a rank may take."""
    traced: Traced
    assumed: bool
    """Whether pictures a sample are assumed, because a dataset is not here."""

    @property
    def total(self) -> int:
        return sum(term.size for term in self.terms)

    @property
    def fits(self) -> bool:
        return self.total <= self.capacity

    @property
    def margin(self) -> float:
        """The share of the device that stays free; below 0 if it does not fit."""
        return 1 - self.total / self.capacity


def bounds_without_data(stage: Stage, llm: str, datasets: Sequence[Readable]) -> tuple[Bounds, bool]:
    """What bounds a stage's passes, from its spec and the datasets that are here; and whether pictures are assumed:
    one a sample, where a dataset is not here."""
    entry, pictures, assumed = catalog.llm(llm), 0, False
    if "vision" in stage.tune.present:
        here = [d for d in datasets if isinstance(d, Dataset)]
        assumed = len(here) < max(1, len(datasets))
        pictures = max([int(assumed), *(n for d in here for n in pictures_of(d))])
    whole = stage.whole(entry.context)
    text = _shortest(catalog.template(stage.template))
    batch = stage.batch
    return Bounds(batch, stage.length(entry.context), whole, stage.count_pictures, text, pictures), assumed


def _shortest(template: Template) -> int:
    if template.chat:
        return CHAT
    return round(len(rendered_words(template, [Turn("user", "", 1), Turn("assistant", "")])) / CHARACTERS)


def stage_memory(placed: PlacedStage) -> StageMemory:
    """Predict a stage's peak.

    Raises:
        SpecError: the device does not compute in the cluster's precision, or memory cannot be predicted.
    """
    stage, parts, cluster, ranks, device = placed.stage, placed.parts, placed.cluster, placed.ranks, placed.device
    if device.is_gpu and not device.peak(cluster.precision):
        raise SpecError(
            f"{device.named} does not compute in {cluster.precision}; next: set cluster.precision to fp16 or fp32"
        )
    image_tokens = 0
    if "vision" in stage.tune.present:
        pair = catalog.vision(parts["vision"]), catalog.connector(parts["connector"])
        image_tokens = check_composition(*pair, catalog.llm(parts["llm"]))
    bounds, assumed = bounds_without_data(stage, parts["llm"], placed.datasets)
    largest = passes_within(bounds, cluster, ranks, image_tokens)[-1]
    several = -(-bounds.batch // ranks) > cluster.micro_batch
    traced = _known_trace(stage, parts, cluster, largest, ranks, device.is_gpu, several)
    terms = [MemoryTerm(name, size) for name, size in traced.at_peak.items()]
    if device.is_gpu:
        passing = sum(size for name, size in traced.at_peak.items() if name not in HELD)
        terms += [
            MemoryTerm("allocator, between blocks", int(FRAGMENTS * passing)),
            MemoryTerm("CUDA and its libraries", CONTEXT),
        ]
    else:
        terms.append(MemoryTerm("the process", placed.process))
    terms.sort(key=lambda term: -term.size)
    return StageMemory(
        stage.name, cluster, ranks, device, largest, tuple(terms), _capacity(device, cluster, ranks), traced, assumed
    )


def _known_trace(
    stage: Stage, parts: Mapping[str, str], cluster: Cluster, one: Pass, world: int, gpu: bool, several: bool
) -> Traced:
    """`trace`, which takes seconds, once for what decides it: searching for settings asks again and again."""
    tuned = stage.model_dump(mode="json", include={"tune"})
    acting = cluster.model_dump(include={"precision", "activation_checkpointing", "offload", "rows", "zero"})
    key = repr((tuned, sorted(parts.items()), acting, one, world, gpu, several))
    if key not in _TRACED:
        _TRACED[key] = trace(stage, parts, cluster, one, world, gpu, several)
    return _TRACED[key]


def _capacity(device: Device, cluster: Cluster, ranks: int) -> int:
    """Bytes that a rank may take: of a GPU its share, of a machine without GPUs a rank's part of its memory."""
    if device.memory is not None:
        return int((device.memory << 20) * (cluster.gpus_per_worker or 1.0))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // ranks
