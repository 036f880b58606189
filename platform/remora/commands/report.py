"""`remora report`: a search as one HTML page and its figures as PNGs, from the run folder alone."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec

from remora.commands.options import ReportOptions
from remora.errors import StoreError
from remora.reporting.search_report.findings import findings

NEEDS = ("altair", "vl_convert")


def report(options: ReportOptions) -> None:
    """Write the page and say where it is, or print what it is made from."""
    if options.json:
        found = findings(options.runs, options.search)
        sys.stdout.write(json.dumps(found.as_json(), indent=1) + "\n")
        return
    if any(find_spec(module) is None for module in NEEDS):
        raise StoreError("the report's figures need altair and vl-convert-python; next: pip install 'remora[report]'")
    # Loaded here: what draws is an extra.
    from remora.reporting.search_report.page import write_report

    written = write_report(options.runs, options.search, options.out)
    sys.stdout.write(f"report: {written.page}\n")
    if written.images:
        sys.stdout.write(f"figures: {len(written.images)} PNGs in {written.images[0].parent}\n")
