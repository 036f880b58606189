"""What may be set about the endpoint: the same keys in a Serve config's `args:` and as options of `remora serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from remora.spec.base import Spec, validate


class Limits(Spec):
    """How much one request may ask for. All of it is checked before a picture is decoded."""

    max_body_bytes: int = Field(default=20 * 2**20, ge=1024)
    """Bytes of a request's body; checked while it is read."""
    max_values: int = Field(default=2**17, ge=1024)
    """JSON values in a request's body (objects, lists, and what stands in them); counted before it is parsed."""
    max_image_bytes: int = Field(default=10 * 2**20, ge=1024)
    """Bytes of one picture as it was sent, after base64."""
    max_images: int = Field(default=8, ge=1)
    """Pictures in one request."""
    max_messages: int = Field(default=1024, ge=1)
    """Messages in one request."""
    max_parts: int = Field(default=1024, ge=1)
    """Parts of the contents of all messages together."""
    max_answers: int = Field(default=8, ge=1)
    """Answers to one request (`n`)."""
    max_pixels: int = Field(default=40_000_000, ge=1)
    """Pixels of all pictures of a request together: decoded, one pixel costs 3 to 7 bytes."""
    min_side: int = Field(default=2, ge=1)
    """Shortest side: pictures of one pixel break image processors."""
    max_side: int = Field(default=10_000, ge=1)
    """Longest side: recipes that pad to a square make max_side x max_side pixels of it."""
    max_aspect: int = Field(default=64, ge=1)
    """Longest side over shortest: processors that resize the short side multiply the long one."""


class EndpointArgs(Spec):
    """Which model is served, by how many replicas, and what a request may cost."""

    model: str = "remora"
    """Name in the model registry; also the name that clients may ask for."""
    alias: str = "champion"
    """Registry alias; the version that it points at when the endpoint is deployed is the one that is served."""
    version: str | None = None
    """Version of the registered model. Default: the alias's, found once by who deploys, for all replicas."""
    runs: Path | None = None
    """Runs folder. Default: $REMORA_RUNS, or ~/remora."""
    tracking_uri: str | None = None
    """MLflow server. Default: $MLFLOW_TRACKING_URI, or the database in the runs folder."""
    min_replicas: int = Field(default=2, ge=1)
    max_replicas: int = Field(default=4, ge=1)
    num_cpus: float = Field(default=0.3, gt=0)
    """CPUs that Ray reserves for a replica; torch uses as many threads, at least one."""
    num_gpus: float = Field(default=0, ge=0)
    max_ongoing_requests: int = Field(default=16, ge=1)
    """Requests that one replica works on: 8 are answered as one batch while the next are decoded."""
    max_queued_requests: int = Field(default=256, ge=1)
    """Requests that wait in a proxy before more are refused with 503: at least the burst you expect."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may ask from a browser: `https://chat.example.org`, or `*`."""
    limits: Limits = Limits()

    @field_validator("version", mode="before")
    @classmethod
    def _version(cls, version: Any) -> Any:
        return str(version) if type(version) is int else version  # `version: 3` in YAML

    @model_validator(mode="after")
    def _replicas(self) -> EndpointArgs:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, below min_replicas {self.min_replicas}")
        return self

    @classmethod
    def read(cls, raw: dict[str, Any]) -> EndpointArgs:
        """`raw` as arguments.

        Raises:
            SpecError: an unknown key or a value that breaks a rule, one line each.
        """
        return validate(cls, raw, "endpoint args")

    def resolved(self) -> EndpointArgs:
        """With the environment's defaults filled in, here: a replica may run where the environment differs."""
        runs = (self.runs or Path(os.environ.get("REMORA_RUNS") or "~/remora")).expanduser().resolve()
        uri = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None
        return self.model_copy(update={"runs": runs, "tracking_uri": uri})
