"""`remora logs`, `remora stop`, `remora resume`: the commands that train in a run folder, from wherever it is seen.

remora logs
remora logs demo --follow
remora stop demo
remora resume demo
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from remora.commands.operate_options import LogsOptions, ResumeOptions, StopOptions
from remora.commands.saying import say
from remora.errors import DataError
from remora.files import disk_errors, is_held
from remora.pipeline.command_records import (
    CommandRecord,
    ask_to_stop,
    find_command,
    lease_of_command,
    records,
)
from remora.pipeline.search.driver import folder_of
from remora.pipeline.search.search import lease_of
from remora.pipeline.search.stopping import stop_file
from remora.reporting.happenings import Happenings
from remora.spec.paths import YAMLS
from remora.training.meter import duration

LOOK_EVERY = 0.5
SHOWN = 20
"""Commands that are listed, the newest ones."""


def logs(options: LogsOptions) -> None:
    """List commands, or print what happened in one."""
    if options.name is None and not options.follow:
        found = records(options.runs)[-SHOWN:]
        if options.json:
            say(json.dumps([asdict(r) | {"state": r.state(options.runs)} for r in found], indent=1))
        elif not found:
            say(f"no command was given in {options.runs}; next: remora train SPEC")
        else:
            say(*(_line(r, options.runs) for r in found))
        return
    record = find_command(options.runs, options.name)
    happenings = Happenings(options.runs, record.search, record.began)
    while True:
        running = is_held(lease_of_command(options.runs, record.id))
        if not options.json:
            say(*happenings.new(list(_variants(record, options.runs))))
        if not (options.follow and running):
            break
        time.sleep(LOOK_EVERY)
    record = record if running else find_command(options.runs, record.id)
    if options.json:
        say(json.dumps(asdict(record) | {"state": record.state(options.runs)}, indent=1))
        return
    say(_line(record, options.runs))
    if record.log:
        say(f"log: {record.log}")


def stop(options: StopOptions) -> None:
    """Ask a command to stop as Ctrl-C does, and wait until it has."""
    record = find_command(options.runs, options.name, running=True)
    say(f"asked {record.verb} {record.name} to stop; what was finished is kept")
    if record.verb == "search" and is_held(lease_of(options.runs, record.name)):
        with disk_errors(options.runs):  # which looks for its own file, in Ray Tune too
            stop_file(folder_of(options.runs, record.name)).touch()
        while is_held(lease_of_command(options.runs, record.id)):
            time.sleep(LOOK_EVERY)
    else:
        ask_to_stop(options.runs, record)
    say(f"{record.verb} {record.name} has stopped; next: remora resume {record.name}")


def resume(options: ResumeOptions) -> None:
    """Give a command again, in the folder in which it was given: it goes on from what it has.

    Raises:
        DataError: it has finished, or its spec is gone.
    """
    from remora.cli import main

    record = find_command(options.runs, options.name, running=False)
    if record.state(options.runs) == "finished":
        raise DataError(f"{record.verb} {record.name} has finished; next: remora logs {record.name}")
    spec, folder = Path(record.words[1]), Path(record.folder)
    if spec.suffix in YAMLS and not spec.exists():
        raise DataError(f"{spec} is not there any more; next: remora {record.verb} SPEC, which goes on as well")
    if folder.is_dir():
        os.chdir(folder)
    words = [*record.words, "--runs", str(options.runs)]
    say(f"remora {' '.join(words)}")
    main(words)


def _variants(record: CommandRecord, runs: Path) -> Iterator[str]:
    if record.verb == "train":
        yield record.name
        return
    for file in sorted((runs / "status" / record.search).glob("*.jsonl")):
        yield file.stem


def _line(record: CommandRecord, runs: Path) -> str:
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.began))
    took = duration((record.ended or time.time()) - record.began)
    state = record.state(runs)
    said = record.how if state == "failed" else state
    lasted = f", {took}" if state != "killed" else ""
    return f"{record.id}: {said}, since {began}{lasted}, process {record.process} on {record.host}"
