"""Run by the single rank of test_hooks: DeepSpeed with and without each hook. Writes its results as JSON.

hook_ranks.py out.json

There is no compiler on its PATH, and a lock that a killed build left where DeepSpeed would build.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from remora.model import split
from remora.training.engines import hooks

ZERO = (1, 2, 3)
SCALE = 1024.0


class Noted(MetaPathFinder):
    """Records imports of mlflow and refuses them."""

    asked = 0

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "mlflow":
            self.asked += 1
            raise ModuleNotFoundError(name)


def autotuner(hidden: bool) -> int:
    """How often DeepSpeed's autotuner looks for mlflow as it is imported."""
    noted = Noted()
    sys.meta_path.insert(0, noted)
    try:
        tuner = sys.modules["deepspeed.autotuning.autotuner"]
        if hidden:
            with hooks.without_mlflow():
                importlib.reload(tuner)
        else:
            importlib.reload(tuner)
    finally:
        sys.meta_path.remove(noted)
    return noted.asked


def initialized(zero: int) -> tuple[nn.Module, Any, Any]:
    """Two layers in two groups under DeepSpeed."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = torch.optim.AdamW([{"params": list(layer.parameters())} for layer in net], lr=0.1)
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": zero}}
    config |= {"zero_force_ds_cpu_optimizer": False, "steps_per_print": 10**9}
    engine, optimizer, _, _ = hooks.deepspeed().initialize(model=net, optimizer=optimizer, config=config)
    return net, engine, optimizer


def backward(engine: Any) -> float:
    """Add gradients; the largest slope that enters the layers."""
    out, slopes = engine(torch.ones(1, 2)), []
    out.register_hook(lambda slope: slopes.append(float(slope.abs().max())))
    engine.backward(out.sum())
    return slopes[0]


def linked(net: nn.Module) -> int:
    """How many parameters have a first moment that can be read."""
    from deepspeed.utils import safe_get_full_optimizer_state

    found = 0
    for parameter in net.parameters():
        try:
            found += safe_get_full_optimizer_state(parameter, "exp_avg") is not None
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return found


def at_stage(zero: int) -> dict[str, Any]:
    net, engine, optimizer = initialized(zero)
    groups = hooks.torch_optimizer(optimizer).param_groups
    seen: dict[str, Any] = {
        "above": type(optimizer).__name__,
        "below": type(hooks.torch_optimizer(optimizer)).__name__,
        "numbers in groups": sum(p.numel() for group in groups for p in group["params"]),
        "numbers stepped": sum(p.numel() for p in hooks.stepped(optimizer, zero)),
    }
    for p in hooks.stepped(optimizer, zero):
        moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
        hooks.torch_optimizer(optimizer).state[p] = {"step": torch.tensor(0.0), **moments}
    seen["linked without"] = linked(net)
    hooks.link_states(optimizer, zero)
    seen["linked"] = linked(net)
    for name, scale in (("unscaled", None), ("scaled", SCALE)):
        if scale:
            hooks.tell_scale(optimizer, scale)
        slope = backward(engine)
        engine.step()
        seen[name] = {"slope": slope, "norm": float(engine.get_global_grad_norm())}
    engine.destroy()
    return seen


def copies(nothing: bool) -> int:
    """How often a rank at stage 0 hands its gradients to a collective."""
    _, engine, _ = initialized(0)
    if nothing:
        hooks.sum_nothing(engine)
    calls, reduce = 0, dist.all_reduce

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return reduce(*args, **kwargs)

    dist.all_reduce = counted
    try:
        backward(engine)
    finally:
        dist.all_reduce = reduce
    engine.destroy()
    return calls


def split_weights() -> dict[str, Any]:
    with hooks.deepspeed().zero.Init(config_dict_or_path={"train_batch_size": 1, "zero_optimization": {"stage": 3}}):
        layer = nn.Linear(3, 2)
    weight, like = layer.weight, nn.Linear(4, 5)
    seen = {"is split": split.is_split(weight), "held": list(weight.shape), "shape": list(split.shape_of(weight))}
    with torch.no_grad(), split.whole([weight], written=True):
        weight.fill_(7.0)
    with split.whole([weight]):
        seen["written"] = weight.tolist()
    with torch.no_grad(), hooks.deepspeed().zero.GatheredParameters([weight]):
        weight.fill_(8.0)
    with split.whole([weight]):
        seen["written as documented, without a broadcast"] = weight.tolist()
    split.split_like(like, layer)
    return seen | {"like": list(split.shape_of(like.weight)), "like is split": split.is_split(like.weight)}


def main() -> None:
    dist.init_process_group("gloo")
    hooks.deepspeed()
    seen: dict[str, Any] = {"mlflow": "mlflow" in sys.modules, "asked": autotuner(True), "without": autotuner(False)}
    seen |= {str(zero): at_stage(zero) for zero in ZERO}
    seen |= {"sums": copies(nothing=True), "sums without": copies(nothing=False), "split": split_weights()}
    import deepspeed.ops
    from deepspeed.accelerator import get_accelerator

    comm = importlib.import_module("deepspeed.comm.torch")  # as an attribute, `torch` is torch there

    class Built(Exception): ...

    def built(*_: Any) -> None:
        raise Built

    op: Any = get_accelerator().get_op_builder("ShareMemCommBuilder")
    op.load = built
    seen["op"] = comm.build_shm_op() is not None
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = True
    try:
        comm.build_shm_op()
        seen["op without"] = False
    except Built:
        seen["op without"] = True
    Path(sys.argv[1]).write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
