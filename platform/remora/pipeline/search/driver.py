"""A search as the process sees it that runs it: its orders, its files, its runs in MLflow.

<runs>/searches/<name>/rungs.jsonl     who reached which rung, and what was decided (board.py)
<runs>/searches/<name>/ledger.jsonl    every item: when it began and ended, what it cost (ledger.py)
<runs>/searches/<name>/optuna.db       the sampler's study, where Optuna samples
<runs>/searches/<name>.json            the result
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from remora import tracking
from remora.data.mixture import Readable, read_mixture
from remora.errors import RemoraError, StoreError, TornArtifact
from remora.pipeline import tracked_runs
from remora.pipeline.objectives import figures_of, objectives_of, speed_benchmark
from remora.pipeline.search import space_file
from remora.pipeline.search.board import RUNGS, Reached, Rungs
from remora.pipeline.search.ledger import LEDGER, Ledger
from remora.pipeline.search.perform import Order, Performed
from remora.pipeline.search.samplers import Listed, drawn
from remora.pipeline.search.stopping import stop_file
from remora.pipeline.search.verdict import RungWatch, rule_of
from remora.pipeline.search.work import Measure, Train, Trial, TrialSource, Work, WorkItem
from remora.pipeline.variant import Outcome, status_file
from remora.runs import StageRun, Store, path, variant_at, variant_name, variants_of
from remora.runs.operations import SampleSize, operations, sample_size
from remora.runs.preflight import outlook
from remora.runs.rungs import LOSS, figure_of, measured_on
from remora.spec import MixtureEntry, Space, Variant
from remora.training import journal

LISTED = 8
"""Variants that a line names."""


def folder_of(runs: Path, search: str) -> Path:
    return runs / "searches" / search


class Driver:
    """Hands out a search's orders and hears what came of them. For one thread.

    Args:
        key: Of the search's run in MLflow.
    """

    def __init__(self, space: Space, runs: Path, key: str) -> None:
        self.space, self.runs, self.key = space, runs, key
        self.store = Store(runs)
        self.folder = folder_of(runs, space.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        status_file(runs, space.name, "").parent.mkdir(parents=True, exist_ok=True)  # of variants still to be asked for
        stop_file(self.folder).unlink(missing_ok=True)
        self.ledger = Ledger(self.folder / LEDGER)
        self._bury_lost()
        self.outcomes: dict[str, Outcome] = {}
        """Variant -> what it came to, of those that were measured."""
        self._opened: dict[tuple[MixtureEntry, ...], Sequence[Readable]] = {}
        self._sizes: dict[tuple[MixtureEntry, ...], SampleSize] = {}
        self._written = 0
        """Trials that `space.json` has."""
        self._going: dict[int, WorkItem] = {}
        self._tracked: dict[str, tracking.Run] = {}
        """Variant -> its run in MLflow, while it is worked at."""
        rule, most = rule_of(space.rule), space.budget.trials
        before = Rungs.read(self.folder / RUNGS, rule.figure).arrivals if rule.rungs else []
        self._compared = {at.stage: at.of for at in before if at.of}
        """Last stage -> the digest of what its rungs have measured so far."""
        self.work = Work(self._sampler(), rule, self, self.folder / RUNGS, most)

    @property
    def over(self) -> bool:
        return self.work.over

    def look(self) -> None:
        """Raises:
        KeyboardInterrupt: somebody asked the search to stop, which ends it as Ctrl-C does.
        """
        if (asked := stop_file(self.folder)).exists():
            asked.unlink()
            raise KeyboardInterrupt

    def next(self) -> Order | None:
        """What is to be done now; None if nothing is until something else has ended."""
        self.look()
        self.work.stop = self.work.stop or self._spent()
        item = self.work.next()
        if len(self.work.trials) > self._written:
            self._written = len(self.work.trials)
            space_file.write(self.folder, self.space, self.work.trials.values(), self.steps)
        if item is None:
            return None
        trial = item.trial
        run = item.run if isinstance(item, Train) else trial.last
        kind: Literal["train", "measure"] = "train" if isinstance(item, Train) else "measure"
        self._track(trial)
        watch = None
        if isinstance(item, Train):
            self._say_of(run, trial, "waiting")
            watch = self._watch(trial) if item.last and self.work.rule.rungs else None
        number = self.ledger.begin(kind, run.name, trial.name, self._taken(run)[0] if kind == "train" else 0)
        self._going[number] = item
        speed = speed_benchmark(self.space) if kind == "measure" else ""
        return Order(number, kind, self.space.name, self.key, trial.variant, run.name, watch, speed)

    def done(self, number: int, performed: Performed) -> None:
        """An order was performed."""
        item = self._going.pop(number)
        self.ledger.end(number, performed.ended, performed.steps, performed.again, performed.at)
        trial = item.trial
        if isinstance(item, Measure):
            assert performed.outcome
            trial.figures = figures_of(performed.outcome, trial.variant, trial.lineage, self.store)
            self.outcomes[trial.name] = replace(performed.outcome, stages=dict(trial.stages))
            self.work.done(item)
        else:
            assert performed.ended != "measured"
            self.work.done(item, performed.ended)
            if performed.ended != "paused":
                self._say_of(item.run, trial, "reused")
                tracked_runs.stage_run(item.run, trial.variant, self.runs).keep()
        if isinstance(item, Train) and item.last:
            self._compare_tokens(trial)
        if trial.state in ("paused", "stopped"):
            self._say(trial, trial.state)
        if trial.state not in ("waiting", "trained"):
            self._untrack(trial, None)

    def failed(self, number: int, error: RemoraError) -> None:
        """An order cannot be performed: what needs it fails, the rest goes on.

        Raises:
            StoreError: `error`, if it is the run folder's. That is no variant's fault: others would fail as well, and a
                rule would have the next best go on in its place.
        """
        item = self._going.pop(number)
        steps = self._taken(item.run)[0] - self.ledger.began_at(number) if isinstance(item, Train) else 0
        self.ledger.end(number, "failed", steps)
        if isinstance(error, StoreError) and not isinstance(error, TornArtifact):
            raise error
        self.work.failed(item, str(error))
        for trial in self.work.trials.values():
            if trial.state == "failed" and trial.name in self._tracked:
                self._untrack(trial, error)
            if trial.state == "failed" and trial is not item.trial and trial.error == str(error):
                self._say(trial, "failed", error=str(error))

    def close(self, error: BaseException | None) -> None:
        """The search ends, or is ended by `error`: nobody works at its variants any more."""
        for trial in self.work.trials.values():
            self._untrack(trial, error)

    def steps(self, run: StageRun) -> int:
        """Of the whole stage run."""
        return outlook(run.stage, self._opened[run.stage.mixture], there=True)[0][0]

    def _taken(self, run: StageRun) -> tuple[int, int]:
        return journal.taken(self.store.journal(run))

    # World

    def finished(self, run: StageRun) -> bool:
        return self.store.finished(run)

    def elsewhere(self, run: StageRun) -> bool:
        return self.store.elsewhere(run)

    def cost(self, run: StageRun) -> float:
        """Operations of the stage run."""
        datasets = self._opened[run.stage.mixture]
        (_, samples), _ = outlook(run.stage, datasets, there=True)
        if run.stage.mixture not in self._sizes:
            self._sizes[run.stage.mixture] = sample_size(datasets)
        return operations(run.stage, dict(run.parts), samples, self._sizes[run.stage.mixture])

    def logged(self, trial: Trial) -> Sequence[Reached]:
        watch, steps, found = self._watch(trial), self.steps(trial.last), self.store.validations(trial.last)
        by_loss = figure_of(self.space.rule) == LOSS
        return [watch.reached(v, steps) for v in found if by_loss or v.score is not None]

    # its parts

    def _watch(self, trial: Trial) -> RungWatch:
        rule = self.space.rule.model_dump(mode="json")
        last = trial.last
        of = measured_on(self.space.rule, last)
        return RungWatch(str(self.folder / RUNGS), trial.name, last.name, last.stage.name, rule, of)

    def _sampler(self) -> TrialSource:
        sampler = self.space.sampler
        if sampler.kind == "grid":
            return Listed(self._trial(v) for v in variants_of(self.space))
        if sampler.kind == "random":
            assert sampler.trials
            return Listed(drawn(self.space, self._made, sampler.trials, sampler.seed))
        from remora.pipeline.search.by_optuna import ByOptuna

        return ByOptuna(self.space, self._made, self.folder, objectives_of(self.space))

    def _made(self, assignment: Mapping[str, object]) -> Trial:
        return self._trial(variant_at(self.space, assignment))

    def _trial(self, variant: Variant) -> Trial:
        lineage = path(variant, self.store.data, self._opened, read_mixture)
        self._check_compared(lineage[-1])
        return Trial(variant_name(variant), variant, lineage, variant.choice)

    def stopped(self) -> str:
        """Which budget ended the search, what it left undone and how it goes on; empty if none did."""
        trials = self.work.trials.values()
        untried = self.work.sampler.left
        spent = self.work.stop
        if not spent and self.work.most is not None and len(trials) >= self.work.most and untried:
            spent = f"budget.trials: {len(trials):,} of {self.work.most:,} are spent"
        if not spent:
            return ""
        waiting = [t.name for t in trials if t.state == "waiting"]
        paused = sum(t.state == "paused" for t in trials)
        if not (waiting or paused or untried):
            return ""
        shown = ", ".join(waiting[:LISTED]) + (", …" if len(waiting) > LISTED else "")
        left = [
            f"{len(waiting):,} not trained to the end ({shown})" if waiting else "",
            f"{paused:,} paused at a rung" if paused else "",
            f"{untried:,} never tried" if untried else "",
        ]
        key = spent.partition(":")[0]
        return (
            f"{spent}; variants left: {', '.join(filter(None, left))}; "
            f"next: raise {key} in the space and run the same command again, which goes on from there"
        )

    def _bury_lost(self) -> None:
        """End the items of a process that died, by what they left in journals: the budget pays for them."""
        for entry in self.ledger.lost:
            status = status_file(self.runs, self.space.name, entry.variant)
            file = self.store.journal_named(entry.run)
            train = entry.kind == "train" and entry.at is not None
            steps = journal.taken(file)[0] - (entry.at or 0) if train else 0
            told = [e["time"] for e in journal.read(file if train else status)]
            self.ledger.bury(entry, max(steps, entry.steps, 0), max(told, default=entry.began))

    def _check_compared(self, last: StageRun) -> None:
        """Raises:
        StoreError: the search's rungs have measured other samples or questions than this stage run's would.
        """
        before = self._compared.get(last.stage.name)
        if before and before != measured_on(self.space.rule, last):
            raise StoreError(
                f"{self.folder / RUNGS}: the rungs of stage {last.stage.name!r} were measured on other held-out "
                "samples or questions than its validate says now, so they cannot be compared; give the space another "
                "name (what was trained is kept), or say validate as before"
            )

    def _spent(self) -> str:
        """Which budget is spent; empty if none is."""
        budget = self.space.budget
        spent = {
            "steps": self.ledger.steps,
            "hours": self.ledger.hours,
            "gpu_hours": self.ledger.gpu_hours(self.space.cluster),
            "cost": self.ledger.gpu_hours(self.space.cluster) * (self.space.cluster.gpu_price or 0.0),
        }
        for name, amount in spent.items():
            limit = getattr(budget, name)
            if limit is not None and amount >= limit:
                return f"budget.{name}: {amount:,.4g} of {limit:,g} are spent"
        return ""

    def _say(self, trial: Trial, event: str, **fields: object) -> None:
        journal.append(status_file(self.runs, self.space.name, trial.name), event, **fields)

    def _say_of(self, run: StageRun, by: Trial, state: str) -> None:
        """Tell the others that need a stage run what `by` has to do with it."""
        for other in self.work.users(run):
            if other is not by and other.state == "waiting":
                self._say(other, "stage", run=run.name, stage=run.stage.name, state=state)

    def _compare_tokens(self, trial: Trial) -> None:
        """Say so if a loss at a rung is a mean over more or fewer tokens than others': more of a picture's tokens may
        leave less room for words."""
        at = self.work.board.last(trial.last.name)
        there = self.work.board.ranking(at.stage, at.share) if at else []
        if at and at.tokens and (other := next((r for r in there if r.tokens != at.tokens), None)):
            own, its = f"{at.tokens:,} tokens", f"{other.tokens:,}"
            cut = "since max_length cuts them elsewhere; raise max_length, or compare a score (rule.figure)"
            text = f"{at.run}: its loss at {at.share:.0%} is a mean over {own}, that of {other.run} over {its}, {cut}"
            self._say(trial, "noted", text=text)

    def _track(self, trial: Trial) -> None:
        if trial.name not in self._tracked:
            run = tracked_runs.variant_run(trial.variant, trial.lineage, self.runs, self.key)
            self._tracked[trial.name] = run.__enter__()

    def _untrack(self, trial: Trial, error: BaseException | None) -> None:
        if run := self._tracked.pop(trial.name, None):
            at = self.work.board.last(trial.last.name)
            # Of a variant that was stopped these are its only figures, so that charts can have all variants.
            rung = {f"rung/{at.figure}": at.value, "rung/share": at.share} if at else None
            run.note(tags={"remora.state": trial.state}, metrics=rung)
            run.__exit__(type(error) if error else None, error, None)
