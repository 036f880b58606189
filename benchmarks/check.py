"""Speed of checking a dataset with every picture decoded: python benchmarks/check.py [FOLDER] writes results/check.md.

20,000 records of benchmarks/index.py, each with a 256 x 192 JPEG of its own name (hard links to 4,000 files, in the
page cache), then the same records without pictures.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from unittest import mock

from index import make

from remora.data.check import check_dataset

RESULTS = Path(__file__).parent / "results" / "check.md"


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "/tmp/remora-index")
    file, images = make(folder, 20_000)
    words = folder / "words.json"
    records = json.loads(file.read_text())
    for record in records:
        del record["image"]
        record["conversations"][0]["value"] = record["conversations"][0]["value"].removeprefix("<image>\n")
    words.write_text(json.dumps(records))
    lines = ["# Checking datasets", "", "`python benchmarks/check.py`", ""]
    lines += [f"{platform.machine()}, {os.cpu_count()} CPU cores, 24 GiB, 2026-11-21.", ""]
    lines += [" ".join((__doc__ or "").split("\n\n")[1].split()), ""]
    lines += ["| what | threads | seconds | core seconds | records/s | pictures/s |", "|---|---|---|---|---|---|"]
    for what, location in (("with pictures", file), ("text only", words)):
        for threads in (1, 2):
            with mock.patch("os.cpu_count", return_value=threads):
                wall, core = time.perf_counter(), time.process_time()
                report = check_dataset(str(location), str(images))
                wall, core = time.perf_counter() - wall, time.process_time() - core
            rates = f"{report.records / wall:,.0f} | {report.pictures / wall:,.0f}"
            lines.append(f"| {what} | {threads} | {wall:.2f} | {core:.2f} | {rates} |")
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
