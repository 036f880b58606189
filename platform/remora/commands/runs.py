"""`remora runs gc`: the run folder without what killed commands left in it.

remora runs gc --dry-run
"""

from __future__ import annotations

import argparse

from remora.commands.run import say
from remora.errors import StoreError
from remora.stages.leftovers import delete, leftovers


def runs(args: argparse.Namespace) -> None:
    """Delete leftovers, or only name them."""
    if not args.runs.is_dir():
        raise StoreError(f"run folder {args.runs} is not there; give the right one with --runs DIR (or REMORA_RUNS)")
    found = list(leftovers(args.runs))
    freed = 0
    for each in found:
        size = each.bytes
        if not args.dry_run:
            delete(each)
        freed += size
        say(f"{'would delete' if args.dry_run else 'deleted'} {each.path}: {each.why}, {size / 1e6:,.1f} MB")
    done = "would free" if args.dry_run else "freed"
    say(f"{len(found)} leftovers, {done} {freed / 1e6:,.1f} MB" if found else f"{args.runs}: nothing is left over")
