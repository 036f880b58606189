"""The shape of a catalog entry of every kind."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from remora.spec import Spec, Stage


class Vision(Spec):
    """A vision encoder."""

    short: str
    """The name it has in variant names."""
    loader: Literal["efficientnet-lite"]
    package: str
    image_size: int
    tokens: int
    """Tokens a picture gives."""
    width: int
    """Channels of a token."""
    blocks: int
    """Blocks that `{last: n}` and `{from: n}` count."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    aspect: Literal["square"]
    parameters: int
    licence: str
    source: str


class LLM(Spec):
    """A language model."""

    short: str
    loader: Literal["scratch", "gguf"]
    package: str | None = None
    file: str | None = None
    """Path of the weights inside the package."""
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    context: int
    parameters: int
    licence: str
    source: str
    stage: Stage | None = None
    """The stage that trains a `scratch` model; it comes first in the path of every variant that uses it."""

    @model_validator(mode="after")
    def _loader_has_what_it_needs(self) -> Self:
        if self.loader == "gguf" and not (self.package and self.file):
            raise ValueError("loader gguf needs package and file")
        if (self.loader == "scratch") != (self.stage is not None):
            raise ValueError("a scratch model needs the stage that trains it, and no other has one")
        return self


class Connector(Spec):
    """A connector from vision tokens to language-model embeddings."""

    short: str
    kind: Literal["mlp", "resampler"]
    depth: int = Field(ge=1)
    queries: int | None = None
    heads: int | None = None
    head_width: int | None = None
    source: str

    @model_validator(mode="after")
    def _resampler_has_its_shape(self) -> Self:
        given = (self.queries, self.heads, self.head_width)
        if self.kind == "resampler" and None in given:
            raise ValueError("a resampler needs queries, heads and head_width")
        if self.kind == "mlp" and given != (None, None, None):
            raise ValueError("an mlp has no queries, heads or head_width")
        return self


class Template(Spec):
    """A prompt template; see templates.yaml for its marks."""

    system: str
    user: str
    assistant: str
    image_suffix: str = "\n"
    """Text after every picture."""
    tokens: tuple[str, ...] = ()
    """Special tokens that the template writes."""
    stop: str | None = None
    """Special token that ends an answer; the tokenizer's end token if not given."""
    source: str


class Dataset(Spec):
    """Conversations in LLaVA's JSON, with their pictures."""

    path: str
    images: str
    make: str
    """The command that puts it there."""
    source: str


class Benchmark(Spec):
    """Questions with answers, and how they are scored."""

    title: str
    questions: str
    images: str
    metric: Literal["exact-match"]
    max_new_tokens: int = Field(ge=1)
    prior: str
    """Dataset whose answers the question-only baseline learns from."""
    make: str
    source: str
