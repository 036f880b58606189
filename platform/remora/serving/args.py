"""The endpoint's settings: the keys of `args:` in a Serve config."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from remora.errors import SpecError
from remora.inference.bundle import Weights
from remora.serving.canary.args import CanaryArgs
from remora.serving.keys import ApiKey
from remora.sharing.node import run_folder
from remora.spec.base import Spec, kinds_in, validate
from remora.spec.strict_yaml import parse_yaml

HOST = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9](:[0-9]{1,5})?", re.ASCII)
"""A name whose last label begins with a letter, so that it is no address."""

EngineName = Literal["builtin", "vllm"]


class Limits(Spec):
    """Limits of one request. All are checked before a picture is decoded."""

    max_body_bytes: int = Field(default=20 * 2**20, ge=1024)
    """Bytes of a request's body; checked while it is read."""
    max_values: int = Field(default=2**17, ge=1024)
    """JSON values in a request's body (objects, lists and their elements); counted before it is parsed."""
    max_image_bytes: int = Field(default=10 * 2**20, ge=1024)
    """Bytes of one picture's file, after decoding base64."""
    max_images: int = Field(default=8, ge=1)
    """Pictures in one request."""
    max_messages: int = Field(default=1024, ge=1)
    """Messages in one request."""
    max_parts: int = Field(default=1024, ge=1)
    """Parts of the contents of all messages together."""
    max_answers: int = Field(default=8, ge=1)
    """Answers to one request (`n`)."""
    max_pixels: int = Field(default=40_000_000, ge=1)
    """Pixels of all pictures of a request together: a decoded pixel costs 3 to 7 bytes."""
    min_side: int = Field(default=2, ge=1)
    """Shortest side: pictures of one pixel break image processors."""
    max_side: int = Field(default=10_000, ge=1)
    """Longest side: recipes that pad to a square turn it into max_side x max_side pixels."""
    max_aspect: int = Field(default=64, ge=1)
    """Longest side over shortest: processors that resize the short side enlarge the long one."""
    decode_seconds: float = Field(default=10, gt=0, le=60)
    """CPU time for reading all pictures of a request."""
    decode_bytes: int = Field(default=2**30, ge=2**26)
    """Memory that reading a picture may take, of each process that reads them: up to 16 bytes a pixel, and its file."""
    fetch_seconds: float = Field(default=5, gt=0, le=60)
    """Time for fetching all pictures of a request, if any are fetched (`image_hosts`)."""


class IngressArgs(Spec):
    """The replicas that read requests and send answers. They have no model."""

    min_replicas: int = Field(default=2, ge=1)
    """Replicas when nothing is asked."""
    max_replicas: int = Field(default=4, ge=1)
    """Replicas under load."""
    num_cpus: float = Field(default=0.1, gt=0)
    """CPUs that Ray reserves for one."""
    max_ongoing_requests: int = Field(default=64, ge=1)
    """Requests that one replica has in work, those included that wait for an engine replica."""
    picture_processes: int = Field(default=2, ge=1, le=64)
    """Processes of a replica that decode pictures, each those of one request at a time."""
    waiting_pictures: int = Field(default=32, ge=0)
    """Requests of a replica whose pictures wait for one of these processes before more are refused with 429."""

    @model_validator(mode="after")
    def _replicas(self) -> IngressArgs:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, below min_replicas {self.min_replicas}")
        return self


class ModelArgs(Spec):
    """A further model of an endpoint. What is left out is as for the first one."""

    model: str
    """Name in the model registry, by which requests choose it."""
    alias: str | None = None
    """Registry alias."""
    version: str | None = None
    """Version of the registered model."""
    bundle: str | None = None
    """A variant, or a bundle's folder, in place of a registered version."""
    min_replicas: int | None = Field(default=None, ge=1)
    """Engine replicas."""
    max_replicas: int | None = Field(default=None, ge=1)
    """Engine replicas under load."""
    num_cpus: float | None = Field(default=None, gt=0)
    """CPUs reserved for one."""
    num_gpus: float | None = Field(default=None, ge=0)
    """GPUs of one."""
    engine: EngineName | None = None
    """What runs its language model."""
    weights: Weights | None = None
    """Of its language model's linear layers."""
    vllm_python: Path | None = None
    """For `engine: vllm`, the Python that has it."""
    cache_bytes: int | None = Field(default=None, ge=2**20)
    """Bytes of one's key-value cache."""
    max_ongoing_requests: int | None = Field(default=None, ge=1)
    """Answers that one works on."""

    @field_validator("version", mode="before")
    @classmethod
    def _version(cls, version: object) -> object:
        return as_version(version)


def as_version(version: object) -> object:
    """`version: 3` in YAML is the version "3"."""
    return str(version) if type(version) is int else version


class EndpointArgs(Spec):
    """The served model, the number of replicas, and the limits of a request."""

    model: str = "remora"
    """Name in the model registry; clients may send it as `model`."""
    alias: str = "champion"
    """Registry alias; the version that it names is served."""
    version: str | None = None
    """Version of the registered model. Default: the alias's."""
    bundle: str | None = None
    """A variant, or a bundle's folder that every node sees, instead of a registered model; `model` is its name here."""
    follow: bool = True
    """When the alias moves, its new version takes over. If not: the version that it names at deployment stays."""
    follow_seconds: float = Field(default=5, ge=0.2, le=3600)
    """Seconds between two looks at the registry."""
    load_seconds: float = Field(default=600, gt=0)
    """Timeout for the replicas of a new version to come up."""
    models: tuple[ModelArgs, ...] = ()
    """Further models, which requests choose by name."""
    runs: Path | None = None
    """Runs folder. Default: $REMORA_RUNS, or ~/remora."""
    tracking_uri: str | None = None
    """MLflow server. Default: $MLFLOW_TRACKING_URI, or the database in the runs folder."""
    min_replicas: int = Field(default=2, ge=1)
    """Engine replicas: each has the model."""
    max_replicas: int = Field(default=4, ge=1)
    """Engine replicas under load."""
    num_cpus: float = Field(default=0.3, gt=0)
    """CPUs that Ray reserves for an engine replica; torch uses as many threads, at least one."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs of an engine replica: 0, 1 or a share."""
    engine: EngineName = "builtin"
    """What runs the language model: our own engine, or vLLM in a process beside it."""
    weights: Weights = "float32"
    """Of the language model's linear layers: int8 takes a quarter of their memory, on CPUs."""
    vllm_python: Path | None = None
    """For `engine: vllm`, the Python that has it. Default: $REMORA_VLLM_PYTHON, or the replica's own."""
    cache_bytes: int = Field(default=2 * 2**30, ge=2**20)
    """Bytes of a replica's key-value cache: running requests with room for their longest answers, and shared prefixes
    of prompts. Requests wait until there is room; one that needs more than all of it runs alone."""
    max_ongoing_requests: int = Field(default=64, ge=1)
    """Answers that one engine replica is meant for (`n` of a request counts): at half of them another one starts, and
    when it has more, others get its pictures' requests, too. 64 are decoded together; further ones wait in it."""
    stalled_seconds: float = Field(default=60, gt=0)
    """An engine whose step takes longer hangs: its requests go to another replica, and Serve replaces it."""
    max_queued_requests: int = Field(default=256, ge=1)
    """Requests queued in a proxy before more are refused with 429: at least the burst you expect."""
    keys: Path | dict[str, ApiKey] | None = None
    """A key file that every node sees (`remora keys add`), or its `keys` themselves. Requests need one of them."""
    no_keys: bool = False
    """Requests need no key. Only this machine is answered then."""
    trace: bool = False
    """A trace of each answer in MLflow: times, settings and tokens, without texts and pictures."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may send requests from a browser: `https://chat.example.org`, or `*`."""
    image_hosts: tuple[str, ...] = ()
    """Hosts from which pictures are fetched by https: `images.example.org`, `*.example.org`, with a port if it is not
    443. Default: none."""
    canary: CanaryArgs | None = None
    """A candidate beside the model, first in the shadow, then for a share of the clients."""
    limits: Limits = Limits()
    ingress: IngressArgs = IngressArgs()

    @field_validator("version", mode="before")
    @classmethod
    def _version(cls, version: object) -> object:
        return as_version(version)

    @field_validator("image_hosts")
    @classmethod
    def _hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not HOST.fullmatch(host) or len(host) > 253:
                raise ValueError(
                    f"{host[:80]!r} is no host: a lower-case name like images.example.org or *.example.org"
                )
        return hosts

    @model_validator(mode="after")
    def _replicas(self) -> EndpointArgs:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, below min_replicas {self.min_replicas}")
        if self.no_keys and self.keys is not None:
            raise ValueError("keys and no_keys contradict each other; leave one out")
        if self.bundle is not None and self.version is not None:
            raise ValueError(f"bundle {self.bundle!r} has its own version; leave version {self.version!r} out")
        names = [self.model, *(one.model for one in self.models)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"the model {twice!r} is there twice; a name is one model's")
        return self

    @classmethod
    def read(cls, raw: object) -> EndpointArgs:
        """`raw` as arguments. Text stands for a number or a yes where no text may be: `serve run` gives text only.

        Raises:
            SpecError: an unknown key or a value that breaks a rule, one line each.
        """
        said = {key: cls._of_text(key, value) for key, value in raw.items()} if isinstance(raw, dict) else raw
        return validate(cls, said, "endpoint args")

    @classmethod
    def _of_text(cls, key: str, value: object) -> object:
        kinds = kinds_in(cls.model_fields[key].annotation) if key in cls.model_fields else set()
        said = isinstance(value, str) and kinds & {int, float, bool} and str not in kinds
        return parse_yaml(str(value), f"endpoint args: {key}")[0] if said else value

    @property
    def most_requests(self) -> int:
        """Requests that a proxy has under way at a time, in work and queued; further ones are refused with 429."""
        return self.ingress.max_replicas * self.ingress.max_ongoing_requests + self.max_queued_requests

    def each(self) -> tuple[EndpointArgs, ...]:
        """The settings of each model, as if it were the only one."""
        own = self.model_copy(update={"models": (), "canary": None})
        return (own, *(self._of(further) for further in self.models))

    def _of(self, further: ModelArgs) -> EndpointArgs:
        said = {"models": (), "version": None, "bundle": None, "canary": None, **further.model_dump(exclude_none=True)}
        own = {name: getattr(self, name) for name in EndpointArgs.model_fields}
        return validate(EndpointArgs, own | said, f"endpoint args: model {further.model!r}")

    def check_keys(self) -> None:
        """Raises:
        SpecError: neither keys nor, explicitly, none.
        """
        if self.keys is None and not self.no_keys:
            raise SpecError(
                "endpoint args: keys is missing; next: remora keys add NAME --file FILE, then `keys: FILE`; or "
                "`no_keys: true`, with which only this machine is answered"
            )

    def resolved(self) -> EndpointArgs:
        """With the environment's defaults filled in: a replica's environment may differ from this one."""
        runs = run_folder(self.runs).resolve()
        uri = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None
        keys = self.keys.expanduser().resolve() if isinstance(self.keys, Path) else self.keys
        python = _python(self.vllm_python or os.environ.get("REMORA_VLLM_PYTHON") or None)
        models = tuple(one.model_copy(update={"vllm_python": _python(one.vllm_python)}) for one in self.models)
        found = {"runs": runs, "tracking_uri": uri, "keys": keys, "vllm_python": python, "models": models}
        return self.model_copy(update=found)


def _python(named: Path | str | None) -> Path | None:
    # An environment's Python is a link: following it would leave the environment.
    return None if named is None else Path(named).expanduser().absolute()
