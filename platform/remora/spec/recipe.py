"""Recipes: an ordered list of stages, and what each part of the model does in each of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from remora.errors import SpecError
from remora.spec.base import Spec

PARTS = ("vision", "connector", "llm")


ALL_LINEAR = "all-linear"


class Lora(Spec):
    """Low-rank adapters on a part's linear layers (arXiv 2106.09685); the part's own weights stay frozen."""

    r: int = Field(128, ge=1)
    alpha: float = Field(256, gt=0)
    """The adapter's output is scaled by alpha / r."""
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: tuple[str, ...] = ()
    """The linear layers that get an adapter, by the ends of their names (q_proj, self_attn.q_proj); all but the head if
    none are given, or by peft's word for that, all-linear."""
    bits: Literal[4, 8] | None = None
    """Hold the frozen weights in 4 (NF4) or 8 bits; needs bitsandbytes: pip install 'remora[quantized]'."""

    @field_validator("targets", mode="before")
    @classmethod
    def _word_or_list(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        return () if isinstance(names, list | tuple) and ALL_LINEAR in names else names


MODES = ("last", "from", "lora")
"""What a tuning may be written by, as a mapping of one key."""


class PartTuning(Spec):
    """What one part does in a stage.

    Written as a word (`frozen`, `full`, `lora`, `absent`), as `{last: 6}`, `{from: 12}`, `{lora: {r: 64}}`, or in full
    (`{mode: full, lr: 1e-4}`).
    """

    mode: Literal["absent", "frozen", "full", "last", "from", "lora"]
    """absent: the part is not built (a text-only stage); last/from: only the last n blocks, or blocks from n on."""
    blocks: int | None = Field(None, ge=0)
    """The n of last and from."""
    lora: Lora | None = None
    lr: float | None = Field(None, gt=0)
    """Peak learning rate; the stage's if not given."""
    weight_decay: float | None = Field(None, ge=0)
    """Decoupled weight decay; the stage's if not given."""
    dropout: bool = False
    """Whether a frozen part's own dropout acts, as in the published runs: transformers' Trainer leaves it on for the
    whole model. A part that trains has its dropout in any case."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"mode": value}
        if not isinstance(value, dict):
            return value
        value = dict(value)
        written = [k for k in ("last", "from", "mode", "blocks") if k in value]
        written += ["lora"] if value.get("lora") is not None and "mode" not in value else []
        if len(written) > 1 and written != ["mode", "blocks"]:
            raise ValueError(f"{' and '.join(written)} exclude each other; write a word, {{last: n}} or {{from: n}}")
        for mode in ("last", "from"):
            if mode in value:
                value |= {"mode": mode, "blocks": value.pop(mode)}
        if value.get("lora") is not None:
            value = {"mode": "lora"} | value
        elif value.get("mode") == "lora":
            value["lora"] = {}
        return value

    @model_validator(mode="after")
    def _settings_belong(self) -> Self:
        if (self.blocks is not None) != (self.mode in ("last", "from")):
            raise ValueError(
                f"mode {self.mode!r} and blocks {self.blocks!r} do not fit; write {{last: n}} or {{from: n}}"
            )
        if (self.lora is not None) != (self.mode == "lora"):
            raise ValueError(f"mode {self.mode!r} and lora do not fit; write {{lora: {{r: 128, alpha: 256}}}}")
        if self.dropout and self.mode != "frozen":
            raise ValueError(f"dropout: true is for a frozen part; mode {self.mode} has its dropout without it")
        return self

    @property
    def trains(self) -> bool:
        return self.mode in ("full", *MODES)

    def first_block(self, part: str, blocks: int, read: int) -> int:
        """Which of a part's `blocks`, of which the first `read` are read, is the first that `last` or `from` trains.

        Raises:
            SpecError: it leaves none to train, or asks for more than there are.
        """
        assert self.blocks is not None
        first = self.blocks if self.mode == "from" else blocks - self.blocks
        if not 0 <= first < read:
            behind = "" if read == blocks else f", of which those after {read - 1} are not read"
            raise SpecError(
                f"tune.{part}: {{{self.mode}: {self.blocks}}} leaves nothing to train or asks for too much; "
                f"{part} has blocks 0 to {blocks - 1}{behind}"
            )
        return first


class Tuning(Spec):
    """What every part does in a stage."""

    vision: PartTuning = PartTuning(mode="frozen")
    connector: PartTuning = PartTuning(mode="full")
    llm: PartTuning = PartTuning(mode="frozen")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.llm.mode == "absent":
            raise ValueError("the llm cannot be absent: it gives the loss")
        if (self.vision.mode == "absent") != (self.connector.mode == "absent"):
            raise ValueError("vision and connector are absent together or not at all")
        if self.connector.mode in MODES:
            raise ValueError("a connector trains whole (full) or not at all (frozen)")
        if not self.trained:
            raise ValueError("nothing trains; set at least one part to full, {last: n} or {from: n}")
        return self

    def __getitem__(self, part: str) -> PartTuning:
        return getattr(self, part)

    @property
    def present(self) -> tuple[str, ...]:
        return tuple(p for p in PARTS if self[p].mode != "absent")

    @property
    def trained(self) -> tuple[str, ...]:
        return tuple(p for p in PARTS if self[p].trains)


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
"""Problems of a record that leave nothing to read (docs/data.md)."""


class MixtureEntry(Spec):
    """One dataset of a mixture: a catalog name, or a dataset of one's own with its image folder."""

    dataset: str | None = None
    """A name from `remora catalog datasets`."""
    path: str | None = None
    """A file, a folder or a URL of a format that docs/data.md names."""
    images: str | None = None
    """The folder that its image paths are relative to; the file's own folder if not given."""
    weight: float = Field(1.0, gt=0, le=1e6)
    """How often each of its samples is read in an epoch; 0.5 reads a seeded half."""
    cap: int | None = Field(None, ge=1, le=10**12)
    """Samples of it that an epoch reads at most: a seeded choice, the same in every epoch."""
    skip: tuple[Skippable, ...] = ()
    """Problems whose records are left out and counted; any other stops the run before it begins."""
    max_skipped: float = Field(0.01, ge=0, le=1)
    """The share of its records that may be left out."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"dataset": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.dataset is None) == (self.path is None):
            raise ValueError("give either dataset (a catalog name) or path (a JSON file)")
        return self


Beta = Annotated[float, Field(ge=0, lt=1)]


class Guard(Spec):
    """What is done about a bad step: its loss or gradient is NaN, or its loss spikes above those before it."""

    bad: Literal["stop", "skip", "roll_back"] = "stop"
    """stop: the stage ends with an error. skip: the step is not taken. roll_back: training goes back to the newest
    checkpoint and on with the next step, so that none since is learned (as PaLM's did, arXiv 2204.02311, 5.1)."""
    spike: float | None = Field(None, gt=1)
    """A loss above this many times the median of the last 32 is a bad step's as well."""
    limit: int = Field(10, ge=1)
    """Bad steps that a stage may have."""


class Stage(Spec):
    """One stage of a recipe. Rates are peak rates, batch sizes are global (all workers and accumulation together)."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    mixture: tuple[MixtureEntry, ...] = Field(min_length=1)
    template: str = "vicuna"
    """Prompt template, from `remora catalog templates`."""
    tune: Tuning = Tuning()
    batch: int = Field(256, ge=1, le=10**6)
    """Samples a step over all workers."""
    epochs: float | None = Field(None, gt=0, le=1e6)
    steps: int | None = Field(None, ge=1, le=10**9)
    """Either epochs or steps."""
    aspect: Literal["square", "pad"] = "square"
    """How pictures become square: `square` as the encoder's own preprocessing does it, `pad` with its mean colour."""
    max_length: int = Field(2048, ge=8, le=1 << 24)
    """Tokens a sample may have, image tokens included; never more than the language model's context."""
    count_pictures: bool = True
    """Whether a picture counts in max_length with all of its tokens, or with one. The whole sample, pictures included,
    stays within the language model's context."""
    past_context: bool = False
    """Whether samples may pass that context by what their pictures add, as in Mipha's, MobileVLM's and ShareGPT4V's
    code, which cuts before a picture is put in. Only with count_pictures: false, for models with rotary positions."""
    over_length: Literal["cut", "fail"] = "cut"
    """A longer conversation: `cut` at a turn's end, so that whole answers remain, or dropped by name if none fits."""
    lr: float = Field(gt=0)
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """After the warm-up: to 0 along a cosine or a line; level; or level and then to 0 over the last steps (wsd)."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the steps, rounded up, that the rate takes to rise to its peak."""
    warmup_from: Literal["first", "zero"] = "first"
    """Of n steps of warm-up the first is taken at the n-th part of the peak (first), or at rate 0, where nothing is
    learned, as transformers' schedules and so the published runs have it (zero)."""
    decay: float = Field(0.1, gt=0, le=1)
    """Share of the steps that wsd takes to fall to 0; MiniCPM (arXiv 2404.06395) found a tenth enough."""
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    clip: float | None = Field(None, gt=0)
    """Gradient norm to clip at. The LLaVA family's published runs were not clipped, so that is the default."""
    loss_groups: int | None = Field(None, ge=1, le=10**6)
    """Samples of a group, where the loss is to be the mean of groups' means, as it was published: there a group is what
    one device put through the model at once. If not given, every supervised token of a batch weighs the same."""
    guard: Guard = Guard()

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
        """Tokens that count (see count_pictures) which a sample may have in a language model of that context."""
        return min(self.max_length, context or self.max_length)

    def whole(self, context: int | None) -> int | None:
        """Tokens that a sample may have with all those of its pictures; None if nothing bounds them."""
        if self.count_pictures:
            return self.length(context)
        return None if self.past_context else context

    def lr_of(self, part: str) -> float:
        return self.tune[part].lr or self.lr

    def weight_decay_of(self, part: str) -> float:
        own = self.tune[part].weight_decay
        return self.weight_decay if own is None else own


class Recipe(Spec):
    """An ordered list of stages, with the source of its figures."""

    name: str
    source: str = ""
    """Paper, repository and file that the figures come from."""
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [s.name for s in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages share a name: {', '.join(names)}")
        return self
