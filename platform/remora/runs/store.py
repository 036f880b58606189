"""The artifact store: published stage runs, and the leases for training missing ones.

    <runs>/stages/<stage>-<identity>/         published: parts/, journal.jsonl, job.json, record.json, manifest.json
    <runs>/stages/<stage>-<identity>.work/    being trained: journal, checkpoints, parts
    <runs>/stages/<stage>-<identity>.lease    locked by the process that trains it
    <runs>/stages/<stage>-<identity>.validations.jsonl    made after it was published

The lease is an operating system lock on an open file, so it ends with its holder in any case. The run folder must be on
a disk or a network file system that supports flock (NFS 4, Lustre with -o flock).

If the run folder is a URL, this is the node's own folder (sharing/): a stage run is finished when it is published at
the URL, the lease is held there, too, and its holder sends checkpoints there.
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

from remora import catalog
from remora.data.held_out import held_out_digest
from remora.errors import StoreError, TornArtifact
from remora.files import (
    copy,
    disk_errors,
    exclusive,
    is_held,
    is_published,
    known_sha256,
    publishing,
    sweep,
    verify,
    write_atomic,
    write_json,
)
from remora.model.refs import PartRef
from remora.runs.graph import StageRun
from remora.runs.handover import handing_over, take_over
from remora.sharing import SharedRuns, around
from remora.spec import Cluster
from remora.training import journal, pausing
from remora.training.environment import EnvironmentRecord, read_environment
from remora.training.job import PARTS_FOLDER, START_FOLDER, StageJob
from remora.training.journal import JOURNAL, Validated, validations_of

log = logging.getLogger(__name__)


class Store:
    """Stage runs in one run folder."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.root = runs / "stages"
        self.data = runs / "data"
        self.cache = runs / "cache"
        self.shared = around(runs)
        """Where results are shared, if the run folder is a URL; else None."""

    def check_writable(self) -> None:
        """Raises:
        StoreError: the run folder is read-only, full or not a folder.
        """
        with disk_errors(self.runs):
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.runs / f".probe-{os.getpid()}"
            probe.write_bytes(b"\0" * 65536)
            probe.unlink()
        if self.shared:
            self.shared.objects.check()

    def folder(self, run: StageRun) -> Path:
        return self.root / run.name

    def work(self, run: StageRun) -> Path:
        return self.root / f"{run.name}.work"

    def journal(self, run: StageRun) -> Path:
        """The run's journal, published or in its working folder."""
        return self.journal_named(run.name)

    def journal_named(self, name: str) -> Path:
        """`journal` of the stage run of that name."""
        done = self.root / name / JOURNAL
        return done if done.exists() else self.root / f"{name}.work" / JOURNAL

    def finished(self, run: StageRun) -> bool:
        """Whether the run is published and intact. Changes nothing: a torn run is set aside by the lease holder.

        What another node published at the URL is brought here first.
        """
        try:
            if self.shared and not (self.there(run) and self.shared.bring(self.folder(run))):
                return False
            return self._whole(run)
        except TornArtifact:
            return False

    def there(self, run: StageRun) -> bool:
        """Like `finished`, but nothing is brought from the URL."""
        return self.shared.has(self.folder(run)) if self.shared else self.finished(run)

    def elsewhere(self, run: StageRun) -> bool:
        """Whether a living process, here or on another node, holds its lease."""
        if is_held(self.root / f"{run.name}.lease"):
            return True
        return self.shared is not None and self.shared.leases.elsewhere(self.shared.key(self.folder(run)))

    def _whole(self, run: StageRun) -> bool:
        """Raises:
        TornArtifact: it is published but damaged.
        """
        if not is_published(self.folder(run)):
            return False
        verify(self.folder(run), sha256=known_sha256)
        return True

    @contextlib.contextmanager
    def lease(
        self,
        run: StageRun,
        waiting: Callable[[str], None] = lambda holder: None,
        refused: Callable[[str], None] = log.warning,
    ) -> Iterator[bool]:
        """Hold the lease to train `run`; yields True.

        If another process has it, `waiting` is called once with its description. Then wait until it releases the lease
        (True) or publishes the run (False). On taking the lease, leftovers of killed writers are swept, a torn run is
        set aside (`refused` is called with a message), and the working folder of an intact run is deleted.
        """
        with exclusive(self.root / f"{run.name}.lease", waiting, enough=lambda: self.finished(run)) as mine:
            if not mine:
                yield False
                return
            with contextlib.ExitStack() as shared:
                if self.shared and not shared.enter_context(self._shared_lease(run, self.shared, waiting)):
                    yield False
                    return
                with disk_errors(self.runs):
                    done = self._tidied(run, refused)
                    if self.shared and not done:
                        take_over(self.work(run), self.shared)
                yield not done

    @contextlib.contextmanager
    def _shared_lease(self, run: StageRun, shared: SharedRuns, waiting: Callable[[str], None]) -> Iterator[bool]:
        """Hold the lease at the URL, or wait until the run is published there (False)."""
        folder, work = self.folder(run), self.work(run)
        with shared.leases.hold(shared.key(folder), waiting, enough=lambda: self.finished(run)) as lease:
            if lease is None:
                yield False
                return
            with handing_over(work, folder, shared, lease):
                yield True
            if is_published(folder):
                shared.send_missing(folder)
                shared.remove(shared.key(work))

    def _tidied(self, run: StageRun, refused: Callable[[str], None]) -> bool:
        """Clean up the run's folders; returns whether it is published and intact."""
        folder = self.folder(run)
        try:
            done = self._whole(run)
        except TornArtifact as e:
            aside = folder.with_name(f"{folder.name}.torn-{uuid.uuid4().hex[:8]}")
            folder.rename(aside)
            refused(f"stage run refused, it will be trained again: {str(e).partition(';')[0]} (kept as {aside.name})")
            done = False
        if self.shared:  # another node may have published it, or this one was stopped before it was sent
            done = self.shared.bring(folder)
            if done:
                self.shared.send_missing(folder)
        sweep(self.root, run.name)
        if done:
            shutil.rmtree(self.work(run), ignore_errors=True)
        return done

    def parts(self, lineage: tuple[StageRun, ...]) -> dict[str, PartRef]:
        """Every part with the folder of its weights after `lineage`: that of the last stage run that trained it."""
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
        """The job of a stage run, with its initial parts; its working folder is kept if it exists (a resume)."""
        work = self.work(run)
        with disk_errors(self.runs):
            work.mkdir(parents=True, exist_ok=True)
            refs = self.parts(run.parent.lineage) if run.parent else {}
            for part, name in run.parts:
                if part not in refs:
                    refs[part] = PartRef(name, self._start(part, name, run))
            job = StageJob(
                run.stage, {p: refs[p] for p, _ in run.parts}, work, run.datasets, run.seed, cluster, run.others
            )
            write_atomic(work / "job.json", job.to_json(self.runs))
            pausing.forget(work)  # it is wanted again
        return job

    def stop(self, run: StageRun) -> bool:
        """Ask whoever trains `run` to stop at its next validation, with a checkpoint (`errors.Paused`); whether there
        is a stage run to stop. Preparing it again takes the wish back."""
        work = self.work(run)
        if not work.is_dir() or is_published(self.folder(run)):
            return False
        with disk_errors(self.runs):
            pausing.ask(work)
        return True

    def validations(self, run: StageRun) -> list[Validated]:
        """The validations of a stage run that are what its stage asks for, in order, while it trains or afterwards."""
        of = held_out_digest(run.stage, run.datasets, run.others)
        found = [*validations_of(self.journal(run)), *validations_of(self.validated_later(run.name))]
        return [v for _, v in sorted({v.step: v for v in found if v.of == of}.items())]

    def validated_later(self, name: str) -> Path:
        """The validations that were made of a stage run after it was published: `<name>.validations.jsonl`."""
        return self.root / f"{name}.validations.jsonl"

    def lacks_validation(self, run: StageRun) -> bool:
        """Whether a published run was trained by who asked for no validation, or for another one."""
        return run.stage.validation is not None and not any(v.share == 1 for v in self.validations(run))

    def job_of_trained(self, run: StageRun, cluster: Cluster) -> StageJob:
        """The job of a published run, with its parts as it left them; it has no working folder."""
        parts = self.parts(run.lineage)
        own = {part: parts[part] for part, _ in run.parts}
        return StageJob(run.stage, own, self.work(run), run.datasets, run.seed, cluster, run.others)

    def _start(self, part: str, name: str, run: StageRun) -> Path | None:
        if part != "llm" or catalog.llm(name).loader != "scratch":
            return self._pristine(part, name)
        return self.work(run) / START_FOLDER  # its first worker creates it

    def llm_folder(self, run: StageRun) -> Path | None:
        """The folder of a model from scratch that `run` trains: trained, else initial; None if neither exists."""
        made = (self.folder(run) / PARTS_FOLDER / "llm", self.work(run) / START_FOLDER)
        return next((folder for folder in made if folder.is_dir()), None)

    def tokenizer_folder(self, run: StageRun) -> Path | None:
        """The tokenizer folder of a stage run's language model; None until the stage that makes it has run.

        A pretrained model is downloaded or converted if necessary.
        """
        name = dict(run.parts)["llm"]
        return self.llm_folder(run.lineage[0]) if catalog.llm(name).loader == "scratch" else self._pristine("llm", name)

    def record(self, run: StageRun) -> dict[str, object]:
        """The record of a published run."""
        return json.loads((self.folder(run) / "record.json").read_text())

    def trained_on(self, name: str) -> list[EnvironmentRecord]:
        """What the attempts at a published stage run ran on; empty if that was not recorded."""
        try:
            found = json.loads((self.root / name / "record.json").read_text()).get("environments", [])
        except (OSError, ValueError, AttributeError):
            return []
        return [ran_on for each in found if (ran_on := read_environment(each))]

    def publish(self, name: str, record: dict[str, object], attempt: int | None = None) -> Path:
        """Publish the trained parts of a run, with journal and record but without checkpoints.

        The upload to a URL is left to the lease's holder (`handover`): other ranks wait here, and a long upload would
        look to them like a hang.

        Args:
            attempt: The attempt that trained it (see `training.journal`); None if there was only one.

        Raises:
            TrainingError: another attempt has taken over. Checked last, when everything else is written.
        """
        work, final = self.root / f"{name}.work", self.root / name
        with publishing(final) as tmp:
            if attempt is not None:
                journal.check_ours(work / JOURNAL, attempt)
            copy(work / PARTS_FOLDER, tmp / PARTS_FOLDER)
            for file in (JOURNAL, "job.json"):  # copies, not links: a process that was thought dead may still append
                shutil.copy2(work / file, tmp / file)
            write_json(tmp / "record.json", record)
            if attempt is not None:
                journal.check_ours(work / JOURNAL, attempt)
        shutil.rmtree(work, ignore_errors=True)
        return final
