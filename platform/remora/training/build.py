"""Build a stage's model and data from its job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from remora import catalog
from remora.data.held_out import HeldOut, opened, opened_held_out
from remora.data.index import Dataset
from remora.errors import SpecError
from remora.files import is_published, verify
from remora.model.llm import create_from_scratch
from remora.model.parts import compose
from remora.model.patches.activations import checkpoint_activations
from remora.model.patches.attention import attend_per_sample
from remora.model.patches.narrow import candidates, narrow
from remora.model.seeds import seed_for
from remora.model.tuning import freeze_and_train, halve_frozen
from remora.model.vlm import VisionLanguageModel
from remora.reading.batches import StageData
from remora.reading.lengths import open_lengths
from remora.reading.prompt import Prompter, rendered_words
from remora.reading.truncation import check_lengths
from remora.spec import Cluster, Stage
from remora.training.engines import loading
from remora.training.engines.precision import DTYPES
from remora.training.job import START_FOLDER, StageJob
from remora.training.schedule import check_schedule


def build_model(job: StageJob) -> tuple[VisionLanguageModel, PreTrainedTokenizerBase]:
    """The model from the previous stages, set up for what trains in this one.

    Raises:
        SpecError: its settings exclude each other.
    """
    stage, cluster = job.stage, job.cluster
    if cluster.zero == 3 and any(t.lora and t.lora.bits for t in (stage.tune[p] for p in stage.tune.present)):
        raise SpecError("ZeRO 3 cannot split weights of 4 or 8 bits; set cluster.zero to 2, or leave lora's bits out")
    if dist.get_rank() == 0:
        make_start(job)
    dist.barrier()
    with loading(cluster):
        model, tokenizer = compose(job.parts, job.seed, stage.tune.present)
    set_up(model, stage, cluster, job.seed)
    return model, tokenizer


def set_up(model: VisionLanguageModel, stage: Stage, cluster: Cluster, seed: int = 0, untried: bool = False) -> None:
    """Set up a composed model for the stage on this cluster, in place; `untried` if it has no values to be tried with.

    Raises:
        SpecError: the model does not support the settings.
    """
    if cluster.rows == "packed":
        attend_per_sample(model.llm, untried)
    freeze_and_train(model, stage.tune, seed)
    model.narrowed = candidates(model.llm) if untried else narrow(model.llm)
    if half := DTYPES.get(cluster.precision):
        halve_frozen(model, stage.tune, half)
    if cluster.activation_checkpointing:
        checkpoint_activations(model)


def make_start(job: StageJob) -> None:
    """Create the model that is trained from scratch, once per stage run. Only one rank calls this."""
    llm, folder = job.parts["llm"], job.folder / START_FOLDER
    if llm.folder != folder:
        return
    if is_published(folder):
        verify(folder)
    else:
        words = first_words(job.stage, job.datasets)
        create_from_scratch(catalog.llm(llm.name), words, seed_for(job.seed, "llm"), folder)


def first_words(stage: Stage, datasets: Sequence[Path]) -> list[str]:
    """Texts to train the tokenizer of a model from scratch on: all conversations of the first stage that trains it."""
    template = catalog.template(stage.template)
    return [rendered_words(template, sample.turns) for d in opened(stage, datasets) for sample in d]


def check_samples(data: StageData) -> list[str]:
    """Try samples of every dataset before the first step, the same on every rank; returns notes for the user.

    Raises:
        DataError: more than `max_skipped` of an entry would be dropped, or a sample would stop the stage.
        SpecError: every rate of the stage is 0.
    """
    notes = [check_schedule(data.stage, data.steps)]
    notes += [check_lengths(e, d, data.limits) for e, d in zip(data.stage.mixture, data.samples, strict=True)]
    return [note for note in notes if note]


def open_data(job: StageJob, model: VisionLanguageModel, tokenizer: PreTrainedTokenizerBase) -> StageData:
    """The stage's batches, as a function of the step."""
    data = _batches(job, job.stage, opened(job.stage, job.datasets), model, tokenizer)
    # Measuring pays where the ranks would otherwise tokenise more, all together, than the datasets hold.
    if data.total * (dist.get_world_size() - 1) >= sum(d.records for d in data.samples):
        data.lengths = [open_lengths(d, data.prompter) for d in data.samples]
    return data


def open_held_out(
    job: StageJob, model: VisionLanguageModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[HeldOut, StageData] | None:
    """What the stage is validated by, if it is, and its batches: every sample once."""
    held = opened_held_out(job.stage, job.datasets, job.others)
    if held is None:
        return None
    once = {"mixture": held.mixture, "epochs": 1.0, "steps": None, "batch": min(job.stage.batch, held.samples)}
    return held, _batches(job, job.stage.model_copy(update=once), held.datasets, model, tokenizer)


def _batches(
    job: StageJob,
    stage: Stage,
    datasets: Sequence[Dataset],
    model: VisionLanguageModel,
    tokenizer: PreTrainedTokenizerBase,
) -> StageData:
    prompter = Prompter(catalog.template(stage.template), tokenizer, model.image_tokens)
    vision = job.parts["vision"].name if "vision" in stage.tune.present else None
    context = getattr(model.llm.config, "max_position_embeddings", None)
    return StageData(stage, datasets, prompter, vision, seed_for(job.seed, f"order/{stage.name}"), context)
