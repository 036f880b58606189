"""A stage in float64 by torch alone: no DeepSpeed, no ranks, one padded pass a step. What fp32 runs are measured by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from remora import catalog
from remora.data.batches import StageData
from remora.data.index import Dataset
from remora.data.prompt import Prompter
from remora.model.attention import states
from remora.model.parts import compose
from remora.model.seeds import seed_for
from remora.model.tuning import freeze_and_train, parameter_groups
from remora.model.vlm import IGNORE, Batch, VisionLanguageModel
from remora.training.job import StageJob


def in_double(job: StageJob, make: type[StageData], factor: Callable[..., float]) -> list[dict[str, object]]:
    """Steps as the journal has them (step, loss, grad_norm) of the stage; `factor` as of `rate_factor`."""
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
    groups = parameter_groups(model, stage)
    peaks = [g["lr"] for g in groups]
    adam = torch.optim.AdamW(groups, betas=stage.betas, eps=stage.eps)
    events: list[dict[str, object]] = []
    for step in range(data.steps):
        (batch,) = data.micro_batches(step, 0, 1, stage.batch, "padded")
        loss = _loss(model, batch) / batch.supervised
        loss.backward()
        trained = [p for g in adam.param_groups for p in g["params"]]
        norm = nn.utils.clip_grad_norm_(trained, stage.clip or float("inf"))
        for group, peak in zip(adam.param_groups, peaks, strict=True):
            group["lr"] = peak * factor(stage, step, data.steps)
        adam.step()
        adam.zero_grad()
        events.append({"event": "step", "step": step, "loss": loss.item(), "grad_norm": norm.item(), "passes": 1})
    return events


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
