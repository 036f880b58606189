"""A stage in float64, by its formulas: no DeepSpeed, no ranks, one padded pass a step. The reference for fp32 runs.

AdamW is Loshchilov and Hutter's (arXiv 1711.05101, algorithm 2) as torch documents it: decay is applied at the full
rate, the moments are bias-corrected, and eps is outside the root.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from remora import catalog
from remora.batch import Batch
from remora.data.index import Dataset
from remora.model.parts import compose
from remora.model.patches.attention import states
from remora.model.seeds import seed_for
from remora.model.tuning import freeze_and_train
from remora.model.vlm import VisionLanguageModel
from remora.reading.batches import StageData
from remora.reading.prompt import Prompter
from remora.token_ids import IGNORE
from remora.training.job import StageJob


def in_double(
    job: StageJob, make: type[StageData], factor: Callable[..., float], nudge: float = 0.0
) -> list[dict[str, object]]:
    """Steps as the journal has them (step, loss, grad_norm) of the stage; `factor` as of `rate_factor`.

    `nudge` is how far the first trained tensor is moved before the first step, relative to itself.
    """
    stage = job.stage
    model, tokenizer = compose(job.parts, job.seed, stage.tune.present)
    freeze_and_train(model, stage.tune, job.seed)
    model.double()
    _norms_in_double(model)
    prompter = Prompter(catalog.template(stage.template), tokenizer, model.image_tokens)
    vision = job.parts["vision"].name if "vision" in stage.tune.present else None
    datasets = [Dataset(d, entry.skip) for d, entry in zip(job.datasets, stage.mixture, strict=True)]
    context = getattr(model.llm.config, "max_position_embeddings", None)
    data = make(stage, datasets, prompter, vision, seed_for(job.seed, f"order/{stage.name}"), context)
    trained = {p: part for part in stage.tune.trained for p in model.part(part).parameters() if p.requires_grad}
    with torch.no_grad():
        next(iter(trained)).mul_(1 + nudge)
    state = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in trained}
    events: list[dict[str, object]] = []
    for step in range(data.steps):
        (batch,) = data.read(step, 0, 1, stage.batch, "padded").batches
        loss = _loss(model, batch) / batch.supervised
        loss.backward()
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in trained])).item()
        clip = min(1.0, stage.clip / norm) if stage.clip else 1.0
        with torch.no_grad():
            for p, part in trained.items():
                decay = stage.weight_decay_of(part) if p.ndim > 1 else 0.0
                rate = stage.lr_of(part) * factor(stage, step, data.steps)
                _adamw(p, p.grad * clip, *state[p], rate, decay, stage.betas, stage.eps, step + 1)
                p.grad = None
        events.append({"event": "step", "step": step, "loss": loss.item(), "grad_norm": norm, "passes": 1})
    return events


def _adamw(
    p: torch.Tensor,
    gradient: torch.Tensor,
    mean: torch.Tensor,
    square: torch.Tensor,
    rate: float,
    decay: float,
    betas: tuple[float, float],
    eps: float,
    t: int,
) -> None:
    """Step `t`, counted from 1, in place."""
    mean.mul_(betas[0]).add_((1 - betas[0]) * gradient)
    square.mul_(betas[1]).add_((1 - betas[1]) * gradient**2)
    p -= rate * decay * p
    p -= rate * (mean / (1 - betas[0] ** t)) / ((square / (1 - betas[1] ** t)).sqrt() + eps)


def _loss(model: VisionLanguageModel, batch: Batch) -> torch.Tensor:
    """The summed loss without the model's own rounding of logits to fp32."""
    model._key_dropouts(batch)
    batch = replace(batch, pixels=batch.pixels.double())
    hidden, keep = states(model.llm, model.embed(batch.ids, batch.pixels))[:, :-1], batch.targets != IGNORE
    logits = model.llm.get_output_embeddings()(hidden[keep])
    return F.cross_entropy(logits, batch.targets[keep], reduction="sum")


def _norms_in_double(model: nn.Module) -> None:
    """transformers' RMS norms round to fp32."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            size, eps = module.weight.shape, module.variance_epsilon
            module.forward = lambda x, m=module, s=size, e=eps: F.rms_norm(x, s, m.weight, e)
