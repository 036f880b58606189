"""`remora searches`: the searches of a run folder, how one stands, what another rule would have cost; and its end.

remora searches ls
remora searches show demo
remora searches replay demo --rule halving --eta 2
remora searches stop demo
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from remora.commands.options import SearchesOptions
from remora.commands.saying import say
from remora.errors import SpecError, StoreError, nearest
from remora.files import is_held
from remora.pipeline.search import space_file
from remora.pipeline.search.board import RUNGS, Rungs
from remora.pipeline.search.driver import folder_of
from remora.pipeline.search.ledger import LEDGER, Ledger
from remora.pipeline.search.replay import Replayed, replay
from remora.pipeline.search.search import lease_of, result_file
from remora.pipeline.search.spending import spent
from remora.pipeline.search.stopping import stop_file
from remora.pipeline.search.verdict import rule_of
from remora.reporting.columns import console
from remora.reporting.results import pareto_lines, spent_lines
from remora.reporting.search_report.record import json_of
from remora.reporting.searches import SearchSummary, listed, replayed_lines, rungs_table
from remora.spec import Rule, validate


def searches(options: SearchesOptions) -> None:
    """Print or do what was asked for."""
    if options.what == "ls":
        if options.name is not None:
            raise SpecError(f"ls lists all searches; next: remora searches show {options.name}")
        found = [_summary(options.runs, name) for name in _names(options.runs)]
        if options.json:
            say(json.dumps(found, indent=1))
        elif found:
            console().print(listed(found))
        else:
            say(f"no search was run in {options.runs}; next: remora search SPACE.yaml")
        return
    name = _known(options)
    if options.what == "show":
        board = Rungs.read(folder_of(options.runs, name) / RUNGS)
        said = _summary(options.runs, name)
        found_spent = spent(options.runs, folder_of(options.runs, name))
        if options.json:
            spending = found_spent.as_json() if found_spent else None
            rungs, decided = [vars(r) for r in board.arrivals], [vars(d) for d in board.decided]
            say(json.dumps({**said, "spending": spending, "rungs": rungs, "decided": decided}, indent=1))
            return
        console().print(listed([said]))
        if board.arrivals:
            console().print(rungs_table(board))
        if found_spent:
            say(*spent_lines(found_spent.as_json()))
        if said["pareto"]:
            say(*pareto_lines(said["pareto"]))
        if said["stopped"]:
            say(f"ended by {said['stopped']}")
    elif options.what == "replay":
        found_again = replayed(options, name)
        if options.json:
            say(json.dumps([vars(r) for r in found_again], indent=1))
        else:
            say(*replayed_lines(found_again))
    else:
        _stop(options.runs, name)


def replayed(options: SearchesOptions, name: str) -> list[Replayed]:
    """What the search's rungs say of another rule, for each last stage that its variants have.

    Raises:
        RemoraError: it has no rungs, or none as early as the rule's first, or the rule is invalid.
    """
    folder = folder_of(options.runs, name)
    board, found = Rungs.read(folder / RUNGS), space_file.read(folder)
    if not board.arrivals:
        raise StoreError(f"search {name} has no rungs, since its space has no rule (docs/searching.md)")
    figure = board.arrivals[-1].figure  # by which the search goes now
    arrivals = [at for at in board.arrivals if at.figure == figure]
    earliest = min(at.share for at in arrivals)
    own = found.space.rule if found and found.space.rule.kind != "none" else None
    first = options.first if options.first is not None else own.first if own else earliest
    said = {"kind": options.rule, "eta": options.eta, "first": first, "figure": figure}
    rule = rule_of(validate(Rule, said, f"--rule {options.rule}"))
    if rule.rungs and rule.rungs[0] < earliest - 1e-6:
        raise StoreError(
            f"search {name} has measured nobody before {earliest:.2%} of the last stage, so what a rung at "
            f"{rule.rungs[0]:.2%} decides is not known; next: --first {earliest:g}"
        )
    return [replay(board, stage, rule) for stage in dict.fromkeys(at.stage for at in arrivals)]


def _names(runs: Path) -> list[str]:
    return sorted(ledger.parent.name for ledger in (runs / "searches").glob(f"*/{LEDGER}"))


def _known(options: SearchesOptions) -> str:
    names = _names(options.runs)
    if options.name is None or options.name not in names:
        what = "give the name of a search" if options.name is None else f"no search {options.name!r}"
        known = f"; there are: {', '.join(names)}" if names else f"; {options.runs} has none"
        raise StoreError(f"{what}{nearest(options.name or '', names)}{known}")
    return options.name


def _summary(runs: Path, name: str) -> SearchSummary:
    """A search in a few figures, from its files."""
    entries = Ledger.entries(folder_of(runs, name) / LEDGER)
    runs_now = is_held(lease_of(runs, name))
    last = max((e.ended or e.began for e in entries), default=0.0)
    result = json_of(result_file(runs, name))
    done = bool(result) and result.get("ended", 0.0) >= last
    return {
        "search": name,
        "state": "running" if runs_now else "finished" if done else "interrupted",
        "variants": len({e.variant for e in entries}),
        "measured": len({e.variant for e in entries if e.how == "measured"}),
        "steps": sum(e.steps for e in entries),
        "champion": result.get("champion") if done else None,
        "pareto": result.get("pareto") if done else None,
        "stopped": result.get("stopped", "") if done else "",
        "began": min((e.began for e in entries), default=None),
        "seconds": round(sum((e.ended or e.began) - e.began for e in entries)),
    }


def _stop(runs: Path, name: str) -> None:
    """Ask a running search to stop, and wait until it has."""
    if not is_held(lease_of(runs, name)):
        say(f"search {name} does not run")
        return
    stop_file(folder_of(runs, name)).touch()
    say(f"asked search {name} to stop; what was finished is kept")
    while is_held(lease_of(runs, name)):
        time.sleep(0.2)
    say(f"search {name} has stopped; next: the same command again goes on from there")
