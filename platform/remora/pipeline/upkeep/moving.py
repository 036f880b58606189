"""Rename a bundle, or move a whole run folder: nothing in it decides anything by an absolute path."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

from remora.errors import DataError, StoreError
from remora.files import disk_errors
from remora.pipeline.command_records import commands_at_work
from remora.pipeline.upkeep.holdings import Holding
from remora.pipeline.upkeep.needs import Needs
from remora.tracking.record import Run, read_record, record_files

NAMED = {
    "stage run": "by its stage and identity",
    "unfinished stage run": "by its stage and identity",
    "scores": "by its model and benchmark",
    "index": "by its dataset",
    "search": "by its space: change `name:` there, and the search begins anew",
    "card": "by its bundle",
    "download": "by its version",
    "weights": "by its bundle",
}
"""What decides the names of holdings that cannot be renamed."""


def rename_bundle(holding: Holding, to: str, runs: Path, needs: Needs) -> Path:
    """Give a bundle's folder another name. The variant's own name, in its bundle.json, stays.

    Returns:
        The new folder.

    Raises:
        StoreError: a command works in the run folder, or the name is taken.
        DataError: it is no bundle, or the name is no name of a folder.
    """
    if holding.kind != "bundle":
        raise DataError(f"{holding.shown} is named {NAMED[holding.kind]}, so it cannot be renamed")
    if not to or to != Path(to).name or to.startswith(".") or not to.isprintable() or to != to.strip():
        raise DataError(
            f"a bundle gets another name, and {to!r} is none; to take a model elsewhere: remora export {holding.name}"
        )
    check_idle(needs, holding)
    old, new = holding.path, holding.path.with_name(to)
    with disk_errors(new):
        if os.path.lexists(new):
            raise StoreError(f"{new} is there already; give another name")
    cards = runs / "cards"
    with disk_errors(runs):
        _tell_records(runs, f"bundles/{old.name}", f"bundles/{to}")
        old.rename(new)
        if (cards / old.name).is_dir() and not (cards / to).exists():
            (cards / old.name).rename(cards / to)
    return new


def check_idle(needs: Needs, one: Holding | None = None) -> None:
    """Raises:
    StoreError: a command works in the run folder, or an endpoint serves what is there; of `one` thing, that.
    """
    serving = [work for place, work in needs.serving.items() if one is None or place == one.place]
    if working := [*needs.at_work, *serving]:
        raise StoreError(f"a command works in {needs.runs} ({working[0]}); next: wait for it, or stop it with Ctrl-C")


def _tell_records(runs: Path, old: str, new: str) -> None:
    """Write the new folder into records: versions and models that MLflow does not have yet are made from it."""
    for file in record_files(runs):
        try:
            record = read_record(file)
        except (OSError, ValueError):
            continue
        for claim in record.claims:
            if claim.folder == old:
                Run.again(runs, record.key).claim(replace(claim, folder=new))
        if models := {key: replace(m, folder=new) for key, m in record.models.items() if m.folder == old}:
            Run.again(runs, record.key).note(models=models)


def move_runs(runs: Path, to: Path, needs: Needs) -> Path:
    """Move a run folder. On one disk it is renamed; to another it is copied whole, then deleted.

    Returns:
        Where it is now.

    Raises:
        StoreError: a command works in it, or `to` is there already.
    """
    check_idle(needs)
    if runs.is_symlink():
        raise StoreError(f"{runs} is a link to {runs.resolve()}; next: remora runs mv . {to} --runs {runs.resolve()}")
    final = to.expanduser().absolute()
    if final.is_relative_to(runs):
        raise StoreError(f"{final} is inside of {runs}; give a folder outside")
    if os.path.lexists(final):
        raise StoreError(f"{final} is there already; give a new folder")
    with disk_errors(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            runs.rename(final)
        except OSError as e:
            if e.errno != errno.EXDEV:
                raise
            _copy_then_delete(runs, final)
    return final


def _written(runs: Path) -> dict[str, tuple[int, int]]:
    """Each file's size and time of change."""
    found = {}
    for folder, _, names in os.walk(runs):
        for name in names:
            at = Path(folder, name).lstat()
            found[f"{folder}/{name}"] = (at.st_size, at.st_mtime_ns)
    return found


def _sockets(folder: str, names: list[str]) -> list[str]:
    """Of killed Ray clusters: they lead nowhere, and cannot be copied."""
    return [name for name in names if stat.S_ISSOCK(Path(folder, name).lstat().st_mode)]


def _copy_then_delete(runs: Path, final: Path) -> None:
    """To another disk. Weights that are stored once, as hard links, stay stored once."""
    half = final.with_name(f".{final.name}.{os.getpid():08x}")
    seen: dict[tuple[int, int], str] = {}

    def take(source: str, target: str) -> str:
        at = os.stat(source)  # noqa: PTH116 (what copytree gives)
        first = seen.setdefault((at.st_dev, at.st_ino), target)
        if first != target:
            os.link(first, target)
        else:
            shutil.copy2(source, target)
        return target

    try:
        before = _written(runs)
        shutil.copytree(runs, half, copy_function=take, symlinks=True, ignore=_sockets)
        if _written(runs) != before or commands_at_work(runs):
            raise StoreError(f"a command wrote in {runs} while it was copied; nothing was moved; next: give it again")
        os.sync()  # what is deleted next is nowhere else
        half.rename(final)
    except BaseException as e:
        shutil.rmtree(half, ignore_errors=True)
        if isinstance(e, shutil.Error):  # of many files; `disk_errors` knows those that a person can do something about
            raise OSError(f"{e.args[0][0][2]}; nothing was moved") from None
        raise
    shutil.rmtree(runs)
