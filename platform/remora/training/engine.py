"""DeepSpeed, and nothing else: gradients summed over ranks, an AdamW step, state in and out under parameter names.

What DeepSpeed would decide by itself is decided here instead. The optimiser is torch's AdamW (a DeepSpeed "optimizer"
block compiles a kernel at first use, two minutes on a CPU), rates are set by the caller before each step, and the
optimiser's state is read and written as full named tensors, because DeepSpeed's own checkpoints are tied to the world
size and the ZeRO stage.

Half precision is torch.autocast around the forward pass: trained weights, gradients, their sums over ranks and AdamW's
state are fp32 at every ZeRO stage. DeepSpeed's bf16 block would take a step with zero gradients before the first at
stage 0, and its fp16 block refuses a CPU.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from remora.batch import Batch
from remora.model.split import whole
from remora.model.vlm import VisionLanguageModel
from remora.spec import Cluster, Stage

Said = TypeVar("Said")
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state tensors for a parameter."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_SCALE, GROW_AFTER = 2.0**16, 1000
"""fp16's loss scale at the start, as torch.amp.GradScaler's, and after how many good steps it doubles, half of its."""


def _deepspeed() -> Any:
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed's autotuner, which nothing here uses, loads mlflow where it is installed: 0.9 s of a worker's start.
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed
        import deepspeed.ops
    finally:
        if hidden:
            del sys.modules["mlflow"]

    # On a CPU, init compiles this op: 65 s, a compiler needed, and a process killed meanwhile leaves a lock file that
    # hangs every later run. It only serves inference all-reduce. The table is private; a test holds that it works.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _config(cluster: Cluster, clip: float | None = None) -> dict[str, Any]:
    # Buckets of DeepSpeed's default size would reserve 2 GB for a model of a few MB.
    zero: dict[str, Any] = {"stage": cluster.zero, "reduce_bucket_size": 5e7, "allgather_bucket_size": 5e7}
    host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if cluster.offload != "none":
        zero["offload_optimizer"] = host
    if cluster.offload == "all":
        zero["offload_param"] = host
    return {
        # Passes differ in samples and steps in passes, so `backward` says which pass is a step's last.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip or 0.0,
        "zero_optimization": zero,
        # Offloading, it would have its own AdamW, which is compiled at first use (100 s); torch's is told apart by no
        # loss.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


@contextlib.contextmanager
def loading(cluster: Cluster) -> Iterator[None]:
    """In the block, at ZeRO 3, what transformers builds or loads is split over the ranks from the start: a rank holds
    its share, and one parameter whole at a time. Rank 0 alone reads the files.

    transformers keeps this in a global, whose name it shares with everybody in the process.
    """
    if cluster.zero < 3:
        yield
        return
    _deepspeed()
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    kept = HfDeepSpeedConfig(_config(cluster))  # transformers refers to it weakly
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del kept


class Engine:
    """One model under DeepSpeed.

    Args:
        model: with `requires_grad` set; its weights are what training starts from.
        groups: optimiser groups with `params`, `lr`, `weight_decay` and `part`.
        stage: betas, eps and clipping.
        cluster: ZeRO stage and precision.
        step: the optimiser steps that were taken before.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        groups: Sequence[dict[str, Any]],
        stage: Stage,
        cluster: Cluster,
        step: int = 0,
    ) -> None:
        ds = _deepspeed()
        self.model = model
        self.zero = cluster.zero
        self.clip = stage.clip
        optimizer = torch.optim.AdamW([dict(g) for g in groups], betas=stage.betas, eps=stage.eps, fused=True)
        self.engine, self.optimizer, _, _ = ds.initialize(
            model=model, optimizer=optimizer, config=_config(cluster, stage.clip if self.zero else None)
        )
        self.names = {id(p): n for n, p in model.named_parameters() if p.requires_grad}
        self.device = self.engine.device
        self.world = dist.get_world_size()
        self.rank = dist.get_rank()
        if self.zero == 0 and self.world == 1:
            # There is nothing to sum, but DeepSpeed would copy every gradient into a bucket and back.
            self.engine.enable_backward_allreduce = False
        self.dtype = DTYPES.get(cluster.precision)
        self.scale = FIRST_SCALE if cluster.precision == "fp16" else 1.0
        self.good = 0
        """Steps since fp16's loss scale last changed."""
        self._create_state(step)

    def tell(self, *values: float) -> list[list[float]]:
        """Each value as all ranks have it (float64), in the order of ranks. One collective."""
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        told = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(told, mine)
        return torch.stack(told, 1).tolist()

    def gather(self, named: Mapping[str, Said]) -> dict[str, Said]:
        """What all ranks say, on every rank, in the order of ranks."""
        said: list[dict[str, Said]] = [{}] * self.world
        dist.all_gather_object(said, dict(named))
        return {k: v for one in said for k, v in one.items()}

    def forward(self, batch: Batch) -> Tensor:
        """The summed loss of a micro batch (nats), on the graph."""
        half = self.dtype is not None
        with torch.autocast(self.device.type, self.dtype, enabled=half, cache_enabled=self.zero < 3):
            return self.engine(batch.to(self.device))

    def backward(self, loss: Tensor, tokens: float, last: bool) -> None:
        """Add the gradients of a micro batch's summed loss, `last` or not of its step.

        `tokens` is the supervised tokens of the whole global batch. DeepSpeed averages over ranks; the factor undoes
        it, so that gradients are those of sum / tokens for any split.
        """
        if self.dtype == torch.float16 and self.zero:
            self.optimizer.override_loss_scale(self.scale)  # DeepSpeed takes it out again before it clips
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * (self.world / tokens) * (1.0 if self.zero else self.scale))

    def step(self, rates: Sequence[float]) -> float:
        """Take the optimiser step with one rate a group; returns the gradient norm before clipping.

        If that is no finite number, nothing was changed and the gradients are gone.
        """
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if self.zero:  # DeepSpeed looks at the norm itself and leaves such a step out
            self.engine.step()
            return float(self.engine.get_global_grad_norm())
        # At stage 0 it keeps no norm and takes any step; the gradients are whole there.
        norm = self._clip_whole()
        if math.isfinite(norm):
            self.engine.step()
        else:
            self.engine.zero_grad()
        return norm

    def _clip_whole(self) -> float:
        """The gradients' norm at stage 0, clipped by what DeepSpeed clips at the others.

        Squares are summed in float64: torch's fp32 sum on a CPU is off by 3e-5 for 2,048 tokens' embeddings, and
        clipping carries that into every step.
        """
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self.scale != 1.0:
            torch._foreach_mul_(grads, 1 / self.scale)
        norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in grads]
        norm = float(torch.linalg.vector_norm(torch.stack(norms)))
        if self.clip and math.isfinite(norm) and norm > self.clip:
            torch._foreach_mul_(grads, self.clip / (norm + 1e-6))
        return norm

    def rescale(self, overflow: bool) -> bool:
        """After an fp16 step: whether it is to be taken again, at half the loss scale. The scale grows after good ones.

        torch's own scaler leaves the step out, and so loses its samples.
        """
        if self.dtype != torch.float16:
            return False
        again = overflow and self.scale > 1.0
        self.good = 0 if again else self.good + 1
        if again or self.good == GROW_AFTER:
            self.scale, self.good = self.scale * (0.5 if again else 2.0), 0
        return again

    def memory(self) -> float:
        """GiB: the most that the GPU had allocated since this was last asked; on a CPU, the process's peak so far."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return peak / (1 << 30)
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts KiB, but on macOS bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / (1 << 30)

    # State, whole and by name, on every rank. All ranks must call these together.

    def weights(self, module: nn.Module, trained_only: bool = False) -> dict[str, Tensor]:
        """The module's parameters and buffers (only the trained parameters if asked), on the CPU, by its own names.

        On rank 0; the others have none. At stage 3 one parameter at a time is whole.
        """
        kept = {}
        for name, parameter in module.named_parameters(remove_duplicate=trained_only):
            if parameter.requires_grad or not trained_only:
                with whole([parameter]):
                    if self.rank == 0:
                        kept[name] = parameter.detach().cpu().clone()
        if trained_only or self.rank:
            return kept
        # In the module's own order, with its buffers; a weight that two modules share is there under both names.
        return {n: kept[n] if n in kept else t.detach().cpu().clone() for n, t in module.state_dict().items()}

    def moments(self) -> dict[str, Tensor]:
        """AdamW's state as `exp_avg.<parameter>` and `exp_avg_sq.<parameter>`, fp32, on the CPU of rank 0."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link()
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
        """AdamW's state as zeros, before the first step: what memory it takes is taken before training begins."""
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        # At stage 3 DeepSpeed shows its flat partitions to AdamW only while it steps; the groups are empty in between.
        held = self.optimizer.fp32_partitioned_groups_flat if self.zero == 3 else []
        for p in [*held, *(p for group in inner.param_groups for p in group["params"])]:
            inner.state[p] = {
                "step": torch.tensor(float(step), device=p.device),  # the fused kernel reads it there
                **{moment: torch.zeros_like(p, dtype=torch.float32) for moment in MOMENTS},
            }
        self._link()

    def load_moments(self, state: Mapping[str, Tensor]) -> None:
        """Put AdamW's state back, before the first step. Rates are set at each step and are not part of it."""
        from deepspeed.utils import safe_set_full_optimizer_state

        for p in self.model.parameters():
            if p.requires_grad:
                for moment in MOMENTS:
                    value = state[f"{moment}.{self.names[id(p)]}"].to(self.device)
                    if self.zero == 0:
                        self.optimizer.state[p][moment].copy_(value)
                    else:
                        safe_set_full_optimizer_state(p, value, moment)

    def _link(self) -> None:
        """Tie each parameter to its slice of AdamW's state (ZeRO 1 and 2).

        DeepSpeed does it once, after the first group's first step: later groups have no state yet and are left without
        a link ("exp_avg not found"), and a state that is loaded before any step is not linked at all.
        """
        if self.zero in (1, 2):
            self.optimizer._hp_optimizer_states_linked = False
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def close(self) -> None:
        self.engine.destroy()
