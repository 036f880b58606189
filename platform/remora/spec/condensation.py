"""Condensations: which samples of a dataset are worth training on, chosen by their embeddings (docs/condense.md)."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from remora.spec.base import Spec
from remora.spec.recipe import MixtureEntry


class Encoder(Spec):
    """The dual encoder that embeds pictures and texts. A plain string is short for `{model: …}`."""

    model: str
    """A CLIP or SigLIP from `remora catalog vision`, a Hugging Face id, or a local folder."""
    batch: int = Field(32, ge=1)
    """Batch size of the encoder, in samples."""
    part: int = Field(4096, ge=1)
    """Samples whose embeddings are published together; an interrupted run repeats at most this many per worker."""

    @classmethod
    def short_forms(cls) -> tuple[dict[str, object], ...]:
        return ({"type": "string"},)

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        return {"model": value} if isinstance(value, str) else value


class Embeddings(Spec):
    """Precomputed embeddings: folders of .npy files [rows, width], read in order of their names."""

    images: str
    """The pictures' embeddings."""
    texts: str | None = None
    """The texts' embeddings, in the same row order as `images`."""


class Workers(Spec):
    """Ray workers that compute embeddings. Nothing here changes the result."""

    count: int = Field(1, ge=1)
    """How many."""
    cpus: float = Field(1, gt=0)
    """CPUs that Ray reserves for each."""
    gpus: float = Field(0, ge=0)
    """GPUs of each: 0, 1 or a share."""


class Clusters(Spec):
    """k-means over the pictures' embeddings."""

    count: int = Field(ge=1)
    """Bunny used 100,000 for 2 * 10^9 pictures. Near the square root of the rows, clustering and deduplication cost the
    same."""
    points: int = Field(256, ge=1)
    """The centroids are fitted to this times `count` rows, or to all rows if there are fewer."""
    iterations: int = Field(20, ge=1)
    """Maximum iterations of Lloyd's algorithm; it stops early when no row changes its cluster."""


def _ordered(ranks: tuple[float, float]) -> tuple[float, float]:
    low, high = ranks
    if not 0 <= low < high <= 1:
        raise ValueError(f"ranks go from 0 (the most similar) to 1, lower first; found {low:g} to {high:g}")
    return ranks


Ranks = Annotated[tuple[float, float], AfterValidator(_ordered)]
"""From (inclusive) and to (exclusive), as fractions of the samples kept by the previous step; 0 is the most similar."""


class Condensation(Spec):
    """What to condense, and how. Defaults are Bunny's (arXiv 2402.11530)."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    """Names its folder in <run folder>/condensed."""
    source: MixtureEntry | None = None
    """The dataset. Without one, the output is row numbers only."""
    encoder: Encoder | None = None
    embeddings: Embeddings | None = None
    """Either an encoder or embeddings."""
    clusters: Clusters
    duplicate: float = Field(0.86, gt=-1, le=1)
    """Two pictures of a cluster are near-duplicates if their cosine is above this; one of each connected group is
    kept."""
    text_rank: Ranks | None = (0.40, 0.60)
    """Ranks of image-text similarity to keep; null keeps all."""
    centroid_rank: Ranks | None = (0.15, 0.35)
    """Ranks of similarity to the cluster's centroid to keep; null keeps all."""
    sample: int | None = Field(None, ge=1)
    """Samples to draw from the rest; default: all."""
    seed: int = Field(0, ge=0)
    """Decides the first centroids and the drawn sample."""
    workers: Workers = Workers()

    @model_validator(mode="after")
    def _has_something_to_read(self) -> Self:
        if (self.encoder is None) == (self.embeddings is None):
            raise ValueError("give either encoder (a model that embeds the source) or embeddings (folders of .npy)")
        if self.encoder and self.source is None:
            raise ValueError("an encoder needs a source: a dataset, or a path with its images")
        if self.source and self.source.weight != 1:
            raise ValueError(f"source has weight {self.source.weight:g}; a weight belongs to the mixture that reads it")
        if self.text_rank and self.embeddings and self.embeddings.texts is None:
            raise ValueError("text_rank needs embeddings.texts; give the folder, or text_rank: null")
        return self
