"""Condensations: which samples of a dataset are worth training on, chosen by their embeddings (docs/condense.md)."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from remora.spec.base import Spec
from remora.spec.recipe import MixtureEntry


class Encoder(Spec):
    """The dual encoder that embeds pictures and texts. Written as a word, it is the model alone."""

    model: str
    """A CLIP or SigLIP of `remora catalog vision`, a Hugging Face id, or the folder of one."""
    batch: int = Field(32, ge=1)
    """Samples that go through the model at once."""
    part: int = Field(4096, ge=1)
    """Samples whose embeddings are published together: what an interrupted run may have to embed again."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value


class Embeddings(Spec):
    """Embeddings that are there already: folders of .npy files [rows, width], read in the order of their names."""

    images: str
    texts: str | None = None
    """The texts' embeddings, row by row those of `images`."""


class Workers(Spec):
    """Ray workers that embed. Nothing here changes a result."""

    count: int = Field(1, ge=1)
    cpus: float = Field(1, gt=0)
    gpus: float = Field(0, ge=0)


class Clusters(Spec):
    """k-means on the pictures' embeddings."""

    count: int = Field(ge=1)
    """Bunny's 100,000 for 2 * 10^9 pictures; near the square root of the rows, both halves of the work are equal."""
    points: int = Field(256, ge=1)
    """Rows that the centroids are fitted to, times `count`; all rows if there are not more."""
    iterations: int = Field(20, ge=1)
    """Most rounds of Lloyd's algorithm; it ends early when no row changes its cluster."""


def _ordered(ranks: tuple[float, float]) -> tuple[float, float]:
    low, high = ranks
    if not 0 <= low < high <= 1:
        raise ValueError(f"ranks go from 0 (the most similar) to 1, lower first; found {low:g} to {high:g}")
    return ranks


Ranks = Annotated[tuple[float, float], AfterValidator(_ordered)]
"""From (inclusive) and to (exclusive), as shares of the samples that the step before kept; 0 is the most similar."""


class Condensation(Spec):
    """What to condense, and how. The defaults are those of Bunny (arXiv 2402.11530)."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    source: MixtureEntry | None = None
    """The dataset; without one, only row numbers come out."""
    encoder: Encoder | None = None
    embeddings: Embeddings | None = None
    """Either an encoder or embeddings."""
    clusters: Clusters
    duplicate: float = Field(0.86, gt=-1, le=1)
    """Two pictures of a cluster whose cosine is above this are joined; one is kept of all that hang together."""
    text_rank: Ranks | None = (0.40, 0.60)
    """Ranks of image-text similarity that are kept; null keeps all."""
    centroid_rank: Ranks | None = (0.15, 0.35)
    """Ranks of similarity to the cluster's centroid that are kept; null keeps all."""
    sample: int | None = Field(None, ge=1)
    """How many of the rest are drawn; all if not given."""
    seed: int = Field(0, ge=0)
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
