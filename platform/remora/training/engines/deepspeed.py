"""DeepSpeed: gradients summed over ranks, an AdamW step, state in and out under parameter names.

Some of DeepSpeed's features are replaced here. The optimiser is torch's AdamW (a DeepSpeed "optimizer" block compiles a
kernel at first use, two minutes on a CPU). Rates are set before each step. AdamW's state is read and written as full
named tensors, because DeepSpeed's checkpoints are tied to world size and ZeRO stage.

Half precision is torch.autocast around the forward pass: trained weights, gradients, their sums over ranks and AdamW's
state are fp32 at every ZeRO stage. DeepSpeed's bf16 block would take a step with zero gradients before the first at
stage 0, and its fp16 block does not support CPUs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from remora.batch import Batch
from remora.model.patches.activations import plain_name
from remora.model.split import whole
from remora.model.vlm import VisionLanguageModel
from remora.processes import peak_memory
from remora.spec import Cluster, Stage
from remora.training.engines import hooks
from remora.training.engines.precision import DTYPES, LossScale
from remora.training.engines.protocol import Told

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state tensors for a parameter."""


def _config(cluster: Cluster, clip: float | None = None) -> dict[str, object]:
    # Buckets of DeepSpeed's default size would reserve 2 GB for a model of a few MB.
    zero: dict[str, object] = {"stage": cluster.zero, "reduce_bucket_size": 5e7, "allgather_bucket_size": 5e7}
    host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if cluster.offload != "none":
        zero["offload_optimizer"] = host
    if cluster.offload == "all":
        zero["offload_param"] = host
    return {
        # The number of samples per pass and of passes per step varies, so `backward` is told which pass is the last.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip or 0.0,
        "zero_optimization": zero,
        # With offloading it would use its own AdamW, which is compiled at first use (100 s); torch's gives equal
        # losses.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


@contextlib.contextmanager
def loading(cluster: Cluster) -> Iterator[None]:
    """During the block, at ZeRO 3, transformers builds and loads models sharded over ranks: a rank has its shards and
    one full parameter at a time. Only rank 0 reads the files.

    transformers keeps this setting in a global of the process.
    """
    if cluster.zero < 3:
        yield
        return
    hooks.deepspeed()
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    kept = HfDeepSpeedConfig(_config(cluster))  # transformers has only a weak reference to it
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del kept


class DeepSpeedEngine:
    """One model under DeepSpeed; arguments as in `engines.create`, methods as in `Engine`."""

    def __init__(
        self, model: VisionLanguageModel, groups: Sequence[dict[str, Any]], stage: Stage, cluster: Cluster, step: int
    ) -> None:
        self.model = model
        self.zero = cluster.zero
        self.clip = stage.clip
        self.peaks: Mapping[str, float] = {str(group["part"]): float(group["lr"]) for group in groups}
        optimizer = torch.optim.AdamW([dict(g) for g in groups], betas=stage.betas, eps=stage.eps, fused=True)
        self.engine, self.optimizer, _, _ = hooks.deepspeed().initialize(
            model=model, optimizer=optimizer, config=_config(cluster, stage.clip if self.zero else None)
        )
        self.names = {id(p): plain_name(n) for n, p in model.named_parameters() if p.requires_grad}
        self.device = self.engine.device
        self.world = dist.get_world_size()
        self.rank = dist.get_rank()
        if self.zero == 0 and self.world == 1:
            hooks.sum_nothing(self.engine)
        self.dtype = DTYPES.get(cluster.precision)
        self.scale = LossScale(cluster.precision)
        self._create_state(step)

    @property
    def loss_scale(self) -> float:
        return self.scale.value

    def tell(self, *values: float) -> list[list[float]]:
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        told = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(told, mine)
        return torch.stack(told, 1).tolist()

    def gather(self, named: Mapping[str, Told]) -> dict[str, Told]:
        told: list[dict[str, Told]] = [{}] * self.world
        dist.all_gather_object(told, dict(named))
        return {k: v for one in told for k, v in one.items()}

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        training = [module for module in self.engine.modules() if module.training]
        self.engine.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module in training:  # not `train()`: frozen parts stay as they are
                module.training = True

    def forward(self, batch: Batch) -> Tensor:
        half = self.dtype is not None
        with torch.autocast(self.device.type, self.dtype, enabled=half, cache_enabled=self.zero < 3):
            return self.engine(batch.to(self.device))

    def backward(self, loss: Tensor, tokens: float, last: bool) -> None:
        if self.scale.used and self.zero:
            hooks.tell_scale(self.optimizer, self.scale.value)
        self.engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages over ranks; `world` undoes it.
        self.engine.backward(loss * (self.world / tokens) * (1.0 if self.zero else self.scale.value))

    def step(self, factor: float) -> float | None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.peaks[group["part"]] * factor
        if self.zero:  # DeepSpeed checks the norm and skips the step if it is not finite
            self.engine.step()
            norm = float(self.engine.get_global_grad_norm())
        else:  # at stage 0 it has no norm and takes any step; gradients are not sharded
            norm = self._clip_whole()
            if math.isfinite(norm):
                self.engine.step()
            else:
                self.engine.zero_grad()
        return None if self.scale.overflowed(norm) else norm

    def _clip_whole(self) -> float:
        """Clip gradients at stage 0, where DeepSpeed does not; returns their norm.

        Squares are summed in float64: torch's fp32 sum on a CPU is off by 3e-5 for 2,048 tokens' embeddings, and
        clipping would carry that into every step.
        """
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self.scale.value != 1.0:
            torch._foreach_mul_(grads, 1 / self.scale.value)
        norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in grads]
        norm = float(torch.linalg.vector_norm(torch.stack(norms)))
        if self.clip and math.isfinite(norm) and norm > self.clip:
            torch._foreach_mul_(grads, self.clip / (norm + 1e-6))
        return norm

    def memory(self) -> float:
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return peak / (1 << 30)
        return peak_memory() / (1 << 30)

    # Full state by name, on every rank. All ranks must call these together.

    def weights(self, module: nn.Module, trained_only: bool = False) -> dict[str, Tensor]:
        kept = {}
        for name, parameter in module.named_parameters(remove_duplicate=trained_only):
            if parameter.requires_grad or not trained_only:
                with whole([parameter]):  # at stage 3, one at a time
                    if self.rank == 0:
                        kept[plain_name(name)] = parameter.detach().cpu().clone()
        if trained_only or self.rank:
            return kept
        # In the module's order, with buffers; a weight shared by two modules has both names.
        return {n: kept[n] if n in kept else t.detach().cpu().clone() for n, t in module.state_dict().items()}

    def moments(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_optimizer_state

        hooks.link_states(self.optimizer, self.zero)
        state: dict[str, Tensor] = {}
        for p in self.model.parameters():
            if p.requires_grad:
                for moment in MOMENTS:
                    value = (
                        self.optimizer.state[p][moment] if self.zero == 0 else safe_get_full_optimizer_state(p, moment)
                    )
                    if self.rank == 0:
                        state[f"{moment}.{self.names[id(p)]}"] = value.detach().float().cpu().clone()
        return state

    def _create_state(self, step: int) -> None:
        """Allocate AdamW's state as zeros before the first step, so that its memory is taken before training begins."""
        state = hooks.torch_optimizer(self.optimizer).state
        for p in hooks.stepped(self.optimizer, self.zero):
            state[p] = {
                "step": torch.tensor(float(step), device=p.device),  # the fused kernel needs it there
                **{moment: torch.zeros_like(p, dtype=torch.float32) for moment in MOMENTS},
            }
        hooks.link_states(self.optimizer, self.zero)

    def state(self) -> dict[str, object]:
        return {"scale": [self.scale.value, self.scale.good]} if self.scale.used else {}

    def load(self, moments: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        for p in self.model.parameters():
            if p.requires_grad:
                for moment in MOMENTS:
                    value = moments[f"{moment}.{self.names[id(p)]}"].to(self.device)
                    if self.zero == 0:
                        self.optimizer.state[p][moment].copy_(value)
                    else:
                        safe_set_full_optimizer_state(p, value, moment)
        if self.scale.used and "scale" in state:  # the previous attempt may have had another precision
            self.scale.value, self.scale.good = state["scale"]

    def close(self) -> None:
        self.engine.destroy()
