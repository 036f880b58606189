"""Brings MLflow up to date with the run folder; may be repeated, and called by several processes.

The tag `remora.synced`, written last, marks in MLflow how much of a record it has. It is stored nowhere else: a server
that lost its database lacks the tags and gets everything again, a killed sync is repeated, and a sync with nothing to
do only asks for the list of runs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

from remora.files import digest
from remora.tracking import metric_names
from remora.tracking.connection import AS_TRAINING, MlflowMissing, MlflowRefused
from remora.tracking.locks import locked
from remora.tracking.logged_models import BUNDLE, STAGE, LoggedModels, Maker, makers
from remora.tracking.record import FOLDER, Record, Status, file_of, lives, read_record, record_files
from remora.tracking.registry import make_version
from remora.tracking.server import MARK, NO_STEP, Known, Server
from remora.tracking.stage_files import WEIGHTS, StageFiles, left_out, tuning
from remora.tracking.version_note import version_note
from remora.training.events import JournalEvent

EVALUATION = "evaluation"
"""The context of an input whose questions a model was asked."""
OF_A_MODEL = ("loss", "val_loss", "val_score")
"""Figures of a stage run's last step that say something of its result."""
log = logging.getLogger(__name__)


@dataclass
class Synced:
    """The result of a sync."""

    runs: int = 0
    """Records in the run folder."""
    written: int = 0
    """Those that were missing or outdated in MLflow."""
    refused: list[str] = field(default_factory=list)
    """A line for each record that MLflow refuses. Every sync tries it again."""


class Sync:
    """One process's view of a run folder and of its copy in MLflow. Not thread-safe; `Tracker` serialises."""

    def __init__(self, server: Server) -> None:
        self.server, self.runs = server, server.runs
        self._known: dict[str, Known] | None = None
        self._last: dict[str, int] = {}
        """Run id -> the last step in MLflow."""
        self._validated: set[tuple[str, tuple[int, int]]] = set()
        """(run id, (step, time)) of validations that were sent."""
        self._uploaded: set[tuple[str, str, int]] = set()
        self._read: dict[Path, tuple[tuple[int, int], Record]] = {}
        self._models = LoggedModels(server)
        self._makers: dict[str, Record] = {}

    def run(self, ask: bool, wait: float) -> Synced | None:
        """Bring MLflow up to date; None if another process was syncing for all of `wait` seconds.

        Args:
            ask: Ask MLflow what it has. Needed after a failure, since it is unknown which calls arrived.

        Raises:
            MlflowUnreachable, MlflowRefused: MLflow does not answer, or refuses. The next call writes the rest.
        """
        with locked(self.runs / FOLDER / ".sync.lock", wait) as mine:
            if not mine:
                return None
            if ask:
                self._forget()
            try:
                return self._round()
            except MlflowMissing:  # MLflow was restarted with an empty database
                self._forget()
                return self._round()

    def _forget(self) -> None:
        self.server.forget()
        self._known = None
        self._last.clear()
        self._validated.clear()
        self._models.forget()

    def _round(self) -> Synced:
        report = Synced()
        records = list(self._records(report))
        self._makers = makers(records)
        if self._known is None:
            self._known = self.server.runs_by_key()
        for record in records:  # all runs first: records link to each other
            if record.key not in self._known:
                made = self._known[record.key] = self.server.create(record.key, record.name, record.began)
                self._last[made.id] = NO_STEP
        stale = [found for record in records if (found := self._updated(record, self._known[record.key], report))]
        whole = self._registered([(record, known) for record, known, _ in stale], report)
        for record, known, mark in stale:
            if record.key in whole:
                self.server.log(known.id, tags={MARK: mark})
                known.mark = mark
        report.written = len(whole)
        return report

    def _records(self, report: Synced) -> Iterator[Record]:
        for file in record_files(self.runs):
            report.runs += 1
            try:
                now = file.stat()
                at = (now.st_mtime_ns, now.st_ino)
                if file not in self._read or self._read[file][0] != at:
                    self._read[file] = (at, read_record(file))
                yield self._read[file][1]
            except (OSError, ValueError) as e:
                reason = str(e).splitlines()[0]
                report.refused.append(f"{file}: {reason}; delete it, the command that made it makes it again")

    def _updated(self, record: Record, known: Known, report: Synced) -> tuple[Record, Known, str] | None:
        """Write what MLflow lacks of a record, except versions: returns the record, its run and its mark, or None."""
        stage = StageFiles(self.runs / record.stage) if record.stage else None
        status = self._status(record, stage)
        if known.deleted and status != "RUNNING":
            return None  # deleted by a person
        tags = self._tags(record)
        head = digest([asdict(record), tags, status])[:16]
        mark = f"{head} {stage.mark() if stage else ''}"
        if known.mark == mark:
            return None
        try:
            if status == "RUNNING" and (known.deleted or known.status != status):
                self.server.revive(known)
            events = stage.events() if stage else []
            if changed := known.mark.partition(" ")[0] != head:
                models = self._models.link(record, known.id, self._maker)
                self._write(record, known.id, tags, models.get(BUNDLE))
            self._write_events(events, known.id)
            if changed and stage and stage.published:  # last: it repeats the last step, by which steps are counted
                self._write_stage(stage, events, known.id, models.get(STAGE))
            if status != "RUNNING":
                self.server.end(known, status, record.ended or self._ended(record, events))
        except MlflowMissing:
            raise
        except MlflowRefused as e:
            report.refused.append(f"{record.name}: {e}")
            return None
        return record, known, mark

    def _status(self, record: Record, stage: StageFiles | None) -> Status:
        if stage and stage.published:
            return "FINISHED"
        if record.status != "RUNNING":
            return record.status
        return "RUNNING" if lives(self.runs, record.key) else "KILLED"

    def _ended(self, record: Record, events: list[JournalEvent]) -> int:
        """When a killed run last wrote something, in milliseconds since 1970."""
        told = file_of(self.runs, record.key).stat().st_mtime
        return int(1000 * max([told, *(e["time"] for e in events)]))

    def _tags(self, record: Record) -> dict[str, str]:
        """The record's tags, with links and parent as MLflow ids."""
        tags = {key: self._linked(value) for key, value in record.tags.items()}
        parent = self._id(record.parent) if record.parent else None
        return tags | ({"mlflow.parentRunId": parent} if parent else {})

    def _linked(self, text: str) -> str:
        """A text with the addresses of runs in place of their keys."""
        return metric_names.linked(text, self._id, self._page, self._compared)

    def _id(self, key: str) -> str | None:
        known = (self._known or {}).get(key)
        return known.id if known else None

    def _maker(self, model: str) -> Maker | None:
        record = self._makers.get(model)
        run = self._id(record.key) if record else None
        return Maker(run, record) if run and record else None

    def _page(self, run: str, tab: str) -> str:
        """The address of a run's page in MLflow."""
        return f"#/experiments/{self.server.open()}/runs/{run}{'/' * bool(tab)}{tab}?{AS_TRAINING}"

    def _compared(self, runs: list[str]) -> str:
        """The address of MLflow's page that compares runs, by the parameters in which they differ."""
        asked = {"runs": runs, "experiments": [self.server.open()]}
        return "#/compare-runs?" + "&".join(
            [*(f"{k}={quote(json.dumps(v, separators=(',', ':')))}" for k, v in asked.items()), AS_TRAINING]
        )

    def _write(self, record: Record, run: str, tags: dict[str, str], model: str | None) -> None:
        self.server.params(run, record.params)
        asked = {i.name: i for i in record.inputs if i.context == EVALUATION}
        figures = ((name, value, at, 0) for name, (value, at) in record.metrics.items())
        self.server.log(run, figures, tags=tags, model=model, datasets=asked)
        self.server.inputs(run, record.inputs)
        for file, text in record.texts.items():
            self.server.write_text(run, text, file)
        for path, (folder, at) in record.files.items():
            if (run, path, at) in self._uploaded:
                continue
            if not (self.runs / folder).is_dir():
                log.warning("tracking: %s: %s is gone, MLflow does not get it", record.name, folder)
                continue
            self.server.upload(run, self.runs / folder, path)
            self._uploaded.add((run, path, at))

    def _write_stage(self, stage: StageFiles, events: list[JournalEvent], run: str, model: str | None) -> None:
        at = int(1000 * max((e["time"] for e in events), default=0))
        self.server.log(run, ((name, value, at, 0) for name, value in metric_names.metrics(left_out(events)).items()))
        if model:  # what it came to
            told = [found for e in events if (found := metric_names.step_of(e) or metric_names.validation_of(e))]
            ends = {name: (name, value, when, step) for step, when, values in told for name, value in values.items()}
            self.server.log(run, (ends[name] for name in OF_A_MODEL if name in ends), model=model)
        self.server.write_text(run, tuning(events), "tuning.md")
        self.server.write_text(run, stage.weights(self.runs), WEIGHTS)

    def _write_events(self, events: Iterable[JournalEvent], run: str) -> None:
        steps, notes = [], []
        validations: list[metric_names.LoggedStep] = []
        for event in events:
            if step := metric_names.step_of(event):
                steps.append(step)
            elif validation := metric_names.validation_of(event):
                validations.append(validation)
            elif event["event"] == "noted":
                notes.append(event["text"])
        if notes:
            self.server.log(run, tags={"remora.notes": "\n".join(dict.fromkeys(notes))})
        if steps:
            # A resumed training repeats steps: those already in MLflow are skipped.
            if run not in self._last:
                self._last[run] = self.server.last_step(run)
            new = [step for step in steps if step[0] > self._last[run]]
            self.server.steps(run, new)
            self._last[run] = max([self._last[run], *(step[0] for step in new)])
        # MLflow keeps an equal point once; a stage has few of these.
        self.server.steps(run, [v for v in validations if (run, v[:2]) not in self._validated])
        self._validated.update((run, v[:2]) for v in validations)

    def _registered(self, stale: list[tuple[Record, Known]], report: Synced) -> set[str]:
        """Make the claimed versions, oldest first, so that an alias ends at the newest claim.

        Returns:
            The keys of the records whose claims are all executed.
        """
        whole = {record.key for record, _ in stale}
        claims = [(claim, record, known) for record, known in stale for claim in record.claims]
        for claim, record, known in sorted(claims, key=lambda c: c[0].at):
            try:
                model, note = self._models.of_folder(record, claim.folder), version_note(record, claim)
                make_version(self.server, known.id, claim, model, self._linked(note))
            except MlflowMissing:
                raise
            except MlflowRefused as e:
                report.refused.append(f"{claim.model}: {e}")
                whole.discard(record.key)
        return whole
