"""The registry: versions of the model, and the alias `champion` that the endpoint follows.

Callers that register or serve a model need to know of failures, so these calls raise.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from remora.errors import MissingVersion, TrackingError, nearest
from remora.files import digest, is_published, scratch, sha256_file, verify
from remora.tracking import metric_names
from remora.tracking.connection import MlflowRefused
from remora.tracking.record import Claim, Run, within

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from remora.tracking.server import Server
    from remora.tracking.tracker import Tracker

DIGEST, CLAIMED, DESCRIBED = "remora.digest", "remora.claimed", "remora.described"
"""Tags of a version: its content's digest, when we pointed each alias at it, and the digest of our description."""


class VersionInfo(TypedDict):
    """A version of a registered model."""

    name: str
    label: str
    """The alias or the number that it was asked for by."""
    version: str
    run_id: str | None
    tags: dict[str, str]
    source: str


def register(
    tracker: Tracker,
    name: str,
    key: str,
    folder: Path,
    alias: str | None = "champion",
    tags: Mapping[str, object] | None = None,
) -> str:
    """Make `folder` a version of model `name`, of the run with that key, and point `alias` at it.

    The same content is one version, whichever run it came from: a second call moves the alias and updates the tags.
    While MLflow cannot be reached the run's record keeps the claim, and the next sync executes it.

    Returns:
        The version, as in MLflow: "1", "2", …

    Raises:
        TrackingError: MLflow cannot be reached or refuses; `folder` is missing.
    """
    if not folder.is_dir():
        raise TrackingError(f"there is no folder {folder} to register as {name!r}")
    at = int(time.time() * 1000)
    claim = Claim(name, within(tracker.runs, folder), content_digest(folder), alias, at, metric_names.tags(tags or {}))
    run = Run.again(tracker.runs, key)
    run.claim(claim)
    report = tracker.sync()
    with tracker.client() as client:
        found = _versions(client, claim)
    if not found:  # a name that MLflow does not take: no later sync would make it
        run.withdraw(claim)
        raise TrackingError(
            "; ".join(report.refused) or f"MLflow at {tracker.server.shown} made no version of {name!r}"
        )
    return str(found[0].version)


def make_version(server: Server, run: str, claim: Claim, model: str | None = None, note: str = "") -> None:
    """Execute a claim, once: an alias that was moved since stays there, and so does what a person wrote.

    Args:
        model: The id of the LoggedModel that the version is of.
        note: What the version's page says.

    Raises:
        MlflowUnreachable, MlflowRefused: MLflow cannot do it now, or ever.
    """
    with server.answers() as client:
        there = _versions(client, claim)
        version = next((v for v in there if not (local := server.local(v.source or "")) or local.is_dir()), None)
        marks = claim.tags | {DIGEST: claim.digest}
        if version is None:
            # A version's files must never change, so other content of the same run gets another folder.
            path = f"model-{claim.digest[:8]}"
            server.upload(run, server.runs / claim.folder, path)
            if not client.search_registered_models(f"name = '{claim.model}'"):
                client.create_registered_model(claim.model)
            # `register_model("runs:/…")` needs a logged model in MLflow's own format; plain files need this call.
            source = f"{client.get_run(run).info.artifact_uri}/{path}"
            # With a `model_id` a server takes no source but that model's own artifacts, and it has none.
            version = client.create_model_version(claim.model, source, run, tags=marks)
        if model:
            server.tell_version(model, claim.model, str(version.version))
        before = version.description or ""
        if note != before and (not before or digest(before) == version.tags.get(DESCRIBED)):
            client.update_model_version(claim.model, version.version, note)
            client.set_model_version_tag(claim.model, version.version, DESCRIBED, digest(note))
        done = f"{CLAIMED}.{claim.alias}"
        if version.tags.get(done) == str(claim.at):
            return
        for tag, value in marks.items():
            client.set_model_version_tag(claim.model, version.version, tag, value)
        if claim.alias:
            client.set_registered_model_alias(claim.model, claim.alias, version.version)
        client.set_model_version_tag(claim.model, version.version, done, str(claim.at))


def _versions(client: MlflowClient, claim: Claim) -> list[ModelVersion]:
    """The versions with a claim's content, newest first."""
    return list(client.search_model_versions(f"name = '{claim.model}' and tags.`{DIGEST}` = '{claim.digest}'"))


def version_info(tracker: Tracker, name: str, label: str = "champion") -> VersionInfo:
    """The version of model `name` with `label`, an alias or a number. Read-only: creates no database.

    Raises:
        TrackingError: MLflow cannot be reached.
        MissingVersion: it has no such model, alias or version; the line lists what it has.
    """
    tracker.check_there()
    number = label.removeprefix("v")
    try:
        with tracker.client() as client:
            asked = client.get_model_version if number.isdecimal() else client.get_model_version_by_alias
            found = asked(name, number if number.isdecimal() else label)
    except MlflowRefused:
        raise MissingVersion(_missing(tracker, name, label)) from None
    return {
        "name": name,
        "label": label,
        "version": str(found.version),
        "run_id": found.run_id,
        "tags": dict(found.tags),
        "source": found.source or "",
    }


def facts_of_run(tracker: Tracker, run_id: str) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics of a run, and the digests of the data that it read, by name.

    Raises:
        TrackingError: MLflow cannot be reached, or has no such run.
    """
    try:
        with tracker.client() as client:
            found = client.get_run(run_id)
    except MlflowRefused:
        raise TrackingError(f"MLflow at {tracker.server.shown} has no run {run_id}; its runs: remora ui") from None
    inputs = found.inputs.dataset_inputs if found.inputs else ()
    read = {one.dataset.name: one.dataset.digest for one in inputs}
    return dict(found.data.metrics), read


def standing(tracker: Tracker, name: str, alias: str) -> VersionInfo | None:
    """`version_info` of the alias; None where MLflow holds no such model or alias yet.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    if (database := tracker.server.database) and not database.exists():
        return None
    with tracker.client() as client:
        there = client.search_registered_models(f"name = '{name}'")
    return version_info(tracker, name, alias) if any(alias in model.aliases for model in there) else None


def promoted_version(tracker: Tracker, name: str, at: str, variant: str) -> str | None:
    """The version of a variant that was promoted at a time, by its tags; None if there is none.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    with tracker.client() as client:
        found = client.search_model_versions(f"name = '{name}' and tags.promoted_at = '{at}'")
    return next((str(v.version) for v in found if v.tags.get("variant") == variant), None)


def check_alias(name: str, alias: str) -> None:
    """Raises:
    TrackingError: the alias is empty or reads as a version, so that it would never be found.
    """
    if not alias or alias.removeprefix("v").isdecimal():
        raise TrackingError(
            f"alias {alias!r} would never be found: {name}@{alias or 'N'} means a version; "
            "give a word, as in --alias champion"
        )


def fetch(tracker: Tracker, info: VersionInfo, *, into: Path) -> Path:
    """The files of a version (see `version_info`) in a local folder.

    Files on this machine are used in place; others are downloaded to `into`, once per version.

    Raises:
        TrackingError: the files are gone.
        TornArtifact: the download does not match the manifest it was registered with.
    """
    if local := tracker.server.local(info["source"]):
        if not local.is_dir():
            raise TrackingError(
                f"{info['name']} version {info['version']}: its files are not at {local}; "
                "mount the run folder on this machine, or register the model again: remora register BUNDLE"
            )
        return local
    final = into / f"{info['name']}-v{info['version']}-{digest(info['source'])[:8]}"
    if not final.is_dir():
        _download(tracker, info["source"], final)
    return final


def _download(tracker: Tracker, source: str, final: Path) -> None:
    with scratch(final) as tmp:
        with tracker.client(), tracker.server.patient():
            from mlflow.artifacts import download_artifacts

            got = Path(download_artifacts(artifact_uri=source, dst_path=str(tmp), tracking_uri=tracker.uri))
        if is_published(got):
            verify(got)
        if not final.exists():  # another replica on this machine may have been faster
            got.rename(final)


def content_digest(folder: Path) -> str:
    """By which a version is known: of the names and bytes of all files."""
    return digest({str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()})


def _missing(tracker: Tracker, name: str, label: str) -> str:
    with tracker.client() as client:
        models = {m.name: sorted(m.aliases) for m in client.search_registered_models()}
        versions = client.search_model_versions(f"name = '{name}'") if name in models else []
    where = f"MLflow at {tracker.server.shown}"
    make = f"make one: remora register MODEL --as {name} (or remora search tune/demo.yaml, remora demo)"
    if name in models:
        have = ", ".join(models[name]) or "none"
        numbers = ", ".join(sorted((str(v.version) for v in versions), key=int)) or "none"
        what = f"version {label}" if label.removeprefix("v").isdecimal() else f"alias {label!r}"
        known = f"aliases: {have}; versions: {numbers}"
        return f"{where}: model {name!r} has no {what}{nearest(label, models[name])} ({known}); {make}"
    have = ", ".join(sorted(models)) or "none"
    return f"{where}: there is no model {name!r}{nearest(name, models)} (models: {have}); {make}"
