"""`remora runs gc`: delete what killed commands left in the run folder.

remora runs gc --dry-run
"""

from __future__ import annotations

from remora.commands.options import RunsOptions
from remora.commands.saying import say
from remora.errors import StoreError
from remora.runs.leftovers import delete, leftovers


def runs(options: RunsOptions) -> None:
    """Delete leftovers, or only name them."""
    if not options.runs.is_dir():
        raise StoreError(f"there is no run folder {options.runs}; give the right one with --runs DIR (or REMORA_RUNS)")
    found = list(leftovers(options.runs))
    freed = 0
    for each in found:
        size = each.bytes
        if not options.dry_run:
            delete(each)
        freed += size
        say(f"{'would delete' if options.dry_run else 'deleted'} {each.path}: {each.why}, {size / 1e6:,.1f} MB")
    done = "would free" if options.dry_run else "freed"
    say(f"{len(found)} leftovers, {done} {freed / 1e6:,.1f} MB" if found else f"{options.runs}: no leftovers")
