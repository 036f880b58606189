"""What a worker does at a rung of a search: write what it measured, have the rule decide, write that down too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from remora.errors import TrainingError
from remora.files import exclusive
from remora.pipeline.search.board import Decided, Reached, Rungs, write
from remora.pipeline.search.rules import Everyone, Halving, Median, StoppingRule
from remora.runs.rungs import LOSS, figure_of
from remora.spec import Rule, step_at
from remora.training.journal import Validated


def rule_of(spec: Rule) -> StoppingRule:
    """The rule that a space names."""
    figure = figure_of(spec)
    if spec.kind == "halving":
        return Halving.of(spec.eta, spec.first, figure)
    if spec.kind == "median":
        return Median(Halving.of(spec.eta, spec.first).rungs, spec.least, figure)
    return Everyone(figure=figure)


@dataclass(frozen=True)
class RungWatch:
    """How the last stage run of a variant is watched, as plain values that any process can read."""

    board: str
    """The path of `rungs.jsonl`."""
    variant: str
    run: str
    stage: str
    rule: dict[str, object]
    """As the space has it."""
    of: str = ""
    """Digest of what the figure is measured on."""

    def plain(self) -> dict[str, object]:
        return asdict(self)

    @property
    def stopping(self) -> StoppingRule:
        return rule_of(Rule.model_validate(self.rule))

    def heard(self, found: Validated, steps: int) -> bool:
        """Whether the stage goes on after a validation; `steps` is its length. Asked again, it answers as before.

        Raises:
            TrainingError: the rule compares a benchmark's score, and the validation has none.
        """
        rule, path, reached = self.stopping, Path(self.board), self.reached(found, steps)
        share, said = reached.share, (self.variant, self.run, self.stage, reached.share)
        with exclusive(path.with_suffix(".lock")):  # the places of two that arrive together are those of the file
            board = Rungs.read(path, rule.figure, rule.words)
            if self.run not in board.reached.get((self.stage, share), {}):
                write(path, [reached])
                board.follow(path)
            if share not in rule.rungs:
                return True
            before = board.state(self.run)
            if before is None or before.share < share:
                decision = rule.at(board, reached)
                place = board.place(reached)
                assert place, "it was just written"
                before = Decided(*said, decision, rule.words, *place)
                write(path, [before])
            return before.decision in ("go on", "promote")

    def reached(self, found: Validated, steps: int) -> Reached:
        """What a validation says, in the rule's figure; raises as `heard` does."""
        rule = self.stopping
        shares = {step_at(share, steps): share for share in rule.rungs} | {steps: 1.0}
        share = shares.get(found.step + 1, round((found.step + 1) / steps, 6))
        at = (self.variant, self.run, self.stage, share, found.step + 1, found.samples)
        return Reached(*at, *self._figure(found, rule.figure), self.of)

    def _figure(self, found: Validated, figure: str) -> tuple[str, float, bool, int]:
        """(figure, value, whether higher is better, tokens) of a validation."""
        if figure == LOSS:
            return figure, found.loss, False, found.tokens
        if found.score is None:
            raise TrainingError(
                f"{self.run}: rule.figure is {figure}, and its validation after step {found.step + 1:,} asked nothing; "
                "run the same command again"
            )
        return figure, found.score, True, 0  # the headline of every benchmark
