"""Floating point operations of a step, and how many a device could do: their ratio is MFU.

Counted is what the step needs: matrix products, convolutions and attention of real tokens and real pictures. A frozen
layer counts its forward pass, and the gradient of its input where a part before it trains; the gradient of its weight
it does not have. Causal attention counts half of each sample's tokens squared, since what lies above the diagonal is
never computed. Not counted: padding, the blank picture of a batch without one, what is computed a second time to save
memory, elementwise work, and attention inside a connector.

A `FlopCounterMode` around each step would count padding too and costs more than a small model's step. Here the layers
are looked at once, in the first pass, and a step is then a sum of a few products.

Counting is a statistic: what goes wrong in it costs the figure (None, with one line in the log), never a step.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Literal, ParamSpec, cast

import torch
from torch import Tensor, nn

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
    ("L40S", 362e12, 362e12, 91.6e12),
    ("L4", 121e12, 121e12, 30.3e12),
    ("RTX 4090", 165.2e12, 165.2e12, 82.6e12),
    ("RTX 3090", 71e12, 71e12, 35.6e12),
    ("V100 SXM2", 0.0, 125e12, 15.7e12),
    ("T4", 0.0, 65e12, 8.1e12),
)
"""Words of a GPU's name, then operations a second in bf16, fp16 and fp32: dense, adding up in fp32; fp32 without TF32,
which torch leaves off. The first that fits counts; 0 where the GPU has no such unit.

Sources, NVIDIA's data sheets (where they print figures "with sparsity", half of them): H100 Tensor Core GPU, H200
Tensor Core GPU, A100 80GB, L40S, L4, V100, T4; RTX 4090: Ada GPU architecture whitepaper, appendix A; RTX 3090: Ampere
GA102 GPU architecture whitepaper, table 9."""


def peak_flops(device: torch.device, precision: Precision) -> float | None:
    """Operations a second of a device at most; None for a CPU, and for a GPU that the table does not have."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device), precision)


def peak_of(name: str, precision: Precision) -> float | None:
    """The same by the GPU's name, as torch says it."""
    words = f" {name.replace('-', ' ')} "
    for part, bf16, fp16, fp32 in PEAKS:
        if f" {part} " in words:
            return {"bf16": bf16, "fp16": fp16, "fp32": fp32}[precision] or None
    return None


def _harmless(count: Callable[Concatenate[StepFlops, P], None]) -> Callable[Concatenate[StepFlops, P], None]:
    """`count`, whose failure ends the counting and nothing else: layers of other people's models may be anything."""

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
    """Counts a model's steps. Its layers are seen in the first forward pass after this is made.

    Args:
        model: with `requires_grad` set.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        self.model = model
        self.each: dict[Per, float] = dict.fromkeys(("picture", "token", "supervised token"), 0.0)
        """Operations for one of them, forward and backward."""
        self.squared = 0.0
        """Operations of the language model's attention, for one sample, over its tokens squared."""
        self.failed: str | None = None
        """Why this model's operations cannot be counted."""
        self._pictures = 0
        self._hooks = [model.register_forward_pre_hook(self._begin), model.register_forward_hook(self._end)]

    def __call__(self, batches: Sequence[Batch]) -> float | None:
        """Operations of one step over these micro batches, on this rank; None where they cannot be counted."""
        if self.failed is not None:
            return None
        total = 0.0
        for batch in batches:
            lengths = batch.lengths or tuple(batch.mask.sum(1).tolist())
            total += len(batch.pixels) * self.each["picture"] + batch.supervised * self.each["supervised token"]
            total += sum(lengths) * self.each["token"] + sum(n * n for n in lengths) * self.squared
        return total

    @_harmless
    def _begin(self, model: nn.Module, inputs: Any) -> None:
        (batch,) = inputs
        _check_countable(self.model.llm)
        rows = batch.ids.numel()  # what the language model's layers get to see
        head = self.model.llm.get_output_embeddings()  # type: ignore[operator]
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

    def _end(self, *_: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    @_harmless
    def _picture(self, tower: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._pictures = len(inputs[0])

    def _watch(self, layer: nn.Module, per: Per, count: int) -> None:
        """Add the operations of one of the layer's calls to what one of `count` costs; of `_pictures`, if that is 0."""

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
    def _seeing(self, block: nn.Module, inputs: tuple[Tensor, ...], out: Any) -> None:
        """A transformer's block: every token of a picture, or of a tile of it, sees every other."""
        first = _first(out)
        if first.dim() == 3:
            tiles, tokens, width = first.shape
            self.each["picture"] += tiles * 4 * tokens**2 * width * _both_ways(first) / self._pictures

    @_harmless
    def _reading(self, block: nn.Module, inputs: Any, out: Any) -> None:
        self.squared += 4 * attention_width(self.model.llm.config) * _both_ways(_first(out)) / 2


def _check_countable(llm: nn.Module) -> None:
    """Raises:
    ValueError: matrices that no linear layer holds, such as a mixture's fused experts: a figure without them is wrong.
    """
    for name, module in llm.named_modules():
        if not isinstance(module, nn.Linear | nn.Embedding | nn.Conv1d | nn.Conv2d):
            for kind, weight in module.named_parameters(recurse=False):
                if weight.dim() > 1:
                    raise ValueError(f"{name}.{kind} of the language model is no linear layer's")


def attention_width(config: Any) -> int:
    """Channels of all query heads of a language model together, by its transformers config.

    `head_dim` may be missing or null (Mixtral), and a config of several models keeps the language model's in
    `text_config`. Fewer key heads (grouped queries) save weights, but no operation of the attention.
    """
    get = getattr(config, "get_text_config", None)
    config = get() if get else config
    heads, own = getattr(config, "num_attention_heads", None), getattr(config, "head_dim", None)
    return heads * own if heads and own else config.hidden_size


def _first(out: Any) -> Tensor:
    return cast(Tensor, out[0] if isinstance(out, tuple) else out)


def _both_ways(out: Tensor) -> int:
    """How often two matrix products of an attention are done: forward, and twice as many backward."""
    return 3 if out.requires_grad else 1
