"""The benchmark that a stage is validated by: a few of its questions, always the same ones, answered by the ranks."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from remora.errors import DataError, SpecError
from remora.evaluation.ask import ask
from remora.evaluation.benchmarks import benchmark, located, score
from remora.files import digest
from remora.files.lines import append
from remora.inference import Answerer
from remora.inference.bundle import Bundle
from remora.model.refs import PartRef
from remora.pipeline.worker import asks_of
from remora.runs import Store
from remora.spec import BenchmarkSample
from remora.training.job import StageJob


class SampleScorer:
    """Asks a stage's model a sample of a benchmark; a `training.validation.Scorer`.

    The model is loaded from its parts, as it will be when the stage is over, so a rank holds it twice while it answers.

    Raises:
        SpecError: only a judge could score the answers.
        DataError: the benchmark's files are not there.
    """

    def __init__(self, job: StageJob, said: BenchmarkSample, store: Store) -> None:
        self.job = job
        self.chosen, self.data = benchmark(said.name), located(said.name, store.data)
        if self.chosen.judged:
            raise SpecError(
                f"stage {job.stage.name!r}: validate.benchmark {said.name!r} is scored by a judge; take one whose "
                "answers are read by rule (remora catalog benchmarks)"
            )
        asks = [a for a in asks_of(self.chosen, self.data) if a.condition == "pictures"]
        self.asks = sorted(asks, key=lambda a: digest([a.question.id, a.question.text]))[: said.limit]
        if not self.asks:
            raise DataError(f"{said.name}: no question in {self.data}; see docs/benchmarks.md for its files")

    def answers(self, parts: Mapping[str, PartRef], rank: int, world: int) -> dict[str, dict[str, object]]:
        stage = self.job.stage
        bundle = Bundle(stage.name, dict(parts), stage.template, stage.aspect, self.job.seed)
        mine = self.asks[rank::world]
        lines = ask(Answerer.of(bundle), mine) if mine else []
        return {str(line["index"]): line for line in lines}

    def score(self, answers: Mapping[str, dict[str, object]]) -> float:
        """Questions that could not be asked count as wrong."""
        lines = [line for _, line in sorted(answers.items(), key=lambda item: int(item[0])) if "broken" not in line]
        asked = {str(a.question.id) for a in self.asks}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "answers.jsonl"
            file.touch()
            append(file, [{k: v for k, v in line.items() if k not in ("index", "condition")} for line in lines])
            report = score(self.chosen, self.data, file, only=asked)
        return report.metrics[self.chosen.headline]
