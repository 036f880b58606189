"""Which version of which model answers a request: the table that every ingress replica holds.

    choice = table.choose("remora", key)
    choice.model       # the model that the request names
    choice.version     # whose answer the client gets
    choice.shadow      # may answer the same request, for comparison alone; None: no version is on trial

A table is a value: whoever changes what is served makes another one with a higher number (fleet.py), and ingress
replicas take it. One on trial is `ModelVersions.trial`. No Ray here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remora.serving.champion import ModelFacts


@dataclass(frozen=True)
class RunningVersion:
    """A version of a model that is loaded and answers."""

    facts: ModelFacts
    app: str = ""
    """The Serve application whose replicas have it."""

    @property
    def version(self) -> str:
        return self.facts.version


@dataclass(frozen=True)
class TrialVersion:
    """A version beside the stable one, that answers a part of the requests."""

    running: RunningVersion
    share: float = 0.0
    """That part, from 0 to 1, chosen by the requests' keys: a key that it has stays with it while the share grows. With
    0 it answers in the shadow alone, and clients get the stable one's answers."""


@dataclass(frozen=True)
class RefusedVersion:
    """A version that the alias names and that is not served."""

    version: str
    reason: str
    """One line."""


@dataclass(frozen=True)
class ModelVersions:
    """A served model and its versions."""

    model: str
    """Its name in the registry, or that of its variant."""
    alias: str
    stable: RunningVersion
    trial: TrialVersion | None = None
    retired: tuple[RunningVersion, ...] = ()
    """Versions that finish what they have begun."""
    refused: RefusedVersion | None = None

    @property
    def running(self) -> tuple[RunningVersion, ...]:
        """The stable version, that on trial, and those that are retired."""
        trial = () if self.trial is None else (self.trial.running,)
        return (self.stable, *trial, *self.retired)

    def role(self, running: RunningVersion) -> str:
        """Of one of them: stable, trial or retired."""
        if running == self.stable:
            return "stable"
        return "trial" if self.trial is not None and running == self.trial.running else "retired"

    def fingerprint(self, version: str) -> str:
        """OpenAI's `system_fingerprint`: `remora@3`."""
        return f"{self.model}@{version}"

    def choose(self, key: str) -> VersionChoice:
        """The version for a request with this key: the same key, the same version, while the share does not sink."""
        if self.trial is None:
            return VersionChoice(self, self.stable)
        trial = self.trial.running
        if place(self.fingerprint(trial.version), key) < self.trial.share:
            return VersionChoice(self, trial, self.stable)
        return VersionChoice(self, self.stable, trial)


@dataclass(frozen=True)
class VersionChoice:
    """Who answers a request."""

    model: ModelVersions
    version: RunningVersion
    shadow: RunningVersion | None = None
    """The other one, while a version is on trial: it may answer, too, for comparison alone."""

    @property
    def on_trial(self) -> bool:
        """Whether the version on trial answers."""
        return self.shadow is not None and self.shadow == self.model.stable

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint(self.version.version)


@dataclass(frozen=True)
class VersionTable:
    """All served models."""

    number: int
    """Of two tables, the one with the higher number is newer."""
    models: tuple[ModelVersions, ...]
    """The first one answers requests that name no model."""

    def names(self) -> dict[str, ModelVersions]:
        """What a request may give as `model`: a model's name, its variant's, `name@alias`, and the first one's alias.
        The first model of a name has it."""
        found: dict[str, ModelVersions] = {}
        for name, model in self._named():
            found.setdefault(name, model)
        return found

    def _named(self) -> Iterator[tuple[str, ModelVersions]]:
        for model in self.models:
            yield model.model, model
        for number, model in enumerate(self.models):
            yield model.stable.facts.name, model
            yield (f"{model.model}@{model.alias}" if number else model.alias), model

    def choose(self, name: str | None, key: str) -> VersionChoice:
        """Who answers a request for a model of this name (`names` has it), or for none by name.

        Raises:
            KeyError: no model has this name.
        """
        return (self.models[0] if name is None else self.names()[name]).choose(key)


def table_of(model: str, alias: str, facts: ModelFacts) -> VersionTable:
    """That of one model, in this process."""
    return VersionTable(0, (ModelVersions(model, alias, RunningVersion(facts)),))


def place(version: str, key: str) -> float:
    """Where a key stands among all, from 0 to 1: evenly, by nothing else than the key and the version on trial, so that
    not the same clients are first in every trial."""
    digest = hashlib.sha256(f"{version}\0{key}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
