"""Hooks into undocumented parts of DeepSpeed, one function each.

Any release may change them without notice. tests/training/test_hooks.py has a test for each, which says what breaks
without the hook and fails if a release no longer needs it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from remora.model import split


@cache
def deepspeed() -> Any:
    """The library, set up for this process. It is imported only when training."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with without_mlflow():
        import deepspeed
    compile_no_op()
    split.split_by(ZeroParameters())
    return deepspeed


@contextlib.contextmanager
def without_mlflow() -> Iterator[None]:
    """During the block mlflow cannot be imported: DeepSpeed's autotuner, which is not used here, imports it if it is
    installed, which takes 0.9 s of a worker's start."""
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["mlflow"]


def compile_no_op() -> None:
    """On a CPU, init would compile this op. That takes 65 s and a compiler, and a process killed meanwhile leaves a
    lock file that hangs every later run. The op is only used for inference all-reduce."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def torch_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimiser that was passed to DeepSpeed, inside the one that it returns."""
    return getattr(optimizer, "optimizer", optimizer)


def stepped(optimizer: Any, zero: int) -> list[Tensor]:
    """The tensors that torch's optimiser has a state for.

    At stage 3 its groups have the flat partitions only during a step; in between they are empty.
    """
    held = optimizer.fp32_partitioned_groups_flat if zero == 3 else []
    return [*held, *(p for group in torch_optimizer(optimizer).param_groups for p in group["params"])]


def link_states(optimizer: Any, zero: int) -> None:
    """Link each parameter to its slice of AdamW's state (ZeRO 1 and 2).

    DeepSpeed does it once, after the first group's first step. Later groups have no state yet and stay unlinked
    ("exp_avg not found"), and a state that is loaded before any step is never linked.
    """
    if zero in (1, 2):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def tell_scale(optimizer: Any, scale: float) -> None:
    """Set the loss scale by which ZeRO 1 to 3 multiply losses, and divide gradients before clipping. DeepSpeed's own is
    part of the fp16 block, which does not support CPUs."""
    optimizer.override_loss_scale(scale)


def sum_nothing(engine: Any) -> None:
    """Skip the all-reduce of a single rank at stage 0, where DeepSpeed would copy every gradient to a bucket and
    back."""
    engine.enable_backward_allreduce = False


class ZeroParameters:
    """ZeRO 3's sharded weights for `remora.model.split`, by the methods that DeepSpeed adds to parameters. Its
    documented `GatheredParameters` would broadcast written values, which every rank has already."""

    def is_split(self, tensor: Tensor) -> bool:
        return hasattr(tensor, "ds_id")

    def shape_of(self, parameter: Any) -> torch.Size:
        return parameter.ds_shape

    def gather(self, parameters: Sequence[Any]) -> None:
        parameters[0].all_gather(param_list=list(parameters))

    def release(self, parameters: Sequence[Any], written: bool) -> None:
        parameters[0].partition(param_list=list(parameters), has_been_updated=written)

    def split_like(self, parameters: Sequence[nn.Parameter], like: Any) -> None:
        like.convert_to_zero_parameters(list(parameters))
