"""Names and values that MLflow accepts, from nested dicts: dotted names, safe characters, bounded lengths."""

from __future__ import annotations

import hashlib
import json
import numbers
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from remora.training.events import JournalEvent

NAME_LIMIT = 250
PARAM_LIMIT = 6000
LoggedStep = tuple[int, int, dict[str, float]]
"""LoggedStep, milliseconds since 1970, figures."""
TAG_LIMIT = 5000  # servers before MLflow 2.20 refuse more, newer ones take 8000


@dataclass(frozen=True)
class Input:
    """Data that a run read, as MLflow's column of datasets shows it."""

    name: str
    digest: str
    """A digest of its content, independent of its location."""
    source: str
    """Where it was read from, for people."""
    context: str
    """Its purpose: training, evaluation."""
    counts: Mapping[str, int] = field(default_factory=dict)


def shorten(text: str, limit: int) -> str:
    """`text` within `limit` characters; a cut text ends in its digest, so that two long texts stay distinct."""
    if len(text) <= limit:
        return text
    mark = f"…{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return text[: limit - len(mark)] + mark


def name(text: str) -> str:
    """`text` as a name that MLflow takes: letters, digits, `_`, `-`, `.`, space and single inner slashes."""
    clean = re.sub(r"[^\w.\- /]", "_", text)
    # MLflow refuses names that read as a different path: "a//b", "/a", "a/../b".
    pieces = [p for p in clean.split("/") if p.strip(". ")]
    return shorten("/".join(pieces) or "_", NAME_LIMIT).replace("…", "_")


def _leaves(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def params(tree: Mapping[str, object]) -> dict[str, str]:
    """Nested settings as MLflow params: `{"lr": {"llm": 1e-3}}` gives `{"lr.llm": "0.001"}`; lists become JSON."""
    return {
        name(key): shorten(
            json.dumps(value, default=str) if isinstance(value, (list, tuple, Mapping)) else str(value), PARAM_LIMIT
        )
        for key, value in _leaves(tree)
    }


def metrics(tree: Mapping[str, object]) -> dict[str, float]:
    """The numbers in nested figures as MLflow metrics; text, null and booleans are left out."""
    return {
        name(key): float(value)
        for key, value in _leaves(tree)
        if isinstance(value, numbers.Real) and not isinstance(value, bool)
    }


_LINK = re.compile(r"\[([^\]]*)\]\(run:([^)\s]+)\)")
_COMPARED = re.compile(r"\[([^\]]*)\]\(compare:([^)\s]+)\)")
MOST_COMPARED = 40
"""Runs that one address compares; a tag has room for that of no more."""
_ID = re.compile(r"run:(\S+)")


def link(text: str, key: str, tab: str = "") -> str:
    """A Markdown link, for a tag, to the page of the run with that key, or to a tab of it (artifacts). Ids change with
    the server, keys do not."""
    return f"[{text}]({id_of(key)}{'#' * bool(tab)}{tab})"


def compare(text: str, keys: Sequence[str]) -> str:
    """A Markdown link, for a tag, to MLflow's page that compares the runs with these keys: those of them that are
    recorded, `MOST_COMPARED` at most."""
    return f"[{text}](compare:{','.join(quote(key) for key in keys[:MOST_COMPARED])})"


def id_of(key: str) -> str:
    """A placeholder, for a tag, for MLflow's id of the run with that key."""
    return f"run:{quote(key)}"


def linked(
    text: str,
    find: Callable[[str], str | None],
    page: Callable[[str, str], str],
    compared: Callable[[list[str]], str],
) -> str:
    """`text` with its links as addresses. `find` gives the id of a key's run; if None, only the link text is kept.
    `page` gives the address of an id's tab, `compared` that of several runs.
    """
    if whole := _ID.fullmatch(text):
        return find(unquote(whole[1])) or ""

    def address(found: re.Match[str]) -> str:
        key, _, tab = found[2].partition("#")
        run = find(unquote(key))
        return f"[{found[1]}]({page(run, tab)})" if run else found[1]

    def several(found: re.Match[str]) -> str:
        runs = [run for key in found[2].split(",") if (run := find(unquote(key)))]
        return f"[{found[1]}]({compared(runs)})" if len(runs) > 1 else found[1]

    return _COMPARED.sub(several, _LINK.sub(address, text))


def tags(flat: Mapping[str, object]) -> dict[str, str]:
    return {name(key): shorten(str(value), TAG_LIMIT) for key, value in flat.items()}


def step_of(event: JournalEvent) -> LoggedStep | None:
    """The step that a journal's event records, or None for other events."""
    if event["event"] != "step":
        return None
    values = metrics({k: v for k, v in event.items() if k not in ("event", "step", "time", "attempt", "system")})
    # MLflow has a page of its own for these.
    system = metrics({f"system/{name}": value for name, value in event.get("system", {}).items()})
    return event["step"], _at(event), values | system


def validation_of(event: JournalEvent) -> LoggedStep | None:
    """What a validation came to, at the step of the training loss beside it, or None for another event."""
    if event["event"] != "validation":
        return None
    said = {"val_loss": event["loss"], "val_score": event.get("score"), "val_seconds": event.get("seconds")}
    return event["step"], _at(event), metrics(said)


def _at(event: JournalEvent) -> int:
    at = event.get("time")
    return int((at if isinstance(at, int | float) else time.time()) * 1000)
