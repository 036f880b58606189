"""All that is used of DeepSpeed beyond its documentation, one function a hook.

A release may change any of it without notice. tests/training/test_hooks.py has a test for each, which says what breaks
without the hook and fails if a release no longer needs it, so that it can go.
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
    """The library, set up for this process. Only who trains pays for its import."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with without_mlflow():
        import deepspeed
    compile_no_op()
    split.split_by(ZeroParameters())
    return deepspeed


@contextlib.contextmanager
def without_mlflow() -> Iterator[None]:
    """In the block mlflow cannot be imported: DeepSpeed's autotuner, which nothing here uses, loads it where it is
    installed, 0.9 s of a worker's start."""
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["mlflow"]


def compile_no_op() -> None:
    """On a CPU, init would compile this op: 65 s, a compiler needed, and a process killed meanwhile leaves a lock file
    that hangs every later run. It only serves inference all-reduce."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def torch_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimiser that was given to DeepSpeed, below the one that it gives back."""
    return getattr(optimizer, "optimizer", optimizer)


def stepped(optimizer: Any, zero: int) -> list[Tensor]:
    """The tensors that torch's optimiser keeps a state for.

    At stage 3 DeepSpeed shows it the flat partitions only while it steps; the groups are empty in between.
    """
    held = optimizer.fp32_partitioned_groups_flat if zero == 3 else []
    return [*held, *(p for group in torch_optimizer(optimizer).param_groups for p in group["params"])]


def link_states(optimizer: Any, zero: int) -> None:
    """Tie each parameter to its slice of AdamW's state (ZeRO 1 and 2).

    DeepSpeed does it once, after the first group's first step: later groups have no state yet and are left without a
    link ("exp_avg not found"), and a state that is loaded before any step is not linked at all.
    """
    if zero in (1, 2):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def tell_scale(optimizer: Any, scale: float) -> None:
    """The loss scale that ZeRO 1 to 3 put on losses and take out of gradients before they clip. Their own comes with
    the fp16 block, which refuses a CPU."""
    optimizer.override_loss_scale(scale)


def sum_nothing(engine: Any) -> None:
    """A single rank at stage 0 has nothing to sum, but DeepSpeed would copy every gradient into a bucket and back."""
    engine.enable_backward_allreduce = False


class ZeroParameters:
    """Weights that ZeRO 3 split, as `remora.model.split` asks for them. DeepSpeed gives parameters methods of its own;
    its documented `GatheredParameters` broadcasts what was written, which every rank has."""

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
