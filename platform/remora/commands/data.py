"""`remora data …`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from remora.commands.data_options import (
    DataCheckOptions,
    DataCondenseOptions,
    DataConvertOptions,
    DataDemoOptions,
    DataIndexOptions,
    DataShowOptions,
)
from remora.commands.options import DemoOptions
from remora.errors import SpecError
from remora.files import disk_errors
from remora.reporting.bars import counting, reading
from remora.reporting.columns import literal
from remora.spec.paths import YAMLS

# Each verb loads its own: torch takes 4 s, and two of six need it.


def _check_settings(options: DataCheckOptions | DataIndexOptions | DataShowOptions) -> None:
    """Settings are of a spec: a dataset has none.

    Raises:
        SpecError: the target is a dataset, and there are some.
    """
    if options.settings and not options.target.endswith(YAMLS):
        raise SpecError(f"--set {options.settings[0]}: {options.target} is a dataset; give the YAML of a variant")


def check(options: DataCheckOptions) -> None:
    _check_settings(options)
    from remora.commands.check import check

    console = literal(stderr=options.json, soft_wrap=True)
    with reading(console, "checking") as progress:
        check(options, console, progress)


def index(options: DataIndexOptions) -> None:
    _check_settings(options)
    from remora.commands.indexes import index

    index(options, literal(stderr=options.json, soft_wrap=True))


def condense(options: DataCondenseOptions) -> None:
    from remora.commands.condense import condense

    condense(options, literal(soft_wrap=True))


def convert(options: DataConvertOptions) -> None:
    from remora.commands.convert import convert

    console = literal(soft_wrap=True)
    with reading(console, "converting") as progress:
        convert(options, console, partial(progress, options.target))


def show(options: DataShowOptions) -> None:
    _check_settings(options)
    from remora.commands.samples import sections_of, show

    console = literal(stderr=options.json)
    with counting(console, "reading") as progress:
        sections = sections_of(options, console, progress)
    show(options, console, sections)


def demo(options: DataDemoOptions) -> None:
    """Write pictures, conversations and question files below <run folder>/data/demo, data/photos or data/styles."""
    console = literal(soft_wrap=True)
    check_stamps(options)
    if options.photos and options.styles:
        raise SpecError("--photos and --styles are different data: give one, then the other")
    if options.styles:
        name, manifest = "styles", build_of_styles(options.runs, console, options.seed)
    elif options.photos:
        name, manifest = "photos", build_of_photos(options.runs, console, options.stamps, options.seed)
    else:
        name, manifest = "demo", build(options.runs, console, options.seed)
    counts = ", ".join(f"{file} {n:,}" for file, n in manifest["counts"].items())
    console.print(f"{options.runs / 'data' / name}: {counts}", highlight=False)


def check_stamps(options: DataDemoOptions | DemoOptions) -> None:
    """Raises:
    SpecError: stamps are given, and no photographs are made.
    """
    if options.stamps and not options.photos:
        raise SpecError("--stamps is for --photos: give both")


def build(runs: Path, console: Console, seed: int = 0) -> dict:
    """Build (or find) the demo's data, with a progress bar."""
    from remora.demo import build_demo

    with disk_errors(runs), counting(console, "making") as progress:
        return build_demo(runs / "data" / "demo", seed=seed, progress=progress)


def build_of_photos(runs: Path, console: Console, stamps: Path | None, seed: int = 0) -> dict:
    """Build (or find) the photo demo's data, with a progress bar."""
    from remora.demo import build_photos

    with disk_errors(runs), counting(console, "making") as progress:
        return build_photos(runs / "data" / "photos", given=stamps, seed=seed, progress=progress)


def build_of_styles(runs: Path, console: Console, seed: int = 0) -> dict:
    """Build (or find) the benchmark demo-styles, with a progress bar."""
    from remora.demo import build_styles

    with disk_errors(runs), counting(console, "making") as progress:
        return build_styles(runs / "data" / "styles", seed=seed, progress=progress)
