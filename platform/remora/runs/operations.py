"""Operations of a stage before it runs, from the catalog alone: what orders a search's work and what plans are made of.

What is counted is as in training/flops.py, but with the parameters that the catalog has: a product with a weight is 2
operations, and as many again for the gradient of its input and of the weight where they are needed. Not counted: the
connector, adapters, padding, recomputation. Convolutions are taken as if each weight met each token once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from remora import catalog
from remora.catalog.compatibility import check_composition
from remora.data.index import Dataset
from remora.data.mixture import Readable
from remora.spec import PartTuning, Stage

TEXT = 128.0
"""Tokens of a sample's text that are assumed where its dataset is not downloaded."""
CHARACTERS = 4.0
"""Characters of a token, about, in English text."""
LOOKED_AT = 256
"""Samples of a dataset that are looked at."""


@dataclass(frozen=True)
class SampleSize:
    """What a sample of a mixture is made of, on average."""

    text: float = TEXT
    """Tokens, without those of pictures."""
    pictures: float = 1.0
    assumed: bool = True
    """Whether one of its datasets is not there to be looked at."""


def sample_size(datasets: Sequence[Readable]) -> SampleSize:
    """The mean over the first samples of each dataset, weighted by their lengths."""
    text = pictures = total = 0.0
    assumed = False
    for dataset in datasets:
        known = SampleSize()
        if isinstance(dataset, Dataset) and len(dataset):
            known = _looked_at(dataset)
        assumed = assumed or known.assumed
        text, pictures = text + known.text * len(dataset), pictures + known.pictures * len(dataset)
        total += len(dataset)
    return SampleSize(text / total, pictures / total, assumed) if total else SampleSize()


def _looked_at(dataset: Dataset) -> SampleSize:
    found = list(islice(dataset, LOOKED_AT))
    said = sum(len(turn.text) for sample in found for turn in sample.turns)
    return SampleSize(said / CHARACTERS / len(found), sum(len(s.images) for s in found) / len(found), assumed=False)


def operations(stage: Stage, parts: Mapping[str, str], samples: float, size: SampleSize) -> float:
    """Floating point operations of a stage over so many samples, forward and backward.

    Args:
        parts: Part -> catalog name, of those that are present.
    """
    llm = catalog.llm(parts["llm"])
    pictures = positions = below = 0.0
    if "vision" in parts:
        pictures = size.pictures
        encoder, tuning = catalog.vision(parts["vision"]), stage.tune.vision
        trained = _share_trained("vision", tuning, encoder.blocks, encoder.blocks_read)
        tiles = sum((side / encoder.tile_size) ** 2 for side in encoder.scales) or 1.0
        width, depth = encoder.width / (len(encoder.scales) or 1), encoder.blocks_read
        weights = encoder.parameters * encoder.blocks_read / encoder.blocks
        once = tiles * (2 * weights * encoder.tokens + 4 * depth * encoder.tokens**2 * width)
        below += pictures * once * (1 + 2 * trained)
        positions = pictures * check_composition(encoder, catalog.connector(parts["connector"]), llm)
    length = positions + min(size.text, stage.length(llm.context))
    if most := stage.whole(llm.context):
        length = max(positions, min(length, most))  # a stage cuts text, never a picture
    tables = llm.vocabulary * llm.hidden
    inner = max(0.0, llm.parameters - tables * (1 if llm.config.get("tie_word_embeddings") else 2))
    attention = 2 * llm.layers * llm.hidden * length**2  # 4 T² W, half of it causal
    once = 2 * (inner * length + tables * (length - positions)) + attention
    tuned = stage.tune.llm
    trained = _share_trained("llm", tuned, llm.layers, llm.layers)
    # Gradients pass through all blocks on their way to a part below, and to adapters in the first of them.
    through = 1.0 if stage.tune.trained[0] != "llm" or tuned.lora else trained
    weighed = 0.0 if tuned.lora else trained
    return samples * (below + once * (1 + through + weighed))


def _share_trained(part: str, tuning: PartTuning, blocks: int, read: int) -> float:
    """The share of a part's blocks that train, of those that run."""
    if not tuning.trains:
        return 0.0
    return 1 - tuning.first_block(part, blocks, read) / read if tuning.blocks is not None else 1.0
