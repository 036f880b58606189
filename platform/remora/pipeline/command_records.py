"""Commands that train in a run folder, for `remora logs`, `stop` and `resume`: what was given, and how it ended.

<runs>/commands/<verb>-<name>-<time>/command.json    what was given, and how it ended
                                    /lease           held while it works
                                    /stop            asks it to stop (search/stopping.py)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from remora.errors import DataError, StoreError, first_line, nearest
from remora.files import disk_errors, exclusive, is_held, write_json
from remora.pipeline.search.stopping import stop_file, stoppable

FOLDER, FILE, LEASE = "commands", "command.json", "lease"
KEPT = 100
"""Records of commands that have ended, the newest ones."""
LOG = "REMORA_LOG"
"""The file that a command's output goes to, where its parent knows one."""


@dataclass(frozen=True)
class CommandRecord:
    """One `remora train` or `remora search`."""

    id: str
    verb: str
    search: str
    """Whose status files it writes: the space's name, or `single`."""
    name: str
    """The variant's or the space's."""
    words: tuple[str, ...]
    """What follows `remora`."""
    folder: str
    """In which it was given."""
    host: str
    process: int
    began: float
    """Seconds since 1970, as `ended`."""
    ended: float | None = None
    how: str = ""
    """finished, stopped, or failed and why; empty while it works, or if it was killed."""
    log: str = ""

    def state(self, runs: Path) -> str:
        """running, finished, stopped, failed or killed."""
        if is_held(lease_of_command(runs, self.id)):
            return "running"
        return self.how.partition(":")[0] or "killed"


_RECORD = TypeAdapter(CommandRecord)


def lease_of_command(runs: Path, id: str) -> Path:
    """Held while the command works."""
    return runs / FOLDER / id / LEASE


@contextlib.contextmanager
def at_work(runs: Path, verb: str, search: str, name: str, words: Sequence[str]) -> Iterator[None]:
    """Record a command for the length of the block. A wish to stop ends the block as Ctrl-C does.

    What cannot be written, say on a full disk, is left out: the work goes on.

    Raises:
        KeyboardInterrupt: somebody asked it to stop.
    """
    began = time.time()
    id = f"{verb}-{name}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(began))}-{os.getpid()}"
    place = (os.getcwd(), socket.gethostname(), os.getpid())  # noqa: PTH109 (as it is written down)
    record = CommandRecord(id, verb, search, name, tuple(words), *place, began, log=os.environ.get(LOG, ""))
    folder = runs / FOLDER / id
    _forget_old(runs)
    with exclusive(folder / LEASE):
        _write(runs, record)
        how = "finished"
        try:
            with stoppable(folder):
                yield
        except KeyboardInterrupt:
            how = "stopped"
            raise
        except BaseException as e:
            how = f"failed: {first_line(e)}"
            raise
        finally:
            stop_file(folder).unlink(missing_ok=True)
            _write(runs, replace(record, ended=time.time(), how=how))


def _write(runs: Path, record: CommandRecord) -> None:
    with contextlib.suppress(OSError, StoreError), disk_errors(runs):
        write_json(runs / FOLDER / record.id / FILE, asdict(record))


def _forget_old(runs: Path) -> None:
    over = [record for record in records(runs) if record.state(runs) != "running"]
    for record in over[: max(0, len(over) - KEPT)]:
        shutil.rmtree(runs / FOLDER / record.id, ignore_errors=True)


def records(runs: Path) -> list[CommandRecord]:
    """Every command of a run folder, the oldest first; one that cannot be read is left out."""
    found = []
    for file in (runs / FOLDER).glob(f"[!.]*/{FILE}"):
        with contextlib.suppress(OSError, ValidationError):
            found.append(_RECORD.validate_json(file.read_bytes()))
    return sorted(found, key=lambda record: record.began)


def commands_at_work(runs: Path) -> list[str]:
    """Commands that run now, from the moment when they begin, before they hold any other lock."""
    return [f"{record.verb} {record.name}" for record in records(runs) if record.state(runs) == "running"]


def find_command(runs: Path, name: str | None, running: bool | None = None) -> CommandRecord:
    """The newest command of that id, or of that variant or space; without a name, the newest of all.

    Args:
        running: Only one that works (True), or that does not (False).

    Raises:
        DataError: there is none; or several work and no name was given.
    """
    there = records(runs)
    fitting = [r for r in there if running is None or (r.state(runs) == "running") == running]
    found = [r for r in fitting if name is None or name in (r.id, r.name)]
    if running and name is None and len(found) > 1:
        raise DataError(f"{len(found)} commands work in {runs}; give the name of one: {', '.join(r.id for r in found)}")
    if found:
        return found[-1]
    what = "no command works" if running else "no command was given"
    if name is not None:
        known = [each for r in fitting for each in (r.id, r.name)]
        what = f"{what} of the name {name!r}{nearest(name, known)}"
    others = ", ".join(dict.fromkeys(r.name for r in fitting))
    raise DataError(f"{runs}: {what}{f'; there are: {others}' if others and name else ''}; next: remora logs")


def ask_to_stop(runs: Path, record: CommandRecord) -> None:
    """Ask a command to stop, wherever it runs, and wait until it has."""
    with disk_errors(runs):
        stop_file(runs / FOLDER / record.id).touch()
    while is_held(lease_of_command(runs, record.id)):
        time.sleep(0.2)
