"""Which variants a search tries by Optuna's TPE: a study in the search's folder, asked and told from the outside.

    optuna-dashboard sqlite:///<runs>/searches/<name>/optuna.db      # also while the search runs
    optuna.load_study(study_name=<name>, storage="sqlite:///<runs>/searches/<name>/optuna.db")

Parameters are the axes that have more than one value, by their names. A trial's `user_attrs` have its variant, since
Optuna has numbers for trials and no names. It is RUNNING while it is worked at; PRUNED once it pauses or stops, with
its value at the rung (FAIL where there are several objectives, of which Optuna prunes none); and once more COMPLETE
if it went on to its end. What was RUNNING when its search died becomes FAIL, which Optuna learns nothing from, and is
asked again before anything new.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from remora.errors import SpecError, StoreError, first_line
from remora.files import digest, disk_errors
from remora.pipeline.search.board import Reached
from remora.pipeline.search.samplers import VAIN, Make, assigned, by_chance
from remora.pipeline.search.work import Trial
from remora.spec import Objective, Space
from remora.spec.axes import Axis, Choice, Range

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)
STUBBORN = 5
"""Trials in a row that give nothing new before the next ones are drawn by chance: TPE may repeat itself."""
PATIENCE = 60.0
"""Seconds that it waits for somebody else who writes the study."""
VARIANT, SPACE, WENT_ON, PAUSED = "variant", "space", "went_on", "paused"
"""Attributes of trials; SPACE of studies."""


class ByOptuna:
    """A `TrialSource` of `sampler.trials` different trials.

    Args:
        objectives: What it maximises or minimises; names of `Trial.figures`.
    """

    closed = False

    def __init__(self, space: Space, make: Make, folder: Path, objectives: Sequence[Objective]) -> None:
        self.space, self._make, self._objectives = space, make, tuple(objectives)
        self._file = folder / "optuna.db"
        with _database(self._file):
            self._open()

    def _open(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        waits = {"connect_args": {"timeout": PATIENCE}}
        storage = optuna.storages.RDBStorage(f"sqlite:///{self._file}", engine_kwargs=waits)
        self.study = _study(self.space, self._objectives, storage)
        self._asked: dict[str, optuna.Trial | optuna.trial.FrozenTrial] = {}
        """Trial's name -> Optuna's trial: one that is worked at, or what is known of one that ended."""
        states, newest = optuna.trial.TrialState, dict[str, optuna.trial.FrozenTrial]()
        for found in self.study.get_trials(deepcopy=False):
            if found.state == states.RUNNING:
                self.study.tell(found.number, state=states.FAIL)
            if VARIANT in found.user_attrs:
                newest[found.user_attrs[VARIANT]] = found
        self._again = deque(newest.values())

    @property
    def left(self) -> int:
        return max(0, (self.space.sampler.trials or 0) - len(self._asked))

    def ask(self) -> Trial | None:
        """Raises:
        StoreError: the study cannot be read or written.
        """
        with _database(self._file):
            return self._ask()

    def tell(self, trial: Trial, reached: Reached | None) -> None:
        """Raises:
        StoreError: the study cannot be read or written.
        """
        with _database(self._file):
            self._tell(trial, reached)

    def _ask(self) -> Trial | None:
        while self._again:
            if trial := self._taken_up(self._again.popleft()):
                return trial
        for _ in range(STUBBORN if self.left else 0):
            if trial := self._new():
                return trial
        return self._new() if self.left and self._drawn() else None

    def _tell(self, trial: Trial, reached: Reached | None) -> None:
        import optuna

        states, asked = optuna.trial.TrialState, self._asked[trial.name]
        ended = asked if isinstance(asked, optuna.trial.FrozenTrial) else None
        if trial.state == "finished":
            values = [trial.figures.get(o.figure, math.nan) for o in self._objectives]
            if any(map(math.isnan, values)):
                if not ended:
                    self._end(trial, state=states.FAIL)
            elif not ended:
                self._end(trial, values=values)
            elif ended.state != states.COMPLETE:
                attrs = {k: v for k, v in ended.user_attrs.items() if k != PAUSED} | {WENT_ON: ended.number}
                again = optuna.trial.create_trial(
                    params=ended.params, distributions=ended.distributions, values=values, user_attrs=attrs
                )
                self.study.add_trial(again)
                self._asked[trial.name] = self.study.get_trials(deepcopy=False)[-1]
        elif ended:
            return
        elif trial.state == "failed":
            self._end(trial, state=states.FAIL)
        elif len(self._objectives) == 1 and reached:
            assert isinstance(asked, optuna.Trial)
            sign = 1 if self._objectives[0].direction == "max" else -1  # Optuna ranks it in the study's direction
            asked.report(sign * reached.merit, reached.step)
            self._end(trial, state=states.PRUNED)
        else:
            asked.set_user_attr(PAUSED, True)
            self._end(trial, state=states.FAIL)

    def _end(
        self, trial: Trial, values: Sequence[float] | None = None, state: optuna.trial.TrialState | None = None
    ) -> None:
        number = self._asked[trial.name].number
        self._asked[trial.name] = self.study.tell(number, values, state)

    def _taken_up(self, known: optuna.trial.FrozenTrial) -> Trial | None:
        """A trial of an earlier command: as it ended, or asked again if it did not."""
        import optuna

        states = optuna.trial.TrialState
        if known.state in (states.COMPLETE, states.PRUNED) or known.user_attrs.get(PAUSED):
            if trial := self._known(known.params):
                self._asked[trial.name] = known
            return trial
        self.study.enqueue_trial(known.params)
        return self._new()

    def _new(self) -> Trial | None:
        """The trial that Optuna asks for; None if it is not a new one of the space."""
        import optuna

        asked = self.study.ask()
        assignment = self._assigned(lambda name, axis: _suggested(asked, name, axis))
        if trial := self._made(assignment):
            asked.set_user_attr(VARIANT, trial.name)
            self._asked[trial.name] = asked
            return trial
        self.study.tell(asked, state=optuna.trial.TrialState.FAIL)  # it learns nothing from it
        return None

    def _known(self, params: Mapping[str, object]) -> Trial | None:
        """The trial of Optuna's parameters; None if it is not a new one of the space."""
        try:
            return self._made(self._assigned(lambda name, axis: params[name]))
        except KeyError:  # a `when` has changed: the trial lacks an axis
            return None

    def _assigned(self, pick: Callable[[str, Axis], object]) -> dict[str, object]:
        """An assignment as `pick` has it. An axis of one value is no parameter: there is nothing to learn, and it would
        be one more line in every chart of the study."""

        def value(name: str, axis: Axis) -> object:
            if isinstance(axis, Choice) and not _varies(axis):
                return axis.values[0]
            return axis.find(pick(name, axis))

        return assigned(self.space, value)

    def _made(self, assignment: dict[str, object]) -> Trial | None:
        try:
            trial = self._make(assignment)
        except SpecError as e:  # the space leaves it out, or does by now
            log.info("%s: %s", assignment, e)
            return None
        return None if trial.name in self._asked else trial

    def _drawn(self) -> bool:
        """Have Optuna ask for a combination that is drawn by chance; whether there is a new one."""
        dice, domain = random.Random(f"{self.space.sampler.seed}/{len(self._asked)}"), self.space.domain()
        for _ in range(VAIN):
            drawn = assigned(self.space, lambda name, axis: by_chance(axis, dice))
            if self._made(drawn):
                said = {name: v if isinstance(a := domain[name], Range) else a.label(v) for name, v in drawn.items()}
                self.study.enqueue_trial({k: v for k, v in said.items() if _varies(domain[k])})
                return True
        return False


@contextlib.contextmanager
def _database(file: Path) -> Iterator[None]:
    """Raises:
    StoreError: the study's file is damaged, locked or on a full disk.
    """
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with disk_errors(file):
            yield
    except (OptunaError, SQLAlchemyError) as e:
        cause = e.__cause__ or e
        raise StoreError(
            f"{file}: the sampler's study cannot be read or written ({first_line(cause)}); free some disk space, or "
            "move a damaged file away and run the same command again: what was trained is kept"
        ) from None


def _study(space: Space, objectives: Sequence[Objective], storage: optuna.storages.RDBStorage) -> optuna.study.Study:
    """The search's study, by its name; another one, with a number behind the name, after its axes or objectives have
    changed."""
    import optuna

    said: dict[str, object] = {name: repr(axis) for name, axis in space.domain().items()}
    of = digest(said | {"": [o.model_dump() for o in objectives]})
    kinds: dict[str, Literal["maximize", "minimize"]] = {"max": "maximize", "min": "minimize"}
    there = {s.study_name: s for s in optuna.get_all_study_summaries(storage)}
    name, number = space.name, 1
    while name in there and there[name].user_attrs.get(SPACE) != of:
        name, number = f"{space.name}-{number + 1}", number + 1
    begun = there[name].n_trials if name in there else 0
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=optuna.samplers.TPESampler(seed=space.sampler.seed + begun),  # not the draws of the command before
        directions=[kinds[o.direction] for o in objectives],
        load_if_exists=True,
    )
    study.set_user_attr(SPACE, of)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([o.figure for o in objectives])
    return study


def _varies(axis: Axis) -> bool:
    return isinstance(axis, Range) or len(axis.labels) > 1


def _suggested(asked: optuna.Trial, name: str, axis: Axis) -> object:
    if not isinstance(axis, Range):
        return asked.suggest_categorical(name, axis.labels)
    if axis.integer:
        return asked.suggest_int(name, int(axis.low), int(axis.high), log=axis.log)
    return asked.suggest_float(name, axis.low, axis.high, log=axis.log)
