"""Which variants a search tries: all of a grid, some by chance, or those that Optuna asks for."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from remora.errors import SpecError
from remora.files import digest
from remora.pipeline.search.board import Reached
from remora.pipeline.search.work import Trial
from remora.spec import Space
from remora.spec.axes import Axis, Range

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)
VAIN = 200
"""Draws in a row that may give nothing new before a space is taken to be exhausted."""

Make = Callable[[Mapping[str, object]], Trial]
"""The trial of an assignment. SpecError: the space leaves it out, or it makes no model."""


class Listed:
    """Trials that are known beforehand."""

    closed = True

    def __init__(self, trials: Iterable[Trial]) -> None:
        self._left = deque(trials)

    def ask(self) -> Trial | None:
        return self._left.popleft() if self._left else None

    def tell(self, trial: Trial, reached: Reached | None) -> None:
        """Nothing depends on it."""


def drawn(space: Space, make: Make, trials: int, seed: int) -> list[Trial]:
    """That many different trials by chance; fewer if the space has no more. The n-th draw depends on `seed` and n."""
    found: dict[str, Trial] = {}
    number = vain = 0
    while len(found) < trials and vain < VAIN:
        dice = random.Random(f"{seed}/{number}")
        number, vain = number + 1, vain + 1
        assignment: dict[str, object] = {}
        for name, axis in space.domain().items():
            if name in space.active(assignment):
                assignment[name] = _draw(axis, dice)
        try:
            trial = make(assignment)
        except SpecError as e:
            log.info("%s: %s", assignment, e)
            continue
        if trial.name not in found:
            found[trial.name], vain = trial, 0
    return list(found.values())


def _draw(axis: Axis, dice: random.Random) -> object:
    if not isinstance(axis, Range):
        return dice.choice(axis.values)
    if axis.log:
        return axis.find(axis.low * (axis.high / axis.low) ** dice.random())
    return axis.find(dice.randint(int(axis.low), int(axis.high)) if axis.integer else dice.uniform(axis.low, axis.high))


class ByOptuna:
    """Trials that Optuna's TPE asks for, from what is known so far.

    The study lies in the run folder, so `optuna-dashboard sqlite:///…/optuna.db` shows it while it runs. Optuna hears
    of a trial once it pauses (as pruned, with its value at the rung), and again as complete if it went on to its end.
    Trials that were on their way when the search was killed are taken up first.
    """

    closed = False

    def __init__(self, space: Space, make: Make, folder: Path) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self._make = space, make
        self._domain = space.domain()
        self._figures = [o.figure for o in space.objectives] or [space.champion.benchmark]
        kinds: dict[str, Literal["maximize", "minimize"]] = {"max": "maximize", "min": "minimize"}
        directions = [kinds[o.direction] for o in space.objectives] or [kinds["max"]]
        said = {name: repr(axis) for name, axis in self._domain.items()} | {"": [*self._figures, *directions]}
        folder.mkdir(parents=True, exist_ok=True)
        self.study = optuna.create_study(
            study_name=f"{space.name}-{digest(said)[:8]}",
            storage=f"sqlite:///{folder / 'optuna.db'}",
            sampler=optuna.samplers.TPESampler(seed=space.sampler.seed),
            directions=directions,
            load_if_exists=True,
        )
        self._asked: dict[str, optuna.Trial | optuna.trial.FrozenTrial] = {}
        """Trial's name -> Optuna's trial."""
        running = optuna.trial.TrialState.RUNNING
        before = self.study.get_trials(deepcopy=False)
        self._again = deque(t for t in before if "variant" in t.user_attrs and t.state != optuna.trial.TrialState.FAIL)
        for lost in (t for t in before if "variant" not in t.user_attrs and t.state == running):
            self.study.tell(lost.number, state=optuna.trial.TrialState.FAIL)

    def ask(self) -> Trial | None:
        import optuna

        while self._again:
            known = self._again.popleft()
            try:
                trial = self._make({k: known.user_attrs["assignment"][k] for k in known.user_attrs["assignment"]})
            except SpecError:  # the space says otherwise by now
                self._fail(known.number)
                continue
            if trial.name not in self._asked:
                self._asked[trial.name] = known
                return trial
        for _ in range(VAIN):
            if len(self._asked) >= (self.space.sampler.trials or 0):
                return None
            asked = self.study.ask()
            assignment: dict[str, object] = {}
            for name, axis in self._domain.items():
                if name in self.space.active(assignment):
                    assignment[name] = self._suggest(asked, name, axis)
            try:
                trial = self._make(assignment)
            except SpecError as e:
                log.info("%s: %s", assignment, e)
                self._fail(asked.number)
                continue
            if trial.name in self._asked:  # Optuna learns nothing from it a second time
                self.study.tell(asked, state=optuna.trial.TrialState.FAIL)
                continue
            asked.set_user_attr("variant", trial.name)
            asked.set_user_attr("assignment", assignment)
            self._asked[trial.name] = asked
            return trial
        return None

    def tell(self, trial: Trial, reached: Reached | None) -> None:
        import optuna

        states = optuna.trial.TrialState
        asked = self._asked[trial.name]
        state = self.study.get_trials(deepcopy=False)[asked.number].state
        if trial.state == "failed":
            if state == states.RUNNING:
                self._fail(asked.number)
            return
        if trial.state == "finished":
            values = [trial.figures[name] for name in self._figures]
            if state == states.RUNNING:
                self.study.tell(asked.number, values)
            elif state == states.PRUNED:
                again = optuna.trial.create_trial(
                    params=asked.params,
                    distributions=asked.distributions,
                    values=values,
                    user_attrs={"went_on": asked.number},
                )
                self.study.add_trial(again)
            return
        if reached and state == states.RUNNING and len(self._figures) == 1:
            if isinstance(asked, optuna.Trial):
                asked.report(reached.value, reached.step)
            self.study.tell(asked.number, state=states.PRUNED)

    def _fail(self, number: int) -> None:
        import optuna

        self.study.tell(number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)

    @staticmethod
    def _suggest(asked: optuna.Trial, name: str, axis: Axis) -> object:
        if not isinstance(axis, Range):
            return axis.find(asked.suggest_categorical(name, axis.labels))
        if axis.integer:
            return axis.find(asked.suggest_int(name, int(axis.low), int(axis.high), log=axis.log))
        return axis.find(asked.suggest_float(name, axis.low, axis.high, log=axis.log))
