"""Embed a dataset's samples in parts; each part is published when it is done, by any worker.

    <embeddings>/part-000000000000/   images.npy, texts.npy [rows, width]; left-out.jsonl; manifest.json

A sample without a readable picture keeps its row, as zeros, and is listed in left-out.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig

from remora import catalog
from remora.catalog import Vision
from remora.catalog.resolution import FAMILIES
from remora.condense.result import LeftOutRow
from remora.condense.source import picture, row_of, words
from remora.condense.steps import whole
from remora.condense.vectors import ordered
from remora.data.conversation import Sample
from remora.data.index import Dataset
from remora.errors import BrokenRecord, DataError, SpecError, first_line
from remora.files import digest, publishing
from remora.model.dual_encoder import KINDS, Embedder
from remora.model.hub import resolved_revision, snapshot
from remora.reading.images import preprocess
from remora.spec.base import validate
from remora.spec.condensation import Encoder

LEFT_OUT = "left-out.jsonl"
PIXELS = {"image_size", "mean", "std", "fit", "resize", "resample", "processor"}
"""Fields of a catalog entry that decide a picture's pixels."""
RESAMPLE: dict[int | None, Literal["bilinear"] | None] = {None: None, 3: None, 2: "bilinear"}
"""Pillow's filter numbers -> names in catalog entries. A processor without a filter is bicubic."""


@dataclass(frozen=True)
class Loaded:
    """A local dual encoder, its preprocessing, and an identifier of both."""

    folder: Path
    preprocessing: Vision
    identity: dict[str, object]


def load_encoder(encoder: Encoder) -> Loaded:
    """Find an encoder's files, and download them if necessary.

    Preprocessing follows the catalog entry, or the preprocessor_config.json of any other model.

    Raises:
        SpecError: the catalog encoder of that name has no text tower.
        DataError: the files are not available, or not those of a dual encoder.
    """
    entry = None
    hub, revision = encoder.model, None
    if encoder.model in (known := catalog.entries("vision")):
        entry = catalog.vision(encoder.model)
        usable = [name for name in known if compares_texts(catalog.vision(name))]
        if entry.hub is None or encoder.model not in usable:
            raise SpecError(f"encoder {encoder.model!r} has no text tower; known: {', '.join(usable)}")
        hub, revision = entry.hub, entry.revision
    folder = snapshot(hub, revision)
    entry = entry or _described(folder)
    rules = entry.model_dump(mode="json", include=PIXELS, exclude_none=True)
    return Loaded(folder, entry, {"files": resolved_revision(hub, revision), "pixels": rules})


def compares_texts(entry: Vision) -> bool:
    """Whether an entry's published model has a text tower that transformers supports, and a single picture size."""
    return not entry.scales and entry.config.get("model_type") in [f"{kind}_vision_model" for kind in KINDS]


def _described(folder: Path) -> Vision:
    """A catalog entry for a folder's vision tower, from its config files."""
    try:
        tower = AutoConfig.from_pretrained(
            folder, local_files_only=True
        ).vision_config  # with the defaults that config.json leaves out
        pixels = json.loads((folder / "preprocessor_config.json").read_text())
        crops = pixels.get("do_center_crop", "crop_size" in pixels)
        side, shorter = _side(pixels["crop_size" if crops else "size"]), _side(pixels.get("size"))
        described = {
            "short": folder.name,
            "loader": "transformers",
            "hub": str(folder),
            "config": tower.to_dict(),
            "image_size": side,
            "tokens": (side // tower.patch_size) ** 2,
            "width": tower.hidden_size,
            "blocks": tower.num_hidden_layers,
            "prefix": FAMILIES[tower.model_type].lead,
            "mean": pixels["image_mean"],
            "std": pixels["image_std"],
            "fit": "crop" if crops else "stretch",
            "resize": shorter if crops and shorter != side else None,
            "resample": RESAMPLE[pixels.get("resample")],
            "parameters": 0,
            "licence": "unknown",
            "source": str(folder),
        }
        return validate(Vision, described, "as an entry")
    except KeyError as e:
        why = f"{e.args[0]!r} is missing or not known"
    except SpecError as e:
        why = str(e).splitlines()[0]
    except (OSError, ValueError, TypeError, AttributeError) as e:
        why = first_line(e)
    raise DataError(
        f"{folder}: config.json and preprocessor_config.json do not describe a dual encoder ({why}); "
        "give the folder of a CLIP or SigLIP with both files, or a name of `remora catalog vision`"
    )


def _side(size: Any) -> int | None:
    """Side in pixels from a preprocessor_config.json: a number, or a mapping."""
    return size.get("height", size.get("shortest_edge")) if isinstance(size, dict) else size


@dataclass(frozen=True)
class EmbeddingJob:
    """Everything needed to embed a dataset; picklable, to be sent to workers."""

    index: Path
    """Number of rows of the dataset."""
    encoder: Encoder
    folder: Path
    """Where the parts are published; its name is `identity`."""
    rows: int

    @property
    def starts(self) -> range:
        """The first row of every part."""
        return range(0, self.rows, self.encoder.part)

    def part(self, start: int) -> Path:
        return self.folder / f"part-{start:012d}"

    def missing(self, threads: int = 1) -> list[int]:
        """Starts of the parts that are not published or torn. Reads every part to verify it."""
        there = ordered(lambda start: whole(self.part(start)), self.starts, threads)
        return [start for start, found in zip(self.starts, there, strict=True) if not found]

    def files(self, name: str) -> list[Path]:
        return [self.part(start) / f"{name}.npy" for start in self.starts]

    def left_out(self) -> Iterator[LeftOutRow]:
        """{row, id, kind, reason} of every sample without an embedding."""
        for start in self.starts:
            for line in (self.part(start) / LEFT_OUT).read_text().splitlines():
                yield json.loads(line)


def identity(dataset: Dataset, encoder: Encoder, loaded: Loaded) -> str:
    """Digest of everything that decides the embeddings, including the batch size: it changes the last bit of
    products."""
    return digest([dataset.digest, loaded.identity, encoder.batch, encoder.part])


class PartEmbedder:
    """Embeds parts of a dataset in order, with the model loaded once. `threads` decode pictures."""

    def __init__(self, job: EmbeddingJob, threads: int = 1, device: str | None = None) -> None:
        self.job = job
        self.threads = threads
        loaded = load_encoder(job.encoder)
        self.preprocessing = loaded.preprocessing
        self.embedder = Embedder(loaded.folder, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dataset = Dataset(job.index)

    def embed(self, start: int) -> int:
        """Publish the part that starts at this row; returns its rows."""
        rows = range(start, min(start + self.job.encoder.part, self.job.rows))
        samples = [row_of(self.dataset, row) for row in rows]
        images = np.zeros((len(samples), self.embedder.width), np.float32)
        texts = np.zeros_like(images)
        left_out: list[dict[str, object]] = []
        with ThreadPoolExecutor(self.threads) as pool:
            for first, pixels in self._batches(samples, pool):
                batch = samples[first : first + len(pixels)]
                shown = [i for i, p in enumerate(pixels) if isinstance(p, Tensor)]
                if shown:
                    stacked = torch.stack([p for p in pixels if isinstance(p, Tensor)])
                    images[first + np.array(shown)] = self.embedder.images(stacked)
                texts[first : first + len(batch)] = self.embedder.texts([words(s) for s in batch])
                for i, (sample, found) in enumerate(zip(batch, pixels, strict=True)):
                    if not isinstance(found, Tensor):
                        row = start + first + i
                        kind = found.kind if isinstance(found, BrokenRecord) else "no-picture"
                        name = sample.id if isinstance(sample, Sample) else self.dataset.where(row)
                        left_out.append({"row": row, "id": name, "kind": kind, "reason": str(found.args[-1])})
        with publishing(self.job.part(start)) as folder:
            np.save(folder / "images.npy", images)
            np.save(folder / "texts.npy", texts)
            (folder / LEFT_OUT).write_text("".join(json.dumps(line) + "\n" for line in left_out))
        return len(samples)

    def _batches(
        self, samples: Sequence[Sample | BrokenRecord], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[int, list[Tensor | Exception]]]:
        """(position, pixels or the problem) for each batch; the next batch is prefetched while one is embedded."""
        size = self.job.encoder.batch
        waiting = []
        for first in range(0, len(samples), size):
            waiting.append((first, [pool.submit(self._pixels, s) for s in samples[first : first + size]]))
            if len(waiting) > 1:
                first, futures = waiting.pop(0)
                yield first, [f.result() for f in futures]
        for first, futures in waiting:
            yield first, [f.result() for f in futures]

    def _pixels(self, sample: Sample | BrokenRecord) -> Tensor | Exception:
        if isinstance(sample, BrokenRecord):
            return sample
        try:
            return preprocess(picture(sample), self.preprocessing)
        except (BrokenRecord, LookupError) as e:
            return e


def embed_here(
    job: EmbeddingJob, starts: Sequence[int], threads: int, progress: Callable[[int], None] = lambda rows: None
) -> None:
    """Embed parts in this process; `progress` is called with the rows of each finished part."""
    embedder = PartEmbedder(job, threads)
    for start in starts:
        progress(embedder.embed(start))
