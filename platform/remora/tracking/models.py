"""Find the model of a name, for every command that takes one and for the endpoint:

base-Eff-2M-mlp                   a variant's name, exactly
~/remora/bundles/base-…-0f3a…     a bundle: its folder, or that folder's name below <run folder>/bundles
remora@champion, remora@3         a registered model, by an alias or by a version
9f2c… (32 digits)                 the id of a variant's run in MLflow
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from remora.errors import DataError, nearest
from remora.files import disk_errors
from remora.inference.bundle import FILE, bundle_name
from remora.sharing import around
from remora.tracking import lookup
from remora.tracking.connection import MlflowRefused
from remora.tracking.registry import VersionInfo, fetch, version_info
from remora.tracking.server import KEY
from remora.tracking.tracker import Tracker

_RUN_ID = re.compile("[0-9a-f]{32}")
SHOWN = 12
"""Names listed in an error at most."""


@dataclass(frozen=True)
class Model:
    """A model found by name, and its folder."""

    folder: Path
    """Its bundle."""
    name: str
    """The variant's name, from its bundle."""
    registered: str | None = None
    """Its name in the registry, if it was found there."""
    version: str | None = None
    run_id: str | None = None
    """The MLflow run that the version was registered from."""

    @property
    def shown(self) -> str:
        """For messages: `share-Sig-Phi, remora version 3 (/…/bundle)`."""
        version = f", {self.registered} version {self.version}" if self.version else ""
        return f"{self.name}{version} ({self.folder})"


def find_model(given: str | Path, runs: Path, tracking_uri: str | None = None) -> Model:
    """The model that `given` names. Read-only, except for the run folder's download cache.

    Raises:
        DataError: no model has that name, or several have it; the line lists them.
        TrackingError: `name@alias`, and the registry cannot be reached or does not have it.
        TornArtifact: a registered model's files were changed in transit.
    """
    text = str(given)
    folder = _place(text)
    _bring(text, runs / "bundles")
    bundles = _bundles(runs)
    found = {p for p in bundles if text in (p.name, bundles[p])}
    if folder and (folder / FILE).is_file():
        found.add(folder.absolute())
    if len({p.resolve() for p in found}) > 1:
        raise DataError(
            f"{len(found)} models are named {text!r}; give the folder of one: "
            + ", ".join(map(str, sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)))
        )
    if found:
        only = found.pop()
        return Model(only, bundle_name(only))
    name, at, label = text.rpartition("@")
    if at and name and label and os.sep not in label:
        tracker = Tracker(runs, tracking_uri)
        found_at = lookup.find_version(tracker.uri, name, label)
        info = VersionInfo(name=name, label=label, **found_at) if found_at else version_info(tracker, name, label)
        local = fetch(tracker, info, into=runs / "cache" / "champions")
        return Model(local, bundle_name(local), name, info["version"], info["run_id"])
    if _RUN_ID.fullmatch(text):
        only = _bundle_of_run(text, runs, tracking_uri, bundles)
        return Model(only, bundle_name(only), run_id=text)
    raise DataError(_nothing(text, folder, runs, bundles))


def _bundle_of_run(run: str, runs: Path, tracking_uri: str | None, bundles: Iterable[Path]) -> Path:
    tracker = Tracker(runs, tracking_uri)
    tracker.check_there()
    try:
        said = lookup.run_tag(tracker.uri, run, KEY)
        if said is None:
            with tracker.client() as client:
                said = client.get_run(run).data.tags.get(KEY, "")
        kind, _, key = said.partition("/")
    except MlflowRefused:
        raise DataError(f"MLflow at {tracker.server.shown} has no run {run}; its runs: remora ui") from None
    if kind != "variant":
        raise DataError(f"MLflow's run {run} is of a {kind or 'stranger'}; give a variant's run, or a variant's name")
    stage_run = key.partition("/")[0][:12]  # the last one of the variant: a bundle is named by it
    if made := [bundle for bundle in bundles if bundle.name.endswith(f"-{stage_run}")]:
        return made[0]
    raise DataError(f"the bundle of MLflow's run {run} is not in {runs / 'bundles'}; next: remora train SPEC")


def _place(text: str) -> Path | None:
    """The file or folder of that name, if the name is possible."""
    try:
        folder = Path(text).expanduser()
        return folder if text and folder.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, ~nobody
        return None


def _bring(text: str, bundles: Path) -> None:
    """Bring what other nodes made under that name: the variant's, or the folder's."""
    if text and (shared := around(bundles)):
        for name in shared.names(shared.key(bundles)):
            if text in (name, name.rpartition("-")[0]):
                shared.bring(bundles / name)


def _bundles(runs: Path) -> dict[Path, str]:
    """The run folder's bundles, with their variants' names; a broken one with its folder's name."""
    found = {}
    with disk_errors(runs):
        for file in sorted((runs / "bundles").glob(f"[!.]*/{FILE}")):
            try:
                found[file.parent] = bundle_name(file.parent)
            except DataError:
                found[file.parent] = file.parent.name
    return found


def _nothing(text: str, folder: Path | None, runs: Path, bundles: dict[Path, str]) -> str:
    if folder and folder.suffix in (".yaml", ".yml") and folder.is_file():
        what = f"{text}: a model is named by its variant's name, and this is a spec"
    elif folder and folder.is_dir():
        what = f"{text}: no {FILE} there, so it is no bundle"
    else:
        what = f"no model {text!r}{nearest(text, bundles.values())}"
    names = sorted(set(bundles.values()))
    there = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return (
        f"{what}; a model is a variant's name (trained in {runs}: {there or 'none'}), the folder of a bundle, or "
        "name@alias of the registry; next: remora train SPEC, or remora import FOLDER --out BUNDLE"
    )
