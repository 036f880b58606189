"""`remora report`: a search as one HTML page and its figures as PNGs, from the run folder alone."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

from remora import tracking
from remora.commands.options import ReportOptions
from remora.errors import StoreError
from remora.reporting.search_report.findings import findings
from remora.reporting.search_report.record import page_of

NEEDS = ("altair", "vl_convert")
INSTALL = "pip install 'remora[report]'"


def report(options: ReportOptions) -> None:
    """Write the page and say where it is, or print what it is made from."""
    if options.json:
        found = findings(options.runs, options.search)
        sys.stdout.write(json.dumps(found.as_json(), indent=1) + "\n")
        return
    if not drawable():
        raise StoreError(f"the report's figures need altair and vl-convert-python; next: {INSTALL}")
    # Loaded here: what draws is an extra.
    from remora.reporting.search_report.page import write_report

    written = write_report(options.runs, options.search, options.out)
    sys.stdout.write(f"report: {written.page}\n")
    if written.images:
        sys.stdout.write(f"figures: {len(written.images)} PNGs in {written.images[0].parent}\n")


def drawable() -> bool:
    """Whether what the figures are made with is installed."""
    return all(find_spec(module) for module in NEEDS)


def keep_report(runs: Path, search: str, key: str) -> str:
    """Write a search's report, and have it in MLflow, too; returns why there is none, or nothing.

    Args:
        key: Of the search's run in MLflow.
    """
    if not drawable():
        return ""
    from remora.reporting.search_report.page import write_report

    try:
        page = write_report(runs, search).page
    except Exception as e:  # noqa: BLE001 (whatever a figure met, the search is done)
        return f"no report was written: {e or type(e).__name__}; next: remora report {search}"
    tracking.Run.again(runs, key).note(files={"report": page.parent})
    return ""


def report_line(runs: Path, search: str, since: float) -> str:
    """Where the report is that was written since then; or how to have one."""
    page = page_of(runs, search)
    if page.exists() and page.stat().st_mtime >= since:
        return f"report: {page}"
    return f"report: {'' if drawable() else f'{INSTALL}, then '}remora report {search} --runs {runs}"
