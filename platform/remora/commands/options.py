"""The options of each verb: one frozen dataclass per verb, filled by the command line or by Python callers.

A field documents itself: name, type, default, help. A class's docstring is its verb's help. Nothing heavy is imported,
since `remora --help` needs all of it. The parser reads the annotations as types, so this module does without
`from __future__ import annotations`.
"""

# ruff: noqa: RUF009 (`option` and `argument` are dataclasses.field)

import os
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Self, get_args

from remora.commands.declaring import REQUIRED, argument, option
from remora.sharing.node import run_folder

A_MODEL = "a variant's name, the folder of a bundle, or name@alias of the registry"
A_DATASET = "a dataset's name, file, folder or URL, or a variant's YAML"


def cluster_address() -> str | None:
    return option("Ray cluster to use (default: RAY_ADDRESS, or a new one on this machine)", either=True)


def _local() -> bool:
    return option("without Ray, on this machine", False, either=True)


def tracking_server() -> str | None:
    return option("MLflow server (default: MLFLOW_TRACKING_URI, or <run folder>/mlflow.db)")


def weights_of_the_model() -> str:
    return option(
        "of the language model's linear layers when it answers: float32 | int8, on CPUs (default: the model's)",
        "float32",
        choices=["float32", "int8"],
    )


def _protocol() -> str | None:
    return option("way of scoring (default: the papers')", metavar="P")


def _judge_model() -> str | None:
    return option("the judge (default: REMORA_JUDGE_MODEL, or the papers')", metavar="NAME")


def smoke_run() -> bool:
    return option("a space's trial run of minutes: what its smoke block replaces", False)


def settings() -> tuple[str, ...]:
    return option(
        "a key of the spec, or of its stages (finetune.lr=1e-4, lr=1e-4), as YAML; may be repeated",
        (),
        "--set",
        action="append",
        metavar="KEY=VALUE",
    )


def as_written(settings: str | Iterable[str] | Mapping[str, object]) -> tuple[str, ...]:
    """Settings from Python, `{"finetune.lr": 1e-4}` or `["finetune.lr=1e-4"]`, as `--set` has them."""
    if isinstance(settings, Mapping):
        from json import dumps  # which is YAML

        return tuple(f"{key}={dumps(value)}" for key, value in settings.items())
    return (settings,) if isinstance(settings, str) else tuple(settings)


def tux_paints_stamps() -> Path | None:
    return option("Tux Paint's stamps, a .deb or a folder (default: installed, or downloaded)", metavar="PATH")


def all_as_json() -> bool:
    return option("print everything as JSON", False)


def max_hours() -> float | None:
    return option("refuse a plan that takes longer", metavar="HOURS")


def max_cost() -> float | None:
    return option("refuse a plan that costs more", metavar="MONEY")


def _new_folder() -> Path:
    return option("a new folder", REQUIRED, metavar="DIR")


@dataclass(frozen=True)
class Workplace:
    """Where a verb works: its run folder, and the cluster and tracker if any were given."""

    runs: Path
    address: str | None = None
    tracking_uri: str | None = None
    local: bool = False

    @property
    def ray_cluster(self) -> str | None:
        """The Ray cluster that --address or RAY_ADDRESS names."""
        return self.address or os.environ.get("RAY_ADDRESS") or None


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of every verb."""

    runs: Path = field(
        default_factory=run_folder,
        metadata={
            "flags": ("",),
            "parsing": {"metavar": "DIR", "help": "run folder, or its URL (default: REMORA_RUNS or ~/remora)"},
        },
    )
    debug: bool = option("print the trace of an error (or REMORA_DEBUG=1)", False)
    quiet: bool = option("no progress: only results, notes and errors (or REMORA_QUIET=1)", False)

    @property
    def place(self) -> Workplace:
        return Workplace(**{f.name: getattr(self, f.name) for f in fields(Workplace) if hasattr(self, f.name)})

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From a caller's values: None means not given; a path may be a string, several values a list."""
        kinds = {f.name: get_args(f.type) or (f.type,) for f in fields(cls)}
        made = {}
        for name, value in given.items():
            if value is None:
                continue
            if name == "runs":
                value = run_folder(value)
            elif name == "settings":
                value = as_written(value)
            elif ... in kinds[name]:
                several = (value,) if isinstance(value, str | Path) else tuple(value)
                value = tuple(map(Path, several)) if Path in kinds[name] else several
            elif Path in kinds[name]:
                value = Path(value)
            made[name] = value
        return cls(**made)


def kind_of(annotation: object) -> tuple[type, bool]:
    """The type of a field's values, and whether it holds several."""
    inner = [t for t in get_args(annotation) or (annotation,) if t not in (NoneType, ...)]
    return inner[0], ... in get_args(annotation)


def flag_of(field: Field[Any]) -> str:
    """The flag of an option's field: the one that is declared, or the field's own name."""
    return field.metadata["flags"][0] or f"--{field.name.replace('_', '-')}"


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """everything end to end in minutes on two CPU cores: search, train, measure, register, serve, ask"""

    address: str | None = cluster_address()
    tracking_uri: str | None = tracking_server()
    keep: bool = option("leave the endpoint up", False)
    out: Path | None = option("write the figures as JSON to FILE", metavar="FILE")
    photos: bool = option("on photographs in place of drawings; longer, and downloads 161 MB", False)
    stamps: Path | None = tux_paints_stamps()
    port: int | None = option("port of the endpoint (default: 8000, or a free one)")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """train and measure one variant"""

    spec: Path = argument("a variant, e.g. jobs/demo-base.yaml")
    settings: tuple[str, ...] = settings()
    address: str | None = cluster_address()
    local: bool = _local()
    tracking_uri: str | None = tracking_server()
    plain: bool = option("lines instead of a live table, in this process", False)
    max_hours: float | None = max_hours()
    max_cost: float | None = max_cost()


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Options):
    """train and measure every variant of a space, register the best"""

    spec: Path = argument("a space, e.g. tune/demo.yaml")
    settings: tuple[str, ...] = settings()
    address: str | None = cluster_address()
    local: bool = _local()
    tracking_uri: str | None = tracking_server()
    plain: bool = option("lines instead of a live table, in this process", False)
    smoke: bool = smoke_run()
    max_hours: float | None = max_hours()
    max_cost: float | None = max_cost()


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """a search as one page: who won and by how much, what each axis does, what it cost"""

    search: str = argument("its name, as the space has it")
    out: Path | None = option("the page (default: <run folder>/searches/NAME/report/report.html)", metavar="FILE")
    json: bool = all_as_json()


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(Options):
    """score an answer file by a benchmark's published rules; needs no model"""

    benchmark: str = argument("vqav2, gqa, scienceqa, textvqa, pope, mme, mmbench, seed, mmmu, …")
    data: Path = option("its distributed file or folder", REQUIRED, metavar="PATH")
    answers: Path = option("LLaVA's or the official format", REQUIRED, metavar="FILE")
    questions: Path | None = option("LLaVA's question file", metavar="FILE")
    protocol: str | None = _protocol()
    judge_model: str | None = _judge_model()
    json: bool = all_as_json()


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """measure a model on benchmarks, by the papers' rules"""

    model: str = argument(A_MODEL)
    benchmarks: tuple[str, ...] = option("names separated by commas or spaces, YAMLs, or all", REQUIRED, metavar="NAME")
    data: Path | None = option("their folders (default: <run folder>/data/eval)", metavar="DIR")
    workers: int = option("processes that answer (default: 1)", 1, metavar="N")
    gpus_per_worker: float = option("GPUs of each (default: 0)", 0.0, metavar="N")
    limit: int | None = option("ask only the first N questions of each", metavar="N")
    weights: str = weights_of_the_model()
    out: Path | None = option("also write the reports there", metavar="DIR")
    address: str | None = cluster_address()
    local: bool = _local()
    tracking_uri: str | None = tracking_server()
    protocol: str | None = _protocol()
    judge_model: str | None = _judge_model()
    json: bool = all_as_json()


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    """compare two models on the same questions: which differences are real"""

    a: str = argument("a measured model, a report's file or a folder of reports")
    b: str = argument("a measured model, a report's file or a folder of reports")
    all: bool = option("every figure, not only the headline ones", False)
    json: bool = option("print the differences as JSON", False)
    tracking_uri: str | None = tracking_server()


@dataclass(frozen=True, kw_only=True)
class RegisterOptions(Options):
    """make a model a version of the registry, under an alias that `remora serve` follows"""

    model: str = argument(A_MODEL)
    name: str = option("its name (default: remora)", "remora", "--as", metavar="NAME")
    alias: str = option("alias to move to it (default: champion)", "champion", metavar="ALIAS")
    tracking_uri: str | None = tracking_server()


@dataclass(frozen=True, kw_only=True)
class PromoteOptions(Options):
    """move an alias to a model, unless it is significantly worse than the one that has it"""

    model: str | None = argument(f"{A_MODEL}, or an MLflow run's id", None)
    benchmarks: tuple[str, ...] = option("benchmarks of the gate (default: all of today's model)", (), metavar="NAME")
    alpha: float = option("significance level of the gate (default: 0.05)", 0.05, metavar="P")
    force: str | None = option("promote it whatever the gate says; the reason is recorded", metavar="REASON")
    name: str = option("registered name (default: remora)", "remora", "--as", metavar="NAME")
    alias: str = option("alias to move to it (default: champion)", "champion", metavar="ALIAS")
    history: bool = option("list what was promoted in this run folder", False)
    json: bool = option("with --history: print it as JSON", False)
    tracking_uri: str | None = tracking_server()


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(Options):
    """where a model comes from: who promoted it by which figures, its stage runs, data, parts, licences, versions"""

    model: str = argument(f"an endpoint's URL, a stage run, {A_MODEL}, or an MLflow run's id")
    json: bool = all_as_json()
    html: Path | None = option("write it as a page to FILE", metavar="FILE")
    pictures: Path | None = option("write each picture that was trained on, with its sha256, to FILE", metavar="FILE")
    card: Path | None = option("write model card and bill of materials to DIR", metavar="DIR")
    tracking_uri: str | None = tracking_server()


@dataclass(frozen=True, kw_only=True)
class CatalogOptions(Options):
    """list what is known: vision, llm, connectors, templates, datasets, benchmarks, recipes, licences"""

    kind: str | None = argument("one of these, or `check`: which encoder x connector x llm fit together", None)
    name: str | None = argument("one entry of that kind", None)
    json: bool = option("print it as JSON", False)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """write a trained variant in the stock llava layout, or in Remora's own"""

    model: str = argument(A_MODEL)
    tracking_uri: str | None = tracking_server()
    out: Path = _new_folder()


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Options):
    """make a bundle of a downloaded checkpoint (llava-hf, TinyLLaVA, Bunny, LLaVA)"""

    folder: Path = argument("the folder of the checkpoint")
    out: Path = _new_folder()
    vision: str | None = option("its catalog name (default: found by architecture)", metavar="NAME")
    llm: str | None = option("its catalog name (default: found by architecture)", metavar="NAME")
    template: str | None = option("its catalog name (default: found by architecture)", metavar="NAME")
    base: str | None = option("the base of its LoRA adapters (default: the one they name)", metavar="DIR")


@dataclass(frozen=True, kw_only=True)
class AverageOptions(Options):
    """average variants with the same parts, with weights, as Bunny does"""

    models: tuple[str, ...] = argument(f"each {A_MODEL}", metavar="MODEL")
    tracking_uri: str | None = tracking_server()
    weights: tuple[float, ...] = option("one for each, with sum 1: 0.3 0.7", REQUIRED)
    out: Path = _new_folder()


@dataclass(frozen=True, kw_only=True)
class SearchesOptions(Options):
    """the searches of the run folder: list them, show or stop one, or replay it under another rule"""

    what: str = argument("ls | show | replay | stop", choices=["ls", "show", "replay", "stop"])
    name: str | None = argument("the search's name, as its space has it", None)
    rule: str = option("replay: none, halving or median", "halving", choices=["none", "halving", "median"])
    eta: int = option("replay: one of so many goes on (default: 3)", 3)
    first: float | None = option(
        "replay: the first rung, as a share of the last stage (default: the search's own)", None
    )
    json: bool = option("print it as JSON", False)


@dataclass(frozen=True, kw_only=True)
class SyncOptions(Options):
    """bring MLflow up to date with the run folder, as every command does while it works"""

    tracking_uri: str | None = tracking_server()
    tensorboard: bool = option("write TensorBoard's event files, too; from now on every command does", False)
    json: bool = option("print the counts as JSON", False)


@dataclass(frozen=True, kw_only=True)
class UiOptions(Options):
    """open MLflow's pages on the run folder, or TensorBoard's"""

    port: int = option("port of the pages (default: 5000)", 5000)
    tensorboard: bool = option("TensorBoard's pages instead: losses and rates of all stage runs, as they train", False)


@dataclass(frozen=True, kw_only=True)
class DocsOptions(Options):
    """open the documentation in a browser, without a network"""

    page: str = argument("a page by its name: troubleshooting, commands (default: the first)", "index")
