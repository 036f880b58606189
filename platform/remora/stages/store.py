"""The artifact store: what is trained already, and who may train what is not.

    <runs>/stages/<stage>-<identity>/         published: parts/, journal.jsonl, job.json, record.json, manifest.json
    <runs>/stages/<stage>-<identity>.work/    being trained: journal, checkpoints, parts
    <runs>/stages/<stage>-<identity>.lease    locked by whoever trains it

The lease is a lock of the operating system on an open file, so it ends with its holder, however that dies. The run
folder must be on a disk or a network file system that honours flock (NFS 4, Lustre with -o flock).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from remora import catalog
from remora.errors import StoreError, TornArtifact
from remora.files import disk_errors, is_published, publishing, verify, write_atomic, write_json
from remora.model.refs import PartRef
from remora.spec import Cluster
from remora.stages.graph import StageRun
from remora.training.job import PARTS_FOLDER, START_FOLDER, StageJob
from remora.training.journal import JOURNAL

log = logging.getLogger(__name__)
POLL = 0.5


def default_runs() -> Path:
    """The run folder: REMORA_RUNS, or `remora` in the home folder, the same for every working directory and worker."""
    return Path(os.environ.get("REMORA_RUNS") or Path.home() / "remora").expanduser().absolute()


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
        """Whether the run is published and whole. A torn one is set aside by name, to be trained again."""
        folder = self.folder(run)
        if not is_published(folder):
            return False
        try:
            verify(folder)
        except TornArtifact as e:
            aside = folder.with_name(f"{folder.name}.torn-{int(time.time())}")
            folder.rename(aside)
            log.warning("stage run refused, it will be trained again: %s (kept as %s)", e, aside.name)
            return False
        return True

    @contextlib.contextmanager
    def lease(self, run: StageRun, waiting: Callable[[], None] = lambda: None) -> Iterator[bool]:
        """Hold the right to train `run`: True.

        If somebody else has it, call `waiting` once, then wait until they give it up (True) or publish the run (False).
        """
        with disk_errors(self.runs):
            self.root.mkdir(parents=True, exist_ok=True)
            with (self.root / f"{run.name}.lease").open("w") as f:
                told = False
                while True:
                    try:
                        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        if is_published(self.folder(run)):
                            break
                        if not told:
                            waiting()
                            told = True
                        time.sleep(POLL)
                yield not is_published(self.folder(run))

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
            write_atomic(work / "job.json", job.to_json())
        return job

    def _start(self, part: str, name: str, run: StageRun) -> Path | None:
        if part != "llm" or catalog.llm(name).loader != "scratch":
            return self._pristine(part, name)
        return self.work(run) / START_FOLDER  # its first worker makes it

    def llm_folder(self, run: StageRun) -> Path | None:
        """Where a model from scratch is, which `run` trains: as trained, or as it starts; None if neither is there."""
        made = (self.folder(run) / PARTS_FOLDER / "llm", self.work(run) / START_FOLDER)
        return next((folder for folder in made if folder.is_dir()), None)

    def record(self, run: StageRun) -> dict[str, Any]:
        """What was written about a finished run when it was published."""
        return json.loads((self.folder(run) / "record.json").read_text())

    def publish(self, name: str, record: dict[str, Any]) -> Path:
        """Make the trained parts of the run of that name its artifact, with journal and record, not the checkpoints."""
        work, final = self.root / f"{name}.work", self.root / name
        with publishing(final) as tmp:
            for name in (PARTS_FOLDER, JOURNAL, "job.json"):
                shutil.copytree(work / name, tmp / name) if (work / name).is_dir() else shutil.copy2(work / name, tmp)
            write_json(tmp / "record.json", record)
        shutil.rmtree(work)
        return final
