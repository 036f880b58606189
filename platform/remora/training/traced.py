"""What a stage's largest pass and step take on one rank, without weights, data or a device.

The real composition runs forward and backward on torch's fake tensors, which have shapes and choose kernels as real
ones do, but no memory; `LiveBytes` counts what would be alive, and `Simulated` adds what DeepSpeed holds. So
activations, checkpointing, chunked logits, autocast's copies and a frozen encoder's passing states are those of the
code that trains.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers.initialization import no_init_weights

from remora import catalog
from remora.batch import Batch
from remora.errors import SpecError
from remora.model import vlm
from remora.model.parts import sketch
from remora.model.patches import attention
from remora.model.tuning import parameter_groups
from remora.model.vlm import VisionLanguageModel
from remora.spec import Cluster, Stage
from remora.training.build import set_up
from remora.training.engines.precision import DTYPES
from remora.training.engines.simulated import Simulated
from remora.training.flops import StepFlops
from remora.training.live import LiveBytes
from remora.training.rehearsal import Pass
from remora.training.torch_private import FakeTensorMode, in_place

BACKWARD = "backward pass"


@dataclass(frozen=True)
class Traced:
    """A stage's memory on one rank, in bytes, and its operations."""

    peak: int
    at_peak: Mapping[str, int]
    """What the peak is made of, by term."""
    most: Mapping[str, int]
    """The peak of each term alone: a frozen encoder's states are gone when others come."""
    saved: int
    """Of the forward pass, kept for the backward pass."""
    host: int
    """In host memory: what is offloaded."""
    parameters: Mapping[str, tuple[int, int]]
    """Part -> (all, trained)."""
    flops: Mapping[str, float]
    """Operations a picture, a token and a supervised token, and `squared`: a sample's for its length squared."""


def trace(
    stage: Stage, parts: Mapping[str, str], cluster: Cluster, one: Pass, world: int, gpu: bool, several: bool = False
) -> Traced:
    """Trace the pass `one` of a stage, and a step behind it.

    Args:
        parts: Part -> catalog name.
        world: Ranks.
        gpu: Whether it will run on a GPU: autocast, packed attention and offloading differ.
        several: Whether a step has more than one pass, so that gradients are there already.

    Raises:
        SpecError: no model can be built, or its memory cannot be predicted.
    """
    for part in stage.tune.present:
        if (lora := stage.tune[part].lora) and lora.bits:
            raise SpecError(
                f"stage {stage.name!r}: the memory of weights in {lora.bits} bits is not predicted yet; "
                "plan it without lora's bits, which takes more"
            )
    live = LiveBytes()
    with (
        torch.random.fork_rng(devices=[]),
        FakeTensorMode(allow_non_fake_inputs=True),
        live,
        _as_on_cuda() if gpu else contextlib.nullcontext(),
        mock.patch.object(vlm, "positions_of", _unknown_positions),
    ):
        with no_init_weights(), in_place():
            model = sketched(stage, parts)
        settled = cluster if cluster.zero < 3 else cluster.model_copy(update={"precision": "fp32"})
        with in_place():
            set_up(model, stage, settled, untried=True)  # weights that are split stay fp32
        return _traced(live, model, stage, cluster, one, world, gpu, several)


def sketched(stage: Stage, parts: Mapping[str, str]) -> VisionLanguageModel:
    """The model of a stage, with random weights, or fake ones in torch's fake mode."""
    llm = catalog.llm(parts["llm"])
    if "vision" not in stage.tune.present:
        return sketch(None, None, llm, device="cpu")
    return sketch(catalog.vision(parts["vision"]), catalog.connector(parts["connector"]), llm, device="cpu")


def _traced(
    live: LiveBytes,
    model: VisionLanguageModel,
    stage: Stage,
    cluster: Cluster,
    one: Pass,
    world: int,
    gpu: bool,
    several: bool,
) -> Traced:
    sizes: dict[str, tuple[int, int]] = {}
    for part in stage.tune.present:
        module = model.part(part)
        assert module is not None
        both = [(p.numel(), p.requires_grad) for p in module.parameters()]
        sizes[part] = sum(n for n, _ in both), sum(n for n, trains in both if trains)
    engine = Simulated(live, model, _groups(model, stage), cluster, world, gpu)
    live.peak = 0  # what building took is not of the stage
    flops = StepFlops(model)
    _label(live, model)
    half = DTYPES.get(cluster.precision)
    kind = torch.autocast("cpu", half, enabled=half is not None, cache_enabled=cluster.zero < 3)
    saved = 0
    for number in range(1 + several):
        with live.labelled("batch"):
            batch = _unknown(one.batch(model, cluster.rows == "packed"))
        before = live.total
        with kind:
            loss = model(batch)
        saved = live.total - before
        with live.labelled(BACKWARD):
            loss.backward()
        del loss, batch
        engine.end_pass(last=number == several)
    engine.step()
    units = {str(per): count for per, count in flops.each.items()} | {"squared": flops.squared}
    return Traced(live.peak, dict(live.at_peak), dict(live.most), saved, engine.host_bytes, sizes, units)


def _groups(model: VisionLanguageModel, stage: Stage) -> list[list[Tensor]]:
    """The weights of each of the optimiser's groups."""
    found = [group["params"] for group in parameter_groups(model, stage)]
    return [[p for p in params if isinstance(p, Tensor)] for params in found if isinstance(params, list)]


def _unknown_positions(lengths: Sequence[int]) -> Tensor:
    """Of tokens in a packed row, for the masks of dropout: of known ones each mask would be computed."""
    return torch.zeros(1, sum(lengths)).long()


def _unknown(batch: Batch) -> Batch:
    """The batch with seeds that are fake, so that masks of dropout are, too."""
    return replace(
        batch, keys=torch.zeros(len(batch.keys)).long(), image_keys=torch.zeros(len(batch.image_keys)).long()
    )


def _label(live: LiveBytes, model: VisionLanguageModel) -> None:
    """What is made while a part runs is that part's."""
    named = {
        "activations, vision encoder": model.vision,
        "activations, connector": model.connector,
        "activations, language model": model.llm.base_model,
        "logits and loss": model.llm.get_output_embeddings(),
    }
    for label, module in named.items():
        if module is not None:
            _within(live, module, label)


def _within(live: LiveBytes, module: nn.Module, label: str) -> None:
    entered = contextlib.ExitStack()
    module.register_forward_pre_hook(lambda *_: entered.enter_context(live.labelled(label)))
    module.register_forward_hook(lambda *_: entered.close(), always_call=True)


class _CudaAutocast(TorchFunctionMode):
    """autocast for CUDA computes some functions in fp32 that autocast for CPUs does not (torch.amp's lists)."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func in (F.layer_norm, F.group_norm, F.softmax, torch.softmax) and torch.is_autocast_enabled("cpu"):
            args = tuple(a.float() if isinstance(a, Tensor) else a for a in args)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _as_on_cuda() -> Iterator[None]:
    """During the block, packed rows in half precision are one call of attention, as on CUDA."""

    def in_one_call(*tensors: Tensor) -> bool:
        half = all(t.dtype == tensors[0].dtype in (torch.float16, torch.bfloat16) for t in tensors)
        return half and all(t.shape[-1] % 8 == 0 and t.shape[-1] <= 256 for t in tensors)

    with mock.patch.object(attention, "in_one_call", in_one_call), _CudaAutocast():
        yield
