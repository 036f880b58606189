"""The options of `remora plan` and `remora render`, as `options` declares them for other verbs."""

# ruff: noqa: RUF009 (`option` and `argument` are dataclasses.field)

from dataclasses import dataclass
from pathlib import Path

from remora.commands.declaring import argument, option
from remora.commands.options import Options, all_as_json, max_cost, max_hours, settings, smoke_run


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Options):
    """plan a space or a variant: which stage runs exist, which will be trained, how long it takes and what it costs"""

    spec: Path = argument("a variant or a space")
    settings: tuple[str, ...] = settings()
    smoke: bool = smoke_run()
    slots: int | None = option("groups of workers that train at once (default: as many as have room here)", metavar="N")
    rate: float | None = option("FLOP/s of one worker (default: as measured in the run folder)", metavar="FLOPS")
    price: float | None = option("of a GPU-hour (default: cluster.gpu_price)", metavar="MONEY")
    address: str | None = option("Ray cluster whose room counts (default: this machine)")
    gpu: str | None = option("whether it fits that device: h100, a100-80, l4, …, cpu (catalog devices)", metavar="NAME")
    gpus: int | None = option("with --gpu: how many (default: cluster.workers)", metavar="N")
    prices: Path | None = option("YAML: device -> price of an hour", metavar="FILE")
    calibrate: bool = option("first take a few real steps of each kind of stage, for its time", False)
    max_hours: float | None = max_hours()
    max_cost: float | None = max_cost()
    json: bool = all_as_json()


@dataclass(frozen=True, kw_only=True)
class RenderOptions(Options):
    """print a space or a variant with everything resolved"""

    spec: Path = argument("a variant or a space")
    settings: tuple[str, ...] = settings()
    smoke: bool = smoke_run()
    json: bool = option("print it as JSON: a list of variants", False)
