"""DeepSpeed, and nothing else: gradients summed over ranks, an AdamW step, state in and out under parameter names.

What DeepSpeed would decide by itself is decided here instead. The optimiser is torch's AdamW (a DeepSpeed "optimizer"
block compiles a kernel at first use, two minutes on a CPU), rates are set by the caller before each step, and the
optimiser's state is read and written as full named tensors, because DeepSpeed's own checkpoints are tied to the world
size and the ZeRO stage.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from remora.model.vlm import Batch, VisionLanguageModel
from remora.spec import Stage

Said = TypeVar("Said")
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state tensors for a parameter."""


def _deepspeed() -> Any:
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed
    import deepspeed.ops

    # On a CPU, init compiles this op: 65 s, a compiler needed, and a process killed meanwhile leaves a lock file that
    # hangs every later run. It only serves inference all-reduce. The table is private; a test holds that it works.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


class Engine:
    """One model under DeepSpeed.

    Args:
        model: with `requires_grad` set; its weights are what training starts from.
        groups: optimiser groups with `params`, `lr`, `weight_decay` and `part`.
        stage: betas, eps and clipping.
        zero: ZeRO stage, 0 to 3.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        groups: Sequence[dict[str, Any]],
        stage: Stage,
        zero: int,
    ) -> None:
        ds = _deepspeed()
        self.model = model
        self.zero = zero
        self.clip = stage.clip
        optimizer = torch.optim.AdamW([dict(g) for g in groups], betas=stage.betas, eps=stage.eps)
        config = {
            # Passes differ in samples and steps in passes, so `backward` says which pass is a step's last.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": stage.clip or 0.0,
            # Buckets of DeepSpeed's default size would reserve 2 GB for a model of a few MB.
            "zero_optimization": {"stage": zero, "reduce_bucket_size": 5e7, "allgather_bucket_size": 5e7},
            "steps_per_print": 10**9,
        }
        self.engine, self.optimizer, _, _ = ds.initialize(model=model, optimizer=optimizer, config=config)
        self.names = {id(p): n for n, p in model.named_parameters() if p.requires_grad}
        self.device = self.engine.device
        self.world = dist.get_world_size()
        self.rank = dist.get_rank()

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all ranks (float64)."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(v) for v in tensor]

    def max(self, value: float) -> float:
        """The largest of all ranks (float64)."""
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return float(tensor)

    def gather(self, named: Mapping[str, Said]) -> dict[str, Said]:
        """What all ranks say, on every rank, in the order of ranks."""
        said: list[dict[str, Said]] = [{}] * self.world
        dist.all_gather_object(said, dict(named))
        return {k: v for one in said for k, v in one.items()}

    def backward(self, batch: Batch, tokens: float, last: bool) -> float:
        """Add the gradients of one micro batch, `last` or not of its step; returns its summed loss (nats).

        `tokens` is the supervised tokens of the whole global batch. DeepSpeed averages over ranks; the scale undoes it,
        so that gradients are those of sum / tokens for any split.
        """
        scale = self.world / tokens
        self.engine.set_gradient_accumulation_boundary(last)
        loss = self.engine(batch.to(self.device), scale)
        self.engine.backward(loss)
        return float(loss.detach()) / scale

    def step(self, rates: Sequence[float]) -> float:
        """Take the optimiser step with one rate a group; returns the gradient norm before clipping."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        # At stage 0 DeepSpeed keeps no norm (not even when it clips); the gradients are whole there, so take it here.
        norm = self._whole_norm() if self.zero == 0 else None
        self.engine.step()
        return float(self.engine.get_global_grad_norm()) if norm is None else norm

    def _whole_norm(self) -> float:
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads])))

    # State, whole and by name, on every rank. All ranks must call these together.

    def weights(self, module: nn.Module, trained_only: bool = False) -> dict[str, Tensor]:
        """The module's parameters and buffers (only the trained parameters if asked), on the CPU, by its own names."""
        params = [p for p in module.parameters() if p.requires_grad or not trained_only]
        with self._gathered(params):
            if trained_only:
                return {n: p.detach().cpu().clone() for n, p in module.named_parameters() if p.requires_grad}
            return {n: t.detach().cpu().clone() for n, t in module.state_dict().items()}

    def _gathered(self, params: list[nn.Parameter]) -> contextlib.AbstractContextManager[Any]:
        return _deepspeed().zero.GatheredParameters(params) if self.zero == 3 else contextlib.nullcontext()

    def moments(self) -> dict[str, Tensor]:
        """AdamW's state as `exp_avg.<parameter>` and `exp_avg_sq.<parameter>`, fp32, on the CPU."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link()
        state: dict[str, Tensor] = {}
        for p in self.model.parameters():
            if p.requires_grad:
                for moment in MOMENTS:
                    whole = (
                        self.optimizer.state[p][moment] if self.zero == 0 else safe_get_full_optimizer_state(p, moment)
                    )
                    state[f"{moment}.{self.names[id(p)]}"] = whole.detach().float().cpu().clone()
        return state

    def load_moments(self, state: Mapping[str, Tensor], step: int) -> None:
        """Put AdamW's state back, before the first step. Rates are set at each step and are not part of it."""
        from deepspeed.utils import safe_set_full_optimizer_state

        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        # At stage 3 DeepSpeed shows its flat partitions to AdamW only while it steps; the groups are empty in between.
        held = self.optimizer.fp32_partitioned_groups_flat if self.zero == 3 else []
        for p in [*held, *(p for group in inner.param_groups for p in group["params"])]:
            inner.state[p] = {
                "step": torch.tensor(float(step)),
                **{moment: torch.zeros_like(p, dtype=torch.float32) for moment in MOMENTS},
            }
        self._link()
        for p in self.model.parameters():
            if p.requires_grad:
                for moment in MOMENTS:
                    value = state[f"{moment}.{self.names[id(p)]}"].to(self.device)
                    if self.zero == 0:
                        inner.state[p][moment].copy_(value)
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
