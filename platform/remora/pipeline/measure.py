"""Measure one model on one benchmark: ask what has not been asked yet, store answers as they come, score."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from remora.errors import DataError
from remora.evaluation.ask import Ask
from remora.evaluation.benchmarks import Benchmark, benchmark, located
from remora.evaluation.identity import PictureDigests, ask_digests, missing, shown
from remora.evaluation.judge import judge_from_environment
from remora.evaluation.measured import Measured, tally
from remora.evaluation.shared_scores import shared_answers
from remora.evaluation.sheet import About, Sheet
from remora.files import digest, exclusive
from remora.inference.bundle import bundle_name, weights_digest
from remora.pipeline.executor import AskJob, Executor
from remora.pipeline.worker import asks_of
from remora.runs import Store
from remora.spec import Cluster

log = logging.getLogger(__name__)
PIECE = 128
"""Questions per piece of work: enough to batch, few enough that a kill costs seconds."""


def _pieces(asks: Sequence[Ask], missing: Sequence[Ask]) -> Iterator[list[int]]:
    """Indices of the missing asks in pieces; questions about one picture share a piece if they fit."""
    place = {(a.condition, a.index): i for i, a in enumerate(asks)}
    pictures: dict[tuple[str, ...], list[int]] = {}
    for a in missing:
        pictures.setdefault(tuple(map(str, a.question.pictures)), []).append(place[a.condition, a.index])
    piece: list[int] = []
    for together in pictures.values():
        if piece and len(piece) + len(together) > PIECE:
            yield piece
            piece = []
        piece += together
        while len(piece) > PIECE:
            yield piece[:PIECE]
            piece = piece[PIECE:]
    if piece:
        yield piece


@dataclass(frozen=True)
class Prepared:
    """A benchmark whose files were found and read, ready to be asked."""

    name: str
    """As given: a published name, the catalog's, or the path of a YAML."""
    chosen: Benchmark
    data: Path
    asks: list[Ask]
    keys: list[str]
    """Each ask's key: a digest of its words and its pictures' bytes."""
    missing: list[str]
    """Missing pictures; their questions count as wrong."""


def prepare(name: str, store: Store, eval_data: Path | None = None) -> Prepared:
    """Find and read a benchmark's files, so that missing ones are reported before anything starts.

    Raises:
        UnknownName: no such benchmark.
        DataError: its files are missing or unreadable, or hold no question that could be asked.
    """
    chosen = benchmark(name)
    data = located(name, store.data, eval_data)
    asks = asks_of(chosen, data)
    if not asks:
        raise DataError(f"{name}: no questions in {data}; see docs/benchmarks.md for its files")
    known = PictureDigests(store.cache / "contents" / f"{digest(str(data))[:16]}.json")
    content = known.of(shown(asks))
    gone = missing(asks, content)
    if gone and all(not {str(p) for p in a.question.pictures}.isdisjoint(gone) for a in asks):
        raise DataError(f"{name}: all of its pictures are missing, the first: {gone[0]}; see docs/benchmarks.md")
    given = str(Path(name).absolute()) if name.endswith((".yaml", ".yml")) else name
    return Prepared(given, chosen, data, asks, ask_digests(asks, content), gone)


def notes(prepared: Prepared) -> list[str]:
    """Notes to print before a model is asked."""
    if not (gone := prepared.missing):
        return []
    some = f"{len(gone)} of its pictures are missing, the first: {gone[0]}"
    return [f"{prepared.chosen.name}: {some}; questions about them count as wrong"]


def measure(
    prepared: Prepared,
    bundle: Path,
    store: Store,
    executor: Executor,
    cluster: Cluster,
    *,
    protocol: str | None = None,
    limit: int | None = None,
    judge_model: str | None = None,
    hear: Callable[[str, int, int], None] = lambda name, done, of: None,
    wait: Callable[[str], None] = lambda holder: log.warning("waiting for %s, which asks the same", holder),
) -> Measured:
    """Ask what has not been asked yet, and score.

    `hear` gets the benchmark's name, the number of answers so far and of questions. `wait` gets, once, the process that
    holds the answers' folder, if another command asks the same questions. `limit` asks only the first questions; the
    report says so.

    Raises:
        DataError: a problem with the benchmark's files, or no question could be asked.
        RemoraError: from the executor.
    """
    chosen, data, asks, keys = prepared.chosen, prepared.data, prepared.asks, prepared.keys
    wanted = [a for a in asks if limit is None or a.index < limit]
    questions = digest(keys)
    about = About(bundle_name(bundle), weights_digest(bundle), chosen.name, questions)
    scores = store.runs / "scores"
    # Two commands that measure one model on one benchmark share the answers: the second waits and reads them.
    with exclusive(scores / f".{about.folder}.lease", wait), shared_answers(scores / about.folder, wait):
        sheet = Sheet(scores, about, asks, keys)
        left = sheet.missing(wanted)
        done = len(wanted) - len(left)
        hear(chosen.name, done, len(wanted))
        job = AskJob(bundle, store.runs, prepared.name, data, list(_pieces(asks, left)))
        for lines in executor.answer(job, cluster):
            sheet.add(lines)
            done += len(lines)
            hear(chosen.name, done, len(wanted))
        broken = sheet.broken()
        if broken and len(broken) == sum(a.condition == "pictures" for a in wanted):
            raise DataError(f"no question of {chosen.name} could be asked; the first: {broken[0]['broken']}")
        cache = store.runs / "cache" / "judge"
        judged = chosen.judged or judge_model
        judge = judge_from_environment(cache, judge_model, chosen.judge_model) if judged else None
        only = None if limit is None else {str(a.question.id) for a in wanted}
        return replace(tally(chosen, data, sheet, protocol, judge, only), questions=questions)
