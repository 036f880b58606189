"""`remora data condense`: choose the part of a dataset that is worth training on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from rich.console import Console

from remora import tracking
from remora.commands.data_options import DataCondenseOptions
from remora.commands.indexes import prepare
from remora.commands.run import say, session
from remora.condense.embedding import EmbeddingJob, embed_here, identity, load_encoder
from remora.condense.result import CondensationRecord, LeftOutRow, write_output
from remora.condense.source import embedding_files, files_digest, kept_items
from remora.condense.steps import Condenser, Embedded, Step
from remora.condense.vectors import Vectors
from remora.data.index import Dataset
from remora.data.mixture import locate, open_whole
from remora.errors import DataError
from remora.files import digest, disk_errors
from remora.reporting.bars import counting
from remora.spec import Condensation, load
from remora.spec.settings import settings_of


def condense(options: DataCondenseOptions, console: Console) -> None:
    """Make missing embeddings and steps, and write the dataset.

    Raises:
        DataError: no spec is given, or its source and embeddings do not match.
    """
    spec = load(Condensation, str(options.target), settings_of(options.settings))
    out = (options.out or options.runs / "condensed" / spec.name).expanduser().absolute()
    data = options.runs / "data"
    source = prepare([spec.source], options.place, console, open_whole)[0][1] if spec.source else None
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    tracker = tracking.Tracker(options.runs, options.tracking_uri, note=lambda text: say(f"note: {text}"))
    with tracker, _recorded(options.runs, spec, source) as heard:
        job, embedded = _embedded(spec, source, out, options, console)
        if source and source.records != len(embedded.images):
            raise DataError(f"{source.records} records but {len(embedded.images)} embeddings; a row is a record")
        steps = Condenser(spec, embedded, out / "steps", _threads(), heard).run()
        left_out = job.left_out() if job else _nowhere(steps[0])
        records = kept_items(spec.source, data, steps[-1].load("rows")) if spec.source else None
        images = locate(spec.source, data)[1] if spec.source else None
        record = write_output(out, spec, steps, left_out, records, images)
        heard(record)
    for kind, count in record["left_out"]["counts"].items():
        say(f"left out: {count:,} {kind} ({out / 'dataset' / 'left-out.jsonl'})")
    say(f"kept: {record['kept']:,} ({out / 'dataset'})")
    if "mixture" in record:
        say("in a stage's mixture:\n" + yaml.safe_dump([record["mixture"]], sort_keys=False, width=1000).rstrip())


@contextmanager
def _recorded(
    runs: Path, spec: Condensation, source: Dataset | None
) -> Iterator[Callable[[Step | CondensationRecord], None]]:
    """One MLflow run for the block. The function takes each step, then the record, and prints the steps."""
    key = digest([spec.model_dump(mode="json"), source.digest if source else None])
    source_name = {"mlflow.source.name": "remora data condense"}
    params = spec.model_dump(mode="json")
    run = tracking.Run(runs, key=f"condense/{key}", name="condense", tags=source_name, params=params)

    def heard(found: Step | CondensationRecord) -> None:
        if isinstance(found, dict):
            metrics = {"left_out": found["left_out"]["counts"], "kept": found["kept"]}
            run.note(metrics=metrics, texts={"manifest.json": json.dumps(found, indent=1)})
            return
        shown = {name: f"{n:,}" if isinstance(n, int) else f"{n:.4f}" for name, n in found.counts.items()}
        counts = ", ".join(f"{name} {n}" for name, n in shown.items())
        say(f"{found.name}: {counts} " + (f"({found.seconds:.1f} s)" if found.seconds is not None else "(was there)"))
        seconds = {"seconds": found.seconds} if found.seconds is not None else {}
        run.note(metrics={found.name: {**found.counts, **seconds}})

    with run:
        yield heard


def _embedded(
    spec: Condensation, source: Dataset | None, out: Path, options: DataCondenseOptions, console: Console
) -> tuple[EmbeddingJob | None, Embedded]:
    """The given embeddings, or the source's, made where they are missing."""
    if given := spec.embeddings:
        images = embedding_files(given.images)
        texts = embedding_files(given.texts) if given.texts else []
        key = digest([files_digest(images), files_digest(texts)])
        return None, Embedded(Vectors(images), Vectors(texts) if texts else None, key)
    assert spec.encoder and spec.source and source, "the spec checks it"
    key = identity(source, spec.encoder, load_encoder(spec.encoder))
    job = EmbeddingJob(source.folder, spec.encoder, out / "steps" / f"embeddings-{key[:16]}", source.records)
    missing = job.missing(_threads())
    say(f"embeddings: {len(missing)} of {len(job.starts)} parts to make, {spec.encoder.part:,} samples each")
    if missing:
        _embed(job, missing, spec, options, console)
    return job, Embedded(Vectors(job.files("images")), Vectors(job.files("texts")), key)


def _embed(
    job: EmbeddingJob, missing: list[int], spec: Condensation, options: DataCondenseOptions, console: Console
) -> None:
    """Embed on the Ray cluster that --address or RAY_ADDRESS names, else in this process."""
    done = 0
    total = sum(min(start + job.encoder.part, job.rows) - start for start in missing)
    with counting(console, "embedding") as hear:

        def progress(rows: int) -> None:
            nonlocal done
            done += rows
            hear("samples", done, total)

        hear("samples", 0, total)
        if options.place.ray_cluster:
            from remora.cluster.ray_data import embed_on_cluster

            with session(options.place):
                embed_on_cluster(job, missing, spec.workers, options.runs / "logs", progress)
        else:
            embed_here(job, missing, _threads(), progress)
    say(f"embeddings: {done:,} of {total:,}")


def _threads() -> int:
    return len(os.sched_getaffinity(0))  # the CPUs this process may use, also in a container


def _nowhere(clusters: Step) -> Iterator[LeftOutRow]:
    """Rows of given embeddings that have no direction."""
    for row, label in enumerate(clusters.load("labels")):
        if label < 0:
            yield {"row": row, "kind": "no-embedding", "reason": "zeros, a NaN or an infinity"}
