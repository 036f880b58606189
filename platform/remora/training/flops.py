"""Floating point operations of a step and a device's peak; their ratio is MFU.

Counted: matrix products, convolutions and attention of real tokens and pictures. A frozen layer counts its forward
pass, and the gradient of its input if a part before it trains, but no weight gradient. Causal attention counts half of
each sample's tokens squared. Not counted: padding, the blank picture of a batch without one, recomputation (gradient
checkpointing), elementwise operations, and attention inside a connector.

A `FlopCounterMode` around each step would count padding too, and takes longer than a small model's step. Here layers
are inspected once, in the first pass; a step is then a sum of a few products.

If counting fails, the figure is None and one line is logged; training is not affected.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Concatenate, Literal, ParamSpec, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from remora.batch import Batch
from remora.model.blocks import blocks_of
from remora.model.vision import Unread
from remora.model.vlm import VisionLanguageModel
from remora.spec import Precision

log = logging.getLogger(__name__)
P = ParamSpec("P")
Per = Literal["picture", "token", "supervised token"]

PEAKS: tuple[tuple[str, float, float, float], ...] = (
    ("H100 PCIe", 756e12, 756e12, 51e12),
    ("H100 NVL", 835e12, 835e12, 60e12),
    ("H100", 989e12, 989e12, 67e12),
    ("H200 NVL", 835e12, 835e12, 60e12),
    ("H200", 989e12, 989e12, 67e12),
    ("A100", 312e12, 312e12, 19.5e12),
    ("A10G", 70e12, 70e12, 35e12),
    ("L40S", 362e12, 362e12, 91.6e12),
    ("L4", 121e12, 121e12, 30.3e12),
    ("RTX 4090", 165.2e12, 165.2e12, 82.6e12),
    ("RTX 3090", 71e12, 71e12, 35.6e12),
    ("V100 SXM2", 0.0, 125e12, 15.7e12),
    ("T4", 0.0, 65e12, 8.1e12),
)
"""Words in a GPU's name, then peak operations per second in bf16, fp16 and fp32: dense, with fp32 accumulation; fp32
without TF32, which torch disables by default. The first match counts; 0 if the GPU does not support the dtype.

Sources, NVIDIA's data sheets (where they print figures "with sparsity", half of them): H100 Tensor Core GPU, H200
Tensor Core GPU, A100 80GB, A10G (by AWS), L40S, L4, V100, T4; RTX 4090: Ada GPU
architecture whitepaper, appendix A; RTX 3090: Ampere GA102 GPU architecture whitepaper, table 9."""


def peak_flops(device: torch.device, precision: Precision) -> float | None:
    """Peak operations per second of a device; None for a CPU, or a GPU that is not in the table."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device), precision)


def gpus_here() -> tuple[int, str]:
    """How many GPUs this process sees, and the first one's name; (0, "") without one."""
    count = torch.cuda.device_count()
    return count, torch.cuda.get_device_name() if count else ""


def peak_of(name: str, precision: Precision) -> float | None:
    """The same by the GPU's name in torch."""
    words = f" {name.replace('-', ' ')} "
    for part, bf16, fp16, fp32 in PEAKS:
        if f" {part} " in words:
            return {"bf16": bf16, "fp16": fp16, "fp32": fp32}[precision] or None
    return None


def _harmless(count: Callable[Concatenate[StepFlops, P], None]) -> Callable[Concatenate[StepFlops, P], None]:
    """Wrap `count` so that an error only ends the counting: other libraries' layers may do anything."""

    @functools.wraps(count)
    def counted(self: StepFlops, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.failed is None:
            try:
                count(self, *args, **kwargs)
            except Exception as e:  # noqa: BLE001  a statistic; whatever it is, the step goes on
                self.failed = f"{type(e).__name__}: {e}"
                log.warning("operations of a step are not counted, so there is no mfu: %s", self.failed)

    return counted


class StepFlops:
    """Counts operations of a model's steps. Layers are inspected in the first forward pass after construction.

    Args:
        model: with `requires_grad` set.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        self.model = model
        self.each: dict[Per, float] = dict.fromkeys(("picture", "token", "supervised token"), 0.0)
        """Operations per unit, forward and backward."""
        self.squared = 0.0
        """Operations of the language model's attention for one sample, divided by its tokens squared."""
        self.failed: str | None = None
        """Why operations of this model cannot be counted, or None."""
        self._pictures = 0
        self._hooks = [model.register_forward_pre_hook(self._begin), model.register_forward_hook(self._end)]

    def __call__(self, batches: Sequence[Batch]) -> float | None:
        """Operations of one step over these micro batches, on this rank; None if they cannot be counted."""
        if self.failed is not None:
            return None
        total = 0.0
        for batch in batches:
            lengths = batch.lengths or tuple(batch.mask.sum(1).tolist())
            total += len(batch.pixels) * self.each["picture"] + batch.supervised * self.each["supervised token"]
            total += sum(lengths) * self.each["token"] + sum(n * n for n in lengths) * self.squared
        return total

    @_harmless
    def _begin(self, model: nn.Module, inputs: tuple[Batch]) -> None:
        (batch,) = inputs
        _check_countable(self.model.llm)
        rows = batch.ids.numel()  # what the language model's layers process
        head = self.model.llm.get_output_embeddings()
        narrowed = {m for module in self.model.narrowed for m in module.modules()}
        for part in ("vision", "connector", "llm"):
            module = self.model.part(part)
            per: Per = "token" if part == "llm" else "picture"
            for layer in module.modules() if module is not None else ():
                if layer is head or (layer in narrowed and isinstance(layer, nn.Linear)):
                    self._watch(layer, "supervised token", 0)
                elif isinstance(layer, nn.Linear | nn.Conv2d):
                    self._watch(layer, per, rows if part == "llm" else 0)
        if self.model.vision is not None:
            self._hooks.append(self.model.vision.register_forward_pre_hook(self._picture))
            for block in blocks_of(self.model.vision)[0]:
                if not isinstance(block, Unread):
                    self._hooks.append(block.register_forward_hook(self._seeing))
        for block in blocks_of(self.model.llm)[0]:
            self._hooks.append(block.register_forward_hook(self._reading))

    def _end(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    @_harmless
    def _picture(self, tower: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._pictures = len(inputs[0])

    def _watch(self, layer: nn.Module, per: Per, count: int) -> None:
        """Add the operations of a call of the layer, per unit of `count`, or of `_pictures` if that is 0."""

        @_harmless
        def count_call(self: StepFlops, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            (given,) = inputs
            if isinstance(layer, nn.Conv2d):
                work = out.numel() * layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
            else:
                linear = cast(nn.Linear, layer)
                rows = 1 if per == "supervised token" else given.numel() // linear.in_features
                work = rows * linear.in_features * linear.out_features
            of = 1 if per == "supervised token" else count or self._pictures
            weight = cast(Tensor, layer.weight).requires_grad
            self.each[per] += 2 * work / of * (1 + torch.is_grad_enabled() * (given.requires_grad + weight))

        self._hooks.append(layer.register_forward_hook(lambda module, inputs, out: count_call(self, inputs, out)))

    @_harmless
    def _seeing(self, block: nn.Module, inputs: tuple[Tensor, ...], out: object) -> None:
        """A transformer block: every token of a picture, or of a tile, attends to every other."""
        first = _first(out)
        if first.dim() == 3:
            tiles, tokens, width = first.shape
            self.each["picture"] += tiles * 4 * tokens**2 * width * _both_ways(first) / self._pictures

    @_harmless
    def _reading(self, block: nn.Module, inputs: object, out: object) -> None:
        self.squared += 4 * attention_width(self.model.llm.config) * _both_ways(_first(out)) / 2


def _check_countable(llm: PreTrainedModel) -> None:
    """Raises:
    ValueError: it has matrices outside linear layers, such as fused experts, which would not be counted.
    """
    for name, module in llm.named_modules():
        if not isinstance(module, nn.Linear | nn.Embedding | nn.Conv1d | nn.Conv2d):
            for kind, weight in module.named_parameters(recurse=False):
                if weight.dim() > 1:
                    raise ValueError(f"{name}.{kind} of the language model is no linear layer's")


def attention_width(config: PretrainedConfig) -> int:
    """Total channels of all query heads of a language model, from its transformers config.

    `head_dim` may be missing or null (Mixtral), and a multimodal config has the language model's in `text_config`.
    Fewer key heads (grouped-query attention) save weights, but no operations of attention.
    """
    get = getattr(config, "get_text_config", None)
    config = get() if get else config
    heads, own = getattr(config, "num_attention_heads", None), getattr(config, "head_dim", None)
    return heads * own if heads and own else config.hidden_size


def _first(out: object) -> Tensor:
    first = out[0] if isinstance(out, tuple) else out
    assert isinstance(first, Tensor)
    return first


def _both_ways(out: Tensor) -> int:
    """How often the two matrix products of attention run: once forward, twice backward."""
    return 3 if out.requires_grad else 1
