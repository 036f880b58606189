"""`remora runs`: what the run folder holds, who needs what, whether it is whole; delete, rename and move.

remora runs ls
remora runs show base-Eff-2M-mlp-70b5cad52f78
remora runs verify
remora runs gc --yes
remora runs rm demo
remora runs mv . /data/remora
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from remora.commands.operate_options import RunsOptions
from remora.commands.options import Options
from remora.commands.saying import say
from remora.errors import SpecError, StoreError, TornArtifact, TrackingError, several
from remora.files.disk import changed_at, size_of
from remora.pipeline.upkeep import deleting, moving, verifying
from remora.pipeline.upkeep.deleting import Garbage
from remora.pipeline.upkeep.holdings import Holding, find, named
from remora.pipeline.upkeep.needs import OWN, Needs, needs
from remora.reporting.columns import console
from remora.reporting.holdings import HoldingRecord, amount, holdings_table
from remora.runs.leftovers import leftovers
from remora.sharing import around
from remora.tracking import Tracker
from remora.tracking.every_version import Registered, every_version


def runs(options: RunsOptions) -> None:
    """Print or do what was asked for."""
    if not options.runs.is_dir():
        raise StoreError(f"there is no run folder {options.runs}; give the right one with --runs DIR (or REMORA_RUNS)")
    if shared := around(options.runs):
        # Another node may need what nothing needs here; the copies that go are brought again when they are asked for.
        goes = {"gc": "only what killed commands left goes, after a day", "rm": "nothing goes"}.get(options.what)
        _note(f"{options.runs} is this node's folder of {shared.url}" + (f"; of what is there {goes}" if goes else ""))
    verbs: dict[str, Callable[[RunsOptions], None]] = {
        "ls": _ls,
        "show": _show,
        "verify": _verify,
        "gc": _gc,
        "rm": _rm,
        "mv": _mv,
    }
    verbs[options.what](options)


def _ls(options: RunsOptions) -> None:
    found = _seen(options)
    chosen = [h for h in found.holdings if not options.names or any(map(h.place.startswith, options.names))]
    if options.names and not chosen:
        there = sorted({h.place.partition("/")[0] for h in found.holdings})
        raise SpecError(f"{options.runs} holds nothing below {', '.join(options.names)}; it has: {', '.join(there)}")
    records = [_record(h, found) for h in chosen]
    if options.json:
        say(json.dumps(records, indent=1))
        return
    if not records:
        say(f"{options.runs} holds nothing yet; next: remora train SPEC")
        return
    console().print(holdings_table(records))
    whole = size_of([options.runs]).bytes if not options.names else size_of(p for h in chosen for p in h.paths).bytes
    spare = [h for h in found.unneeded() if h in chosen]
    say(f"{several(len(records), 'thing')}, {amount(whole)}" + (" with logs and data" if not options.names else ""))
    if spare:
        say(f"nothing needs {len(spare)} of them; next: remora runs gc")
    if left := list(leftovers(options.runs)):
        say(f"besides, killed commands left {amount(sum(each.bytes for each in left))}; next: remora runs gc")


def _show(options: RunsOptions) -> None:
    found = _seen(options)
    (holding,) = [find(name, options.runs, found.holdings) for name in _named(options, 1, "remora runs show NAME")]
    record = _record(holding, found)
    uses = [h.place for h in found.holdings if any(u.place == holding.place for u in found.of(h))]
    if options.json:
        say(json.dumps({**record, "path": str(holding.path), "needs": uses}, indent=1))
        return
    say(f"{holding.shown}: {amount(record['bytes'])}, deleting it frees {amount(record['frees'])}")
    say(*(f"  {path}" for path in holding.paths))
    if record["needed_by"]:
        say("needed by", *(f"  {by}" for by in record["needed_by"]))
    else:
        say("needed by nothing" + ("; it stays until a person deletes it" if holding.kind in OWN else ""))
    if uses:
        say("needs", *(f"  {place}" for place in uses))


def _verify(options: RunsOptions) -> None:
    """Raises:
    TornArtifact: something is not what was published; all of it is printed first.
    """
    versions, problem = _versions(options)
    found = needs(options.runs, versions)
    chosen = [find(name, options.runs, found.holdings) for name in options.names] or found.holdings
    verdicts = list(verifying.verified(options.runs, chosen))
    if not options.names:
        verdicts += [*verifying.verified_torn_apart(options.runs), *verifying.verified_records(options.runs)]
        verdicts += verifying.verified_versions(versions)
        if shared := around(options.runs):
            verdicts += verifying.verified_at_url(shared)
    torn = [v for v in verdicts if v.problems]
    if options.json:
        said = [{"what": v.what, "path": str(v.path), "problems": list(v.problems)} for v in verdicts]
        say(json.dumps(said, indent=1))
    else:
        say(*(line for v in torn for line in v.problems))
    if problem:
        _note(f"registered versions are not verified: {problem}")
    if torn:
        raise TornArtifact(
            f"not what was published: {named([v.what for v in torn])}, of {several(len(verdicts), 'thing')}"
        )
    if not options.json:
        say(f"{several(len(verdicts), 'thing')} {'is' if len(verdicts) == 1 else 'are'} what was published")


def _gc(options: RunsOptions) -> None:
    if options.names:
        raise SpecError(f"gc looks through all of {options.runs}; next: remora runs rm {options.names[0]}")
    garbage = list(deleting.collect_leftovers(options.runs, options.yes)) if options.leftovers else None
    if garbage is None:
        found = needs(options.runs, _all_versions(options), options.stopped)
        garbage = [*deleting.collect_leftovers(options.runs, options.yes), *deleting.collect(found, options.yes)]
        tell = _note if options.json else say
        if found.unread:
            unread = named([str(file) for file in found.unread])
            tell(f"what nothing needs stays, since {unread} cannot be read; next: remora runs verify")
        elif found.at_work:
            tell(f"at work: {named(found.at_work)}; what nothing needs stays until that has ended")
        elif young := deleting.fresh(found):
            tell(f"kept, because it is new: {named([h.place for h in young])}")
    if shared := around(options.runs):
        garbage += deleting.collect_at_url(shared, options.yes)
    _said(options, garbage)


def _rm(options: RunsOptions) -> None:
    found = needs(options.runs, _all_versions(options))
    chosen = [find(n, options.runs, found.holdings) for n in _named(options, 1, "remora runs rm NAME")]
    _said(options, [deleting.remove(holding, found, options.yes) for holding in chosen])


def _mv(options: RunsOptions) -> None:
    old, new = _named(options, 2, "remora runs mv BUNDLE NAME, or remora runs mv . DIR")
    found = needs(options.runs, ())
    if (old == "." or Path(old).expanduser().absolute() == options.runs) and (shared := around(options.runs)):
        raise StoreError(
            f"{options.runs} belongs to {shared.url}; next: REMORA_NODE_FOLDER=DIR, a new folder for this node"
        )
    if whole := old == "." or Path(old).expanduser().absolute() == options.runs:
        made = moving.move_runs(options.runs, Path(new), found)
    else:
        made = moving.rename_bundle(find(old, options.runs, found.holdings), new, options.runs, found)
    if options.json:
        say(json.dumps({"moved": old, "to": str(made)}))
    else:
        say(f"moved to {made}; next: give it with --runs, or REMORA_RUNS" if whole else f"renamed to {made}")


def _said(options: RunsOptions, garbage: Iterable[Garbage]) -> None:
    """What was deleted, or would be."""
    found = list(garbage)
    freed = sum(each.frees for each in found)
    if options.json:
        each = [{"path": str(g.path), "why": g.why, "frees": g.frees} for g in found]
        say(json.dumps({"deleted": options.yes, "frees": freed, "things": each}, indent=1))
        return
    word = "deleted" if options.yes else "would delete"
    say(*(f"{word} {g.path}: {g.why}, {amount(g.frees)}" for g in found))
    if not found:
        say(f"{options.runs}: nothing to delete")
    elif options.yes:
        say(f"{several(len(found), 'thing')}, freed {amount(freed)}")
    else:
        again = shlex.join(["remora", "runs", options.what, *options.names, *_given(options), "--yes"])
        say(f"{several(len(found), 'thing')}, would free {amount(freed)}; next: {again}")


def _note(line: str) -> None:
    """Beside the result, which may be JSON."""
    sys.stderr.write(f"note: {line}\n")


def _given(options: RunsOptions) -> list[str]:
    """The same run folder and the same registry: the command may be given again as it is printed."""
    flags = {"--leftovers": options.leftovers, "--stopped": options.stopped}
    said = [flag for flag, given in flags.items() if given]
    if options.tracking_uri:
        said += ["--tracking-uri", options.tracking_uri]
    return said if options.runs == Options().runs else [*said, "--runs", str(options.runs)]


def _named(options: RunsOptions, count: int, usage: str) -> tuple[str, ...]:
    """Raises:
    SpecError: there are not as many names as the verb takes.
    """
    if len(options.names) != count:
        raise SpecError(
            f"{options.what} takes {count} name{'s' * (count > 1)}, found {len(options.names)}; it is {usage}"
        )
    return options.names


def _record(holding: Holding, found: Needs) -> HoldingRecord:
    size = size_of(holding.paths)
    return {
        "kind": holding.kind,
        "place": holding.place,
        "bytes": size.bytes,
        "frees": size.frees,
        "changed": changed_at(holding.paths),
        "needed": holding.place in found.kept,
        "needed_by": [user.shown for user in found.of(holding)],
    }


def _seen(options: RunsOptions) -> Needs:
    """Who needs what; without the registry's versions, and a note, while MLflow cannot be reached."""
    versions, problem = _versions(options)
    if problem:
        _note(f"what registered versions need is not known: {problem}")
    return needs(options.runs, versions)


def _versions(options: RunsOptions) -> tuple[list[Registered], str]:
    """(The registry's versions, why they are not known)."""
    try:
        return every_version(Tracker(options.runs, options.tracking_uri)), ""
    except TrackingError as e:
        return [], str(e)


def _all_versions(options: RunsOptions) -> list[Registered]:
    """Raises:
    TrackingError: MLflow cannot be reached: a version may need what would be deleted.
    """
    try:
        return every_version(Tracker(options.runs, options.tracking_uri))
    except TrackingError as e:
        other = "; next: start it, or remora runs gc --leftovers" if options.what == "gc" else ""
        raise TrackingError(f"{e}; nothing is deleted, since a registered version may need it{other}") from None
