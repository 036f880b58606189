"""The registry: versions of the model, and the alias `champion` that the endpoint follows.

These calls belong to no training, so they raise: who registers or serves a model wants to know that it failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remora.errors import TrackingError, nearest
from remora.files import digest, is_published, scratch, sha256_file, verify
from remora.tracking import figures
from remora.tracking.client import Tracker
from remora.tracking.connection import Refused, Unreachable

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

    The same content is one version, whichever run it came from: a second call moves the alias and renews the tags.

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
        there = client.search_model_versions(f"name = '{name}' and tags.`{DIGEST}` = '{marks[DIGEST]}'")
        version = next(
            (v.version for v in there if not (local := tracker.server.local(v.source)) or local.is_dir()), None
        )
        if version is None:
            # A version's files must never change under it, so other content of the same run gets another folder.
            path = "model" if not client.list_artifacts(run, "model") else f"model-{marks[DIGEST][:8]}"
            tracker.server.upload(run, folder, path)
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


def version_info(tracker: Tracker, name: str, label: str = "champion") -> dict[str, Any]:
    """The version of model `name` that `label` means, an alias or a number: `name`, `label`, `version`, `run_id`,
    `tags`, `source`. Asks only: where there is no database, none is made.

    Raises:
        TrackingError: MLflow cannot be reached, or holds no such model, alias or version; the line says what it holds.
    """
    tracker.check_there()
    number = label.removeprefix("v")
    try:
        with tracker.client() as client:
            asked = client.get_model_version if number.isdecimal() else client.get_model_version_by_alias
            found = asked(name, number if number.isdecimal() else label)
    except Refused:
        raise TrackingError(_missing(tracker, name, label)) from None
    except Unreachable as e:
        raise tracker.unreachable(e) from e
    facts = {"version": str(found.version), "run_id": found.run_id, "tags": dict(found.tags), "source": found.source}
    return {"name": name, "label": label, **facts}


def fetch(tracker: Tracker, info: Mapping[str, Any], *, into: Path) -> Path:
    """The files of a version (see `version_info`) in a local folder.

    Files that lie on this machine are used in place; others are downloaded to `into` once a version.

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


def champion(tracker: Tracker, name: str = "remora", alias: str = "champion", *, into: Path) -> Path:
    """The files of the version behind an alias, in a local folder; see `version_info` and `fetch`."""
    return fetch(tracker, version_info(tracker, name, alias), into=into)


def _download(tracker: Tracker, source: str, final: Path) -> None:
    with scratch(final) as tmp:
        with tracker.client(), tracker.server.patient():
            from mlflow.artifacts import download_artifacts

            got = Path(download_artifacts(artifact_uri=source, dst_path=str(tmp), tracking_uri=tracker.uri))
        if is_published(got):
            verify(got)
        if not final.exists():  # another replica on this machine may have been faster
            got.rename(final)


def _content(folder: Path) -> str:
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
