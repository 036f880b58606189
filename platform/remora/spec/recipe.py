"""Recipes: an ordered list of stages, and what each part of the model does in each of them."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from remora.spec.base import Spec
from remora.spec.tuning import Tuning

Skippable = Literal[
    "no-conversation",
    "duplicate-key",
    "unknown-part",
    "unread-media",
    "unknown-role",
    "turn-order",
    "no-text",
    "not-unicode",
    "empty-answer",
    "no-answer",
    "image-field",
    "tag-without-image",
    "image-without-tag",
    "missing-image",
    "corrupt-image",
    "unsupported-image",
    "too-large-image",
]
"""Problems that make a record unreadable (docs/data.md)."""


class MixtureEntry(Spec):
    """One dataset of a mixture: a catalog name, or the path of your own dataset with its image folder."""

    dataset: str | None = None
    """A name from `remora catalog datasets`."""
    path: str | None = None
    """A file, folder or URL in a format of docs/data.md."""
    images: str | None = None
    """The folder that its image paths are relative to; default: the file's folder."""
    weight: float = Field(1.0, gt=0, le=1e6)
    """How often each of its samples is read in an epoch; 0.5 reads a seeded half."""
    cap: int | None = Field(None, ge=1, le=10**12)
    """Maximum samples per epoch: a seeded choice, the same in every epoch."""
    skip: tuple[Skippable, ...] = ()
    """Problems whose records are skipped and counted; any other problem stops the run before training starts."""
    max_skipped: float = Field(0.01, ge=0, le=1)
    """Maximum fraction of records that may be skipped."""

    @classmethod
    def short_forms(cls) -> tuple[dict[str, object], ...]:
        return ({"type": "string"},)

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        return {"dataset": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.dataset is None) == (self.path is None):
            raise ValueError("give either dataset (a catalog name) or path (a JSON file)")
        return self

    @property
    def label(self) -> str:
        """What it is called in counts and lists: its catalog name, or the last part of its path."""
        return self.dataset or str(self.path).rstrip("/").rpartition("/")[2]


Beta = Annotated[float, Field(ge=0, lt=1)]


class Guard(Spec):
    """What to do about a bad step: one whose loss or gradient is NaN, or whose loss spikes."""

    bad: Literal["stop", "skip", "roll_back"] = "stop"
    """stop: the stage ends with an error. skip: the step is not applied. roll_back: training returns to the newest
    checkpoint and continues after the bad step, so the steps in between are not learned (PaLM, arXiv 2204.02311,
    5.1)."""
    spike: float | None = Field(None, gt=1)
    """A step is also bad if its loss is above this many times the median of the last 32 losses."""
    limit: int = Field(10, ge=1)
    """Maximum bad steps in a stage."""


class BenchmarkSample(Spec):
    """A few questions of a benchmark, always the same ones, that the model is asked while it trains."""

    name: str
    """A name from `remora catalog benchmarks`, or the path of a YAML."""
    limit: int = Field(64, ge=1, le=10**6)
    """Questions that are asked."""


def step_at(share: float, steps: int) -> int:
    """The step, counted from 1, after which a stage of so many steps has come to a share of them."""
    return max(1, round(share * steps))


STEPS_OR_SHARE: dict[str, object] = {
    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "number", "exclusiveMinimum": 0, "maximum": 1}]
}


class Validation(Spec):
    """How a stage is validated while it trains: the loss over held-out samples (docs/training.md)."""

    mixture: tuple[MixtureEntry, ...] = ()
    """Other datasets, whose samples are held out. A record that the stage trains on as well is left out of them."""
    share: float | None = Field(None, gt=0, lt=1)
    """In place of a mixture: the share of the stage's own records that it does not train on. A record is held out for
    what it says and shows, so it is in every stage, mixture and variant with that share, or a larger one."""
    every: Annotated[int | float, WithJsonSchema(STEPS_OR_SHARE)] = 0.25
    """Steps from one validation to the next, or a share of the stage (0.25). The last step is always validated."""
    limit: int = Field(256, ge=1, le=10**9)
    """Held-out samples that are read, at most; always the same ones."""
    benchmark: BenchmarkSample | None = None
    """Questions that are answered at each validation, besides."""

    @field_validator("every", mode="before")
    @classmethod
    def _steps_or_share(cls, said: object) -> object:
        said = int(said) if isinstance(said, float) and said > 1 and said.is_integer() else said
        if not ((type(said) is int and said >= 1) or (type(said) is float and 0 < said <= 1)):
            raise ValueError(f"{said!r} is neither steps (1, 2, …) nor a share of the stage (above 0.0, up to 1.0)")
        return said

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.mixture) == (self.share is not None):
            raise ValueError("give either share (of the stage's own records) or mixture (other datasets)")
        if any(entry.weight != 1 or entry.cap for entry in self.mixture):
            raise ValueError("each held-out sample is read once: leave out weight and cap; limit bounds them all")
        return self

    def due(self, steps: int) -> list[int]:
        """After which of a stage's steps, counted from 0, it is validated."""
        if isinstance(self.every, int):
            ends = list(range(self.every, steps, self.every))
        elif self.every * steps <= 1:
            ends = list(range(1, steps))
        else:
            ends = [round(k * self.every * steps) for k in range(1, math.ceil(1 / self.every))]
        return [end - 1 for end in sorted({*ends, steps})]


class Stage(Spec):
    """One stage of a recipe. Rates are peak rates; batch sizes are global (all workers and gradient accumulation)."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """How `overrides` and axes refer to the stage."""
    mixture: tuple[MixtureEntry, ...] = Field(min_length=1)
    """The datasets that it reads."""
    template: str = "vicuna"
    """Prompt template, from `remora catalog templates`."""
    tune: Tuning = Tuning()
    batch: int = Field(256, ge=1, le=10**6)
    """Samples per step over all workers."""
    epochs: float | None = Field(None, gt=0, le=1e6)
    """Passes over the mixture; give either epochs or steps."""
    steps: int | None = Field(None, ge=1, le=10**9)
    """Optimiser steps; give either epochs or steps."""
    aspect: Literal["square", "pad"] = "square"
    """How pictures become square: `square` by the encoder's own preprocessing, `pad` with its mean colour."""
    max_length: int = Field(2048, ge=8, le=1 << 24)
    """Maximum tokens of a sample, image tokens included; limited to the language model's context."""
    count_pictures: bool = True
    """Whether a picture counts towards max_length with all of its tokens or as one. The whole sample, pictures
    included, must fit the language model's context."""
    past_context: bool = False
    """Whether samples may exceed that context by their pictures' tokens, as in the code of Mipha, MobileVLM and
    ShareGPT4V, which truncates before pictures are inserted. Needs count_pictures: false and rotary positions."""
    over_length: Literal["cut", "fail"] = "cut"
    """What to do with a longer conversation: `cut` it at the end of a turn, so that answers stay whole (if no turn
    fits, the sample is dropped and listed), or stop with an error."""
    lr: float = Field(gt=0)
    """Peak learning rate of every part that trains and has no `lr` of its own."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """After the warm-up: decay to 0 by cosine or linearly; constant; or constant, then decay over the last steps
    (wsd)."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Fraction of the steps, rounded up, in which the rate rises to its peak."""
    warmup_from: Literal["first", "zero"] = "first"
    """Rate of the first of n warm-up steps: 1/n of the peak (first), or 0 (zero), as in transformers' schedules and so
    in the published runs."""
    decay: float = Field(0.1, gt=0, le=1)
    """Fraction of the steps in which wsd decays to 0; MiniCPM (arXiv 2404.06395) found a tenth enough."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay (AdamW)."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's decay rates of the two moments."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's epsilon."""
    clip: float | None = Field(None, gt=0)
    """Maximum gradient norm. Default: no clipping, as in the LLaVA family's published runs."""
    loss_groups: int | None = Field(None, ge=1, le=10**6)
    """Group size in samples if the loss is the mean of the groups' means, as in the published runs, where a group is
    one device's micro batch. Default: every supervised token of a batch has the same weight."""
    guard: Guard = Guard()
    validation: Validation | None = Field(None, alias="validate")  # pydantic has a method of that name
    """The loss over held-out samples while the stage trains."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup:g} and decay {self.decay:g} are more than the whole")
        if self.past_context and self.count_pictures:
            raise ValueError("past_context: true is for stages with count_pictures: false")
        return self

    def length(self, context: int | None) -> int:
        """Maximum counted tokens (see count_pictures) of a sample in a language model with that context."""
        return min(self.max_length, context or self.max_length)

    def whole(self, context: int | None) -> int | None:
        """Maximum tokens of a sample with all of its pictures' tokens; None if unlimited."""
        if self.count_pictures:
            return self.length(context)
        return None if self.past_context else context

    def lr_of(self, part: str) -> float:
        return self.tune[part].lr or self.lr

    def weight_decay_of(self, part: str) -> float:
        own = self.tune[part].weight_decay
        return self.weight_decay if own is None else own


class Recipe(Spec):
    """An ordered list of stages, with the source of its hyperparameters."""

    name: str
    """Its name in variants' names; a catalog recipe is named as its file."""
    source: str = ""
    """Paper, repository and file that the hyperparameters come from."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """The stages, in the order in which they run."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [s.name for s in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages share a name: {', '.join(names)}")
        return self
