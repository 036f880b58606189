"""The registry: versions of the model, and the alias `champion` that the endpoint follows.

These calls belong to no training, so they raise: who registers or serves a model wants to know that it failed.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from remora.errors import TrackingError, nearest
from remora.files import digest, disk_errors, is_published, sha256_file, verify
from remora.tracking import figures
from remora.tracking.client import Tracker
from remora.tracking.connection import Refused

DIGEST = "remora.digest"


def register(
    tracker: Tracker,
    name: str,
    run_id: str,
    folder: Path,
    alias: str | None = "champion",
    tags: Mapping[str, str] | None = None,
) -> str:
    """Upload `folder` to the run's artifacts, make it a version of model `name`, point `alias` at it.

    The same content from the same run is registered once: a second call moves the alias and renews the tags.

    Returns:
        The version, as MLflow counts: "1", "2", …

    Raises:
        TrackingError: MLflow cannot be reached or refuses; `folder` is not there.
    """
    if not folder.is_dir():
        raise TrackingError(f"there is no folder {folder} to register as {name!r}")
    tracker.prepare()
    run = tracker.real(run_id)
    marks = figures.tags(tags or {}) | {DIGEST: _content(folder)}
    with tracker.client() as client:
        mine = client.search_model_versions(f"name = '{name}' and run_id = '{run}'")
        version = next((v.version for v in mine if v.tags.get(DIGEST) == marks[DIGEST]), None)
        if version is None:
            # A version's files must never change under it, so other content of the same run gets another folder.
            path = "model" if not client.list_artifacts(run, "model") else f"model-{marks[DIGEST][:8]}"
            with tracker.server.patient():
                client.log_artifacts(run, str(folder), path)
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            # `register_model("runs:/…")` wants a logged model in MLflow's own format; plain files need this call.
            source = f"{client.get_run(run).info.artifact_uri}/{path}"
            version = client.create_model_version(name, source, run, tags=marks).version
        for key, value in marks.items():
            client.set_model_version_tag(name, version, key, value)
        if alias:
            client.set_registered_model_alias(name, alias, version)
    return str(version)


def champion_info(tracker: Tracker, name: str = "remora", alias: str = "champion") -> dict[str, Any]:
    """The version behind an alias: `name`, `alias`, `version`, `run_id`, `tags`, `source`.

    Raises:
        TrackingError: MLflow cannot be reached, or holds no such model or alias; the line says what it holds.
    """
    tracker.prepare()
    try:
        with tracker.client() as client:
            found = client.get_model_version_by_alias(name, alias)
    except Refused:
        raise TrackingError(_missing(tracker, name, alias)) from None
    facts = {"version": str(found.version), "run_id": found.run_id, "tags": dict(found.tags), "source": found.source}
    return {"name": name, "alias": alias, **facts}


def champion(tracker: Tracker, name: str = "remora", alias: str = "champion", *, into: Path) -> Path:
    """The files of the version behind an alias, in a local folder.

    Files that lie on this machine are used in place; others are downloaded to `into` once a version.

    Raises:
        TrackingError: as `champion_info`, or the files are gone.
        TornArtifact: the download does not match the manifest it was registered with.
    """
    info = champion_info(tracker, name, alias)
    source = urlparse(info["source"])
    if source.scheme in ("", "file"):
        local = Path(unquote(source.path))
        if not local.is_dir():
            raise TrackingError(
                f"model {name}@{alias} is version {info['version']}, but its files are not at {local}; "
                "mount the run folder on this machine, or register the model again with `remora search tune/demo.yaml`"
            )
        return local
    final = into / f"{name}-v{info['version']}-{digest(info['source'])[:8]}"
    if not final.is_dir():
        with disk_errors(into):
            _download(tracker, info["source"], final)
    return final


def _download(tracker: Tracker, source: str, final: Path) -> None:
    scratch = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
    scratch.mkdir(parents=True)
    try:
        with tracker.client(), tracker.server.patient():
            from mlflow.artifacts import download_artifacts

            got = Path(download_artifacts(artifact_uri=source, dst_path=str(scratch), tracking_uri=tracker.uri))
        if is_published(got):
            verify(got)
        if not final.exists():  # another replica on this machine may have been faster
            got.rename(final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _content(folder: Path) -> str:
    return digest({str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()})


def _missing(tracker: Tracker, name: str, alias: str) -> str:
    with tracker.client() as client:
        models = {m.name: sorted(m.aliases) for m in client.search_registered_models()}
    where = f"MLflow at {tracker.server.shown}"
    make = "make one with `remora search tune/demo.yaml` or `remora demo`"
    if name in models:
        have = ", ".join(models[name]) or "none"
        return f"{where}: model {name!r} has no alias {alias!r}{nearest(alias, models[name])} (aliases: {have}); {make}"
    have = ", ".join(sorted(models)) or "none"
    return f"{where}: there is no model {name!r}{nearest(name, models)} (models: {have}); {make}"
