"""`remora init`: ask for data, hardware and model, and write a spec that works for them.

remora init mine.yaml                                                   # asks
remora init mine.yaml --data train.csv --images photos --gpu l4 --yes   # does not
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TypeVar

from remora import catalog
from remora.catalog import Device
from remora.catalog.schema import modeline
from remora.commands.indexes import prepare
from remora.commands.saying import say
from remora.commands.schema import schema_file
from remora.commands.setup_options import InitOptions
from remora.data.locations import absolute
from remora.data.outputs import writes
from remora.data.sources import find_source, picture_folder
from remora.errors import RemoraError, SpecError
from remora.planning import is_here
from remora.planning.drafting import Wish, drafted, proposed
from remora.reporting.columns import literal
from remora.runs import Store
from remora.runs.preflight import outlook
from remora.spec import MixtureEntry, Recipe, Variant
from remora.spec.paths import YAMLS

T = TypeVar("T")
CONNECTOR, RECIPE = "mlp2x_gelu", "base"
MOST_PROCESSES = 4
"""Training processes that are proposed on CPUs."""


def init(options: InitOptions) -> None:
    """Write a new spec, and print what to do next.

    Raises:
        SpecError: the file exists, the answers end, or nothing can be made of what is asked for.
        DataError: the data cannot be read, or has records that would stop a run.
    """
    if options.out.exists():
        raise SpecError(f"{options.out} exists, and init writes a new file; give another name")
    if options.out.suffix not in YAMLS:
        raise SpecError(f"{options.out}: a spec is a YAML file; next: remora init {quote(f'{options.out}.yaml')}")
    wish = _wish(options, Asking(sys.stdin.isatty() and not options.yes))
    entry = MixtureEntry(path=absolute(wish.data), images=wish.images and absolute(wish.images)) if wish.data else None
    console = literal(soft_wrap=True)
    datasets = [dataset for _, dataset in prepare([entry], options.place, console)] if entry else []
    wish = replace(wish, samples=sum(map(len, datasets)))
    if wish.data and not wish.samples:
        raise SpecError(f"{wish.data} has no sample; next: remora data check {quote(wish.data)}")
    text, variant = drafted(wish, _opening(wish, options), fit=_has_torch())
    if entry:
        for stage in catalog.recipe(wish.recipe).stages:
            made = stage.model_copy(update={**_lengths(variant, stage.name), "mixture": (entry,)})
            for note in outlook(made, datasets)[1]:
                say(f"note: {note}")
    with writes(options.out, "the new spec"):
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)
    say(f"{options.out}: {_said(wish)}")
    if wish.device.is_gpu and not _has_torch():
        say("note: torch is not installed, so its memory was not checked; remora plan does that where it is")
    for command in _next(options, wish):
        say(f"next: {command}")


class Asking:
    """Questions on a terminal; elsewhere every answer is the default."""

    def __init__(self, aloud: bool) -> None:
        self.aloud = aloud

    def __call__(self, given: T | None, question: str, default: T, read: Callable[[str], T]) -> T:
        """`given`, or the answer; an answer that cannot be read is asked for again."""
        if given is not None:
            return given
        while self.aloud:
            sys.stdout.write(f"{question} [{default or 'none'}]: ")
            sys.stdout.flush()
            answer = sys.stdin.readline()
            if not answer:  # Ctrl-D
                sys.stdout.write("\n")
                raise SpecError("the answers ended, and nothing was written; --yes takes what is proposed")
            if not answer.strip():
                break
            try:
                return read(answer.strip())
            except (RemoraError, ValueError) as e:
                say(str(e))
        return default


def _wish(options: InitOptions, ask: Asking) -> Wish:
    data = ask(options.data, "your data: a file, folder or URL; empty: the recipe's own", "", _data)
    images = options.images
    if data:
        _data(data)
        beside = picture_folder(absolute(data))
        images = ask(options.images, "the folder of its pictures", "", str) or None
        images = None if images and absolute(images) == beside else images
    found, here = _gpus()
    name = ask(options.gpu, f"device: {', '.join(catalog.entries('devices'))}", found, _named(catalog.device))
    device = catalog.device(name)
    if device.is_gpu:
        workers = ask(options.gpus, "how many of them", here if name == found else 1, _count)
    else:
        workers = min(os.cpu_count() or 1, MOST_PROCESSES)
    if workers < 1:
        raise SpecError(f"--gpus {workers}: give how many there are, 1 or more")
    vision, llm = proposed(device)
    benchmarks = [b for given in options.benchmarks for b in given.split(",") if b]
    return Wish(
        llm=ask(options.llm, "language model (remora catalog llm)", llm, _named(catalog.llm)),
        vision=ask(options.vision, "vision encoder (remora catalog vision)", vision, _named(catalog.vision)),
        connector=options.connector or CONNECTOR,
        recipe=ask(options.recipe, f"recipe: {', '.join(catalog.listed(Recipe))}", RECIPE, _named(catalog.recipe)),
        device=device,
        workers=workers,
        data=data and _from_anywhere(data, options.out),
        images=images and _from_anywhere(images, options.out),
        benchmarks=tuple(_from_anywhere(b, options.out) if b.endswith(YAMLS) else b for b in benchmarks),
    )


def _from_anywhere(path: str, spec: Path) -> str:
    """A path as it stays right in the spec: absolute, if the spec is in another folder than this one."""
    return path if spec.absolute().parent == Path.cwd() else absolute(path)


def _data(location: str) -> str:
    find_source(absolute(location))
    return location


def _named(getter: Callable[[str], object]) -> Callable[[str], str]:
    def read(name: str) -> str:
        getter(name)
        return name

    return read


def _count(said: str) -> int:
    if not said.isdigit() or int(said) < 1:
        raise ValueError(f"{said!r} is not a number of GPUs; give 1 or more")
    return int(said)


def _gpus() -> tuple[str, int]:
    """This machine's device by its name in the catalog, and how many there are; `cpu` if it has none that is known."""
    asked = shutil.which("nvidia-smi")
    if asked is None:
        return "cpu", 1
    done = subprocess.run(
        [asked, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    names = done.stdout.splitlines()
    known = {device.named: name for name, device in catalog.listed(Device).items()}
    found = [known[name.strip()] for name in names if name.strip() in known]
    return (found[0], found.count(found[0])) if found else ("cpu", 1)


def _has_torch() -> bool:
    from importlib.util import find_spec

    return find_spec("torch") is not None


def _lengths(variant: Variant, stage: str) -> dict[str, object]:
    """Batch and length of a stage as the new spec has them."""
    changes = variant.overrides.get(stage, {})
    taken = {key: changes[key] for key in ("batch", "steps", "epochs") if key in changes}
    other = {"steps": "epochs", "epochs": "steps"}
    return taken | {other[key]: None for key in taken if key in other}


def _opening(wish: Wish, options: InitOptions) -> list[str]:
    words = f"# Written by `remora init`, {time.strftime('%Y-%m-%d')}: {_said(wish)}."
    return [
        modeline(str(schema_file("variant", options.runs))),
        words,
        "#",
        *(f"#     {c}" for c in _next(options, wish)),
    ]


def _said(wish: Wish) -> str:
    of = f"{wish.samples:,} samples of {wish.data}" if wish.data else "the recipe's own data"
    where = f"{wish.workers} x {wish.device.named}" if wish.device.is_gpu else "CPUs"
    return f"{wish.vision} and {wish.llm} by {wish.recipe}, for {of}, on {where}"


def _next(options: InitOptions, wish: Wish) -> list[str]:
    """The commands from here to a model."""
    own, file = catalog.llm(wish.llm).stage, quote(str(options.out))
    data = Store(options.runs).data
    make = [] if own is None or all(is_here(e, data) for e in own.mixture) else ["remora data demo"]
    named = [name for name, device in catalog.listed(Device).items() if device == wish.device and device.is_gpu]
    there = f" --gpu {named[0]}" if named else ""
    return [*make, f"remora data check {file}", f"remora plan {file}{there}", f"remora train {file}"]
