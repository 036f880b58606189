"""The options of `remora data …`; options.py has those of the other verbs."""

# ruff: noqa: RUF009 (`option` and `argument` are dataclasses.field)

from dataclasses import dataclass
from pathlib import Path

from remora.commands.declaring import argument, option
from remora.commands.options import A_DATASET, Options, cluster_address, settings, tracking_server, tux_paints_stamps


@dataclass(frozen=True, kw_only=True)
class DataDemoOptions(Options):
    """make the data of `remora demo` or `remora demo --photos`, or the test demo-styles"""

    seed: int = option("of the split into seen and unseen concepts (default: 0)", 0)
    photos: bool = option("that of `remora demo --photos`", False)
    styles: bool = option("the benchmark demo-styles: the demo's concepts as others draw them", False)
    stamps: Path | None = tux_paints_stamps()


def _images() -> str | None:
    return option("the folder of its pictures (default: its own)", metavar="DIR")


@dataclass(frozen=True, kw_only=True)
class DataCheckOptions(Options):
    """read every record and decode every picture, and report every problem"""

    target: str = argument(A_DATASET)
    images: str | None = _images()
    settings: tuple[str, ...] = settings()
    json: bool = option("print the report as JSON", False)


@dataclass(frozen=True, kw_only=True)
class DataIndexOptions(Options):
    """build the index through which training reads a dataset"""

    target: str = argument(A_DATASET)
    images: str | None = _images()
    settings: tuple[str, ...] = settings()
    address: str | None = cluster_address()
    tracking_uri: str | None = tracking_server()
    json: bool = option("print counts and folders as JSON", False)


@dataclass(frozen=True, kw_only=True)
class DataConvertOptions(Options):
    """write a dataset in another format"""

    target: str = argument("a dataset's file, folder or URL")
    images: str | None = _images()
    out: str = argument("new: .json, .jsonl, .parquet, .csv, .tsv, .tar, name-{00000..}.tar, or a folder")
    shard_size: int = option("of a tar (default: 256)", 256, metavar="MB")


@dataclass(frozen=True, kw_only=True)
class DataCondenseOptions(Options):
    """choose the part of a dataset that is worth training on"""

    target: str = argument("a condensation, e.g. jobs/condense.yaml", metavar="SPEC")
    settings: tuple[str, ...] = settings()
    out: Path | None = option("its folder (default: <run folder>/condensed/NAME)", metavar="DIR")
    address: str | None = cluster_address()
    tracking_uri: str | None = tracking_server()


@dataclass(frozen=True, kw_only=True)
class DataShowOptions(Options):
    """show what a stage reads: tokens, what is supervised, pictures"""

    target: str = argument(A_DATASET)
    images: str | None = _images()
    settings: tuple[str, ...] = settings()
    samples: int = option("samples per stage (default: 3)", 3, "-n", metavar="N")
    first: int = option("the first of them (default: 0)", 0, "--from", metavar="N")
    seed: int | None = option("seed of another order")
    stage: str | None = option("only this stage of the variant", metavar="NAME")
    html: Path | None = option("write a page to FILE", metavar="FILE")
    tokens: bool = option("print every token with its id", False)
    template: str | None = option("of a dataset: the prompt template to render it with", metavar="NAME")
    llm: str | None = option("of a dataset: the tokenizer to render it with", metavar="NAME")
    vision: str | None = option("of a dataset: the encoder to render it with", metavar="NAME")
    json: bool = option("print the samples as JSON, every token with its id", False)
