"""The artifact store: what is trained already, and who may train what is not.

    <runs>/stages/<stage>-<identity>/         published: parts/, journal.jsonl, job.json, record.json, manifest.json
    <runs>/stages/<stage>-<identity>.work/    being trained: journal, checkpoints, parts
    <runs>/stages/<stage>-<identity>.lease    locked by whoever trains it

The lease is a lock of the operating system on an open file, so it ends with its holder, however that dies. The run
folder must be on a disk or a network file system that honours flock (NFS 4, Lustre with -o flock).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from remora import catalog
from remora.errors import StoreError, TornArtifact
from remora.files import (
    MANIFEST,
    copy,
    disk_errors,
    exclusive,
    is_published,
    publishing,
    sweep,
    verify,
    write_atomic,
    write_json,
)
from remora.model.refs import PartRef
from remora.runs.graph import StageRun
from remora.spec import Cluster
from remora.training import journal
from remora.training.job import PARTS_FOLDER, START_FOLDER, StageJob
from remora.training.journal import JOURNAL

log = logging.getLogger(__name__)


class Store:
    """Stage runs below one run folder."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.root = runs / "stages"
        self.data = runs / "data"
        self.cache = runs / "cache"

    def check_writable(self) -> None:
        """Raises:
        StoreError: the run folder is read-only, full or no folder.
        """
        with disk_errors(self.runs):
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.runs / f".probe-{os.getpid()}"
            probe.write_bytes(b"\0" * 65536)
            probe.unlink()

    def folder(self, run: StageRun) -> Path:
        return self.root / run.name

    def work(self, run: StageRun) -> Path:
        return self.root / f"{run.name}.work"

    def journal(self, run: StageRun) -> Path:
        """The run's journal, wherever it is now."""
        done = self.folder(run) / JOURNAL
        return done if done.exists() else self.work(run) / JOURNAL

    def finished(self, run: StageRun) -> bool:
        """Whether the run is published and whole. Changes nothing: who has the lease sets a torn one aside."""
        try:
            return self._whole(run)
        except TornArtifact:
            return False

    def _whole(self, run: StageRun) -> bool:
        """Raises:
        TornArtifact: it is published, and not what was written.
        """
        if not is_published(self.folder(run)):
            return False
        verify(self.folder(run))
        return True

    @contextlib.contextmanager
    def lease(
        self,
        run: StageRun,
        waiting: Callable[[str], None] = lambda holder: None,
        refused: Callable[[str], None] = log.warning,
    ) -> Iterator[bool]:
        """Hold the right to train `run`: True.

        If somebody else has it, call `waiting` once with who that is, then wait until they give it up (True) or publish
        the run (False). With the lease comes the room: what killed writers left there is swept, a torn run is set
        aside by name (`refused` hears it), and a working folder beside a whole run is deleted.
        """
        seen = 0

        def there() -> bool:
            nonlocal seen
            if (now := self._published_at(run)) == seen:
                return False  # looked at already: digests of gigabytes take seconds
            seen = now
            return self.finished(run)

        with exclusive(self.root / f"{run.name}.lease", waiting, enough=there) as mine:
            if not mine:
                yield False
                return
            with disk_errors(self.runs):
                done = self._tidied(run, refused)
            yield not done

    def _published_at(self, run: StageRun) -> int:
        """Nanoseconds since 1970; 0 if it is not published."""
        try:
            return (self.folder(run) / MANIFEST).stat().st_mtime_ns
        except OSError:
            return 0

    def _tidied(self, run: StageRun, refused: Callable[[str], None]) -> bool:
        """Whether the run is published and whole, once what does not belong there is gone."""
        folder = self.folder(run)
        try:
            done = self._whole(run)
        except TornArtifact as e:
            aside = folder.with_name(f"{folder.name}.torn-{uuid.uuid4().hex[:8]}")
            folder.rename(aside)
            refused(f"stage run refused, it will be trained again: {str(e).partition(';')[0]} (kept as {aside.name})")
            done = False
        sweep(self.root, run.name)
        if done:
            shutil.rmtree(self.work(run), ignore_errors=True)
        return done

    def parts(self, lineage: tuple[StageRun, ...]) -> dict[str, PartRef]:
        """Every part with the folder of its weights after `lineage`: the last stage run that trained it decides."""
        refs: dict[str, PartRef] = {}
        for run in lineage:
            for part, name in run.parts:
                tuning, made = run.stage.tune[part], self.folder(run) / PARTS_FOLDER / part
                if tuning.trains and not tuning.lora:
                    refs[part] = PartRef(name, made)
                elif part not in refs:
                    refs[part] = PartRef(name, self._pristine(part, name))
                if tuning.lora:
                    refs[part] = replace(refs[part], adapters=(*refs[part].adapters, made))
        return refs

    def _pristine(self, part: str, name: str) -> Path | None:
        if part != "llm":
            return None
        entry = catalog.llm(name)
        if entry.loader == "scratch":
            raise StoreError(f"llm {name!r} is trained from scratch, but no stage of the recipe trains it")
        from remora.model.llm import pretrained_folder

        return pretrained_folder(name, entry, self.cache / "llm")

    def prepare(self, run: StageRun, cluster: Cluster) -> StageJob:
        """The job of a stage run: where its parts start from, in its working folder (kept if it exists: a resume)."""
        work = self.work(run)
        with disk_errors(self.runs):
            work.mkdir(parents=True, exist_ok=True)
            refs = self.parts(run.parent.lineage) if run.parent else {}
            for part, name in run.parts:
                if part not in refs:
                    refs[part] = PartRef(name, self._start(part, name, run))
            job = StageJob(run.stage, {p: refs[p] for p, _ in run.parts}, work, run.datasets, run.seed, cluster)
            write_atomic(work / "job.json", job.to_json(self.runs))
        return job

    def _start(self, part: str, name: str, run: StageRun) -> Path | None:
        if part != "llm" or catalog.llm(name).loader != "scratch":
            return self._pristine(part, name)
        return self.work(run) / START_FOLDER  # its first worker makes it

    def llm_folder(self, run: StageRun) -> Path | None:
        """Where a model from scratch is, which `run` trains: as trained, or as it starts; None if neither is there."""
        made = (self.folder(run) / PARTS_FOLDER / "llm", self.work(run) / START_FOLDER)
        return next((folder for folder in made if folder.is_dir()), None)

    def tokenizer_folder(self, run: StageRun) -> Path | None:
        """Where the tokenizer of a stage run's language model is; None as long as the stage that makes it has not.

        A pretrained model is fetched or converted if need be.
        """
        name = dict(run.parts)["llm"]
        return self.llm_folder(run.lineage[0]) if catalog.llm(name).loader == "scratch" else self._pristine("llm", name)

    def record(self, run: StageRun) -> dict[str, Any]:
        """What was written about a finished run when it was published."""
        return json.loads((self.folder(run) / "record.json").read_text())

    def publish(self, name: str, record: dict[str, Any], attempt: int | None = None) -> Path:
        """Make the trained parts of the run of that name its artifact, with journal and record, not the checkpoints.

        Args:
            attempt: Whose work it is (see `training.journal`); None where there was only one.

        Raises:
            TrainingError: another attempt has taken over since. Asked last, when all else is written.
        """
        work, final = self.root / f"{name}.work", self.root / name
        with publishing(final) as tmp:
            if attempt is not None:
                journal.check_ours(work / JOURNAL, attempt)
            copy(work / PARTS_FOLDER, tmp / PARTS_FOLDER)
            for file in (JOURNAL, "job.json"):  # not links: a process that was thought dead may add to the journal
                shutil.copy2(work / file, tmp / file)
            write_json(tmp / "record.json", record)
            if attempt is not None:
                journal.check_ours(work / JOURNAL, attempt)
        shutil.rmtree(work, ignore_errors=True)
        return final
