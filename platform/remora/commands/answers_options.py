"""The options of `remora answers`, as `options` declares them for other verbs."""

# ruff: noqa: RUF009 (`option` and `argument` are dataclasses.field)

from dataclasses import dataclass
from pathlib import Path

from remora.commands.declaring import REQUIRED, argument, option
from remora.commands.options import Options, tracking_server


@dataclass(frozen=True, kw_only=True)
class AnswersOptions(Options):
    """what measured models answered, side by side with picture, question and the right answer"""

    models: tuple[str, ...] = argument("measured models, reports' files or folders of reports", metavar="MODEL")
    benchmark: str = option("the benchmark, by name or YAML", REQUIRED, metavar="NAME")
    data: Path | None = option("its folder (default: <run folder>/data/eval)", metavar="DIR")
    only: str = option(
        "all, right (of all models), wrong (of all), or differing (default: all)",
        "all",
        choices=["all", "right", "wrong", "differing"],
    )
    samples: int | None = option("questions at most (default: 20; 200 on a page; all as JSON)", None, "-n", metavar="N")
    html: Path | None = option("write a page to FILE: pictures, and a filter", metavar="FILE")
    json: bool = option("print everything as JSON", False)
    tracking_uri: str | None = tracking_server()
