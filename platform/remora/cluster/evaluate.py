"""Benchmarks spread over the cluster: questions go to workers in bundles, answers are kept as they come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remora.errors import ClusterError, DataError, RemoraError
from remora.evaluation.ask import Ask
from remora.evaluation.benchmarks import Benchmark, Own, benchmark, located
from remora.evaluation.identity import PictureDigests, ask_digests
from remora.evaluation.judge import judge_from_environment
from remora.evaluation.measured import Measured, tally
from remora.evaluation.sheet import About, Sheet
from remora.files import digest, exclusive
from remora.inference.bundle import bundle_name, weights_digest
from remora.spec import Cluster
from remora.stages import Store

if TYPE_CHECKING:
    from remora.inference import Answerer

log = logging.getLogger(__name__)
BUNDLE = 128
"""Questions that a worker is given at once: enough to batch, few enough that a kill costs seconds."""
TRIES = 3
"""How often a bundle is given to a worker; one that dies of it every time would end no run otherwise."""


@lru_cache(maxsize=1)
def _answerer(bundle: str, cache: str) -> Answerer:
    """The model, loaded once for all that a process is asked of it."""
    import torch

    from remora.inference import Answerer

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    return Answerer.load(Path(bundle), Path(cache))


def _answer(
    bundle: str, cache: str, name: str, data: str, bundles: Sequence[Sequence[int]]
) -> Iterator[list[dict[str, Any]]]:
    """What a worker runs: the lines of some asks, bundle by bundle. Questions are read here, so no picture travels."""
    from remora.evaluation.ask import ask

    asks = asks_of(benchmark(name), Path(data))
    for places in bundles:
        yield ask(_answerer(bundle, cache), [asks[p] for p in places])


def asks_of(chosen: Benchmark, data: Path) -> list[Ask]:
    """Everything that a model is asked for a benchmark: its questions, and an own one's with shuffled pictures too."""
    asks = [Ask(i, "pictures", q) for i, q in enumerate(chosen.questions(data))]
    if isinstance(chosen, Own):
        asks += [Ask(i, "blind", q) for i, q in enumerate(chosen.blind(data))]
    return asks


def _bundles(asks: Sequence[Ask], missing: Sequence[Ask]) -> Iterator[list[int]]:
    """Places of the missing asks, those about one picture together, in bundles that part no picture if they can."""
    place = {(a.condition, a.index): i for i, a in enumerate(asks)}
    pictures: dict[tuple[str, ...], list[int]] = {}
    for a in missing:
        pictures.setdefault(tuple(map(str, a.question.pictures)), []).append(place[a.condition, a.index])
    bundle: list[int] = []
    for together in pictures.values():
        if bundle and len(bundle) + len(together) > BUNDLE:
            yield bundle
            bundle = []
        bundle += together
        while len(bundle) > BUNDLE:
            yield bundle[:BUNDLE]
            bundle = bundle[BUNDLE:]
    if bundle:
        yield bundle


@dataclass(frozen=True)
class Prepared:
    """A benchmark whose files were found and read: what a model can be asked."""

    name: str
    """As it was given: a published name, the catalog's, or the path of a YAML."""
    chosen: Benchmark
    data: Path
    asks: list[Ask]


def prepare(name: str, store: Store, eval_data: Path | None = None) -> Prepared:
    """Find and read a benchmark's files. Needs no Ray: what is missing is found before a cluster is started.

    Raises:
        UnknownName: no such benchmark.
        DataError: its files are missing or unreadable, or hold no question.
    """
    chosen = benchmark(name)
    data = located(name, store.data, eval_data)
    asks = asks_of(chosen, data)
    if not asks:
        raise DataError(f"{name}: no question in {data}; nothing can be measured; see docs/benchmarks.md for its files")
    given = str(Path(name).absolute()) if name.endswith((".yaml", ".yml")) else name
    return Prepared(given, chosen, data, asks)


def measure(
    prepared: Prepared,
    bundle: Path,
    store: Store,
    cluster: Cluster,
    *,
    protocol: str | None = None,
    limit: int | None = None,
    judge_model: str | None = None,
    hear: Callable[[str, int, int], None] = lambda name, done, of: None,
    wait: Callable[[str], None] = lambda holder: log.warning("waiting for %s, which asks the same", holder),
) -> Measured:
    """Ask what was not asked yet, and score.

    `hear` receives a benchmark's name, the answers so far and the number of questions. `wait` receives, once, the
    process that holds the answers' folder, while another command asks the same. `limit` asks only the first so many
    questions; the report names that.

    Raises:
        DataError: the benchmark's files, or not one question could be asked.
        ClusterError: workers that died of the same questions again and again.
    """
    chosen, data, asks = prepared.chosen, prepared.data, prepared.asks
    wanted = [a for a in asks if limit is None or a.index < limit]
    keys = ask_digests(asks, PictureDigests(store.cache / "contents" / f"{digest(str(data))[:16]}.json"))
    questions = digest(keys)
    about = About(bundle_name(bundle), weights_digest(bundle), chosen.name, questions)
    scores = store.runs / "scores"
    # Two commands that measure one model on one benchmark share the answers: the second waits and reads them.
    with exclusive(scores / f".{about.folder}.lease", wait):
        sheet = Sheet(scores, about, asks, keys)
        missing = sheet.missing(wanted)
        done = len(wanted) - len(missing)
        hear(chosen.name, done, len(wanted))
        pieces = list(_bundles(asks, missing))
        for lines in _answers(bundle, store, cluster, prepared.name, data, pieces):
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


def _answers(
    bundle: Path, store: Store, cluster: Cluster, name: str, data: Path, bundles: list[list[int]]
) -> Iterator[list[dict[str, Any]]]:
    """Lines of the bundles, as workers give them. What a worker left when it died is given to another."""
    if not bundles:
        return
    import ray

    answer = ray.remote(_answer).options(
        num_cpus=cluster.cpus_per_worker,
        num_gpus=cluster.gpus_per_worker,
        num_returns="streaming",
        max_retries=0,  # Ray would begin the whole piece again
        # In a trial, tasks would inherit its placement group, which holds no CPU to run them on.
        scheduling_strategy="DEFAULT",
    )
    workers = min(cluster.most_workers, len(bundles))
    pieces = [(bundles[len(bundles) * i // workers : len(bundles) * (i + 1) // workers], 0) for i in range(workers)]
    running: dict[Any, tuple[list[list[int]], int]] = {}
    while pieces or running:
        for piece, tries in pieces:
            running[answer.remote(str(bundle), str(store.cache), name, str(data), piece)] = (piece, tries)
        pieces = []
        (ready, *_), _ = ray.wait(list(running))
        left, tries = running[ready]
        try:
            lines = ray.get(next(ready))  # type: ignore[arg-type]
        except StopIteration:
            del running[ready]
        except ray.exceptions.RayTaskError as e:
            # Ray's own text is the worker's traceback; a RemoraError says all there is to say in its one line.
            raise (e.cause if isinstance(e.cause, RemoraError) else e) from None
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as e:
            del running[ready]
            if tries + 1 == TRIES:
                raise ClusterError(
                    f"{TRIES} workers died of the same {len(left[0])} questions of {name} ({type(e).__name__}); "
                    "answers so far are kept; give a worker the memory it needs, then run the same command again"
                ) from None
            pieces = [(left, tries + 1)]
        else:
            running[ready] = (left[1:], 0)
            yield lines
