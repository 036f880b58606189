"""Indexes at the size of LLaVA-1.5's second stage: python benchmarks/index.py [FOLDER] writes results/index.md.

665,298 records: 41,000 are text only, the others have a picture file each. The picture files are hard links to 4,000
noise JPEGs of 256 x 192 in 1,000 folders: every path is looked up, read and digested, but the disk has 4,000 files,
all in the page cache. So reading is as fast as from a warm disk, and look-ups are cheaper than for 624,000 inodes.
"""

from __future__ import annotations

import json
import os
import platform
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from remora.data import index_builder
from remora.data.convert import convert_dataset
from remora.data.index_builder import open_dataset, over_processes
from remora.data.index_state import pictures_changed
from remora.data.sources import find_source

RECORDS, TEXT_ONLY, FILES, FOLDERS = 665_298, 41_000, 4_000, 1_000
RESULTS = Path(__file__).parent / "results" / "index.md"
OPEN = """
import sys, time
start = time.perf_counter()
from pathlib import Path
from remora.data.index_builder import open_dataset
from remora.data.sources import find_source
def memory(field):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith(field))
imported, core = time.perf_counter(), time.process_time()
location, images, root = sys.argv[1:]
dataset = open_dataset(find_source(location), location, images, Path(root))
opened, core, peak = time.perf_counter(), time.process_time() - core, memory("VmHWM")
import random
numbers = random.Random(0).sample(range(len(dataset)), min(50_000, len(dataset)))
for number in numbers:
    dataset[number]
read = time.perf_counter()
after = memory("RssAnon")
print(imported - start, opened - imported, len(numbers) / (read - opened), core, peak, after)
"""


def make(folder: Path, records: int) -> tuple[Path, Path]:
    """(file, image folder) of a synthetic dataset with that many records; existing files are reused."""
    file, images = folder / f"mix{records}.json", folder / "images"
    rng = random.Random(0)
    stems = [images / "shared" / f"{i}.jpg" for i in range(FILES)]
    if not stems[-1].exists():
        stems[0].parent.mkdir(parents=True)
        noise = np.random.default_rng(0)
        for stem in stems:
            small = noise.integers(0, 256, (24, 32, 3), np.uint8)
            Image.fromarray(small).resize((256, 192), Image.Resampling.BICUBIC).save(stem, quality=90)
        for i in range(FOLDERS):
            (images / f"{i:03d}").mkdir()
        for i in range(RECORDS - TEXT_ONLY):
            os.link(stems[i % FILES], images / f"{i % FOLDERS:03d}" / f"{i:012d}.jpg")
    if not file.exists():
        words = [f"word{i}" for i in range(5_000)]
        with file.open("w") as f:
            for i in range(records):
                turns = []
                for k in range(rng.choice([1, 2, 4, 6])):
                    tag = "<image>\n" if not k and i < RECORDS - TEXT_ONLY else ""
                    turns.append({"from": "human", "value": tag + " ".join(rng.choices(words, k=12))})
                    turns.append({"from": "gpt", "value": " ".join(rng.choices(words, k=25))})
                record = {"id": f"{i:012d}", "conversations": turns}
                if i < RECORDS - TEXT_ONLY:
                    record["image"] = f"{i % FOLDERS:03d}/{i:012d}.jpg"
                f.write((",\n" if i else "[\n") + json.dumps(record))
            f.write("\n]\n")
    return file, images


def timed_open(location: Path, images: Path, root: Path) -> list[float]:
    """A fresh process: seconds to import and to open, records/s at random, core seconds and peak MiB to open, own MiB
    (without what is mapped) at the end."""
    command = [sys.executable, "-c", OPEN, str(location), str(images), str(root)]
    return [float(x) for x in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


def built(location: Path, images: Path, root: Path, spread: index_builder.Spread) -> tuple[float, int]:
    start = time.perf_counter()
    dataset = open_dataset(find_source(str(location)), str(location), str(images), root, spread)
    return time.perf_counter() - start, len(dataset)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "/tmp/remora-index")
    root = folder / f"index-{time.time_ns()}"
    file, images = make(folder, RECORDS)
    lines = ["# Indexes of datasets", "", "`python benchmarks/index.py`", ""]
    lines += [
        f"{platform.machine()}, {os.cpu_count()} CPU cores, 24 GiB, ext4, 2026-11-21.",
        "",
    ]
    lines += [" ".join((__doc__ or "").split("\n\n")[1].split()), ""]
    size, jpeg = file.stat().st_size / 1e6, sum(p.stat().st_size for p in (images / "shared").iterdir()) / FILES / 1e3
    lines += [f"The JSON has {size:,.0f} MB ({size * 1e6 / RECORDS:,.0f} bytes a record), a JPEG {jpeg:.0f} kB.", ""]
    lines += ["| what | records | seconds | records/s |", "|---|---|---|---|"]

    def add(what: str, records: int, seconds: float) -> None:
        lines.append(f"| {what} | {records:,} | {seconds:,.2f} | {records / seconds:,.0f} |")
        sys.stdout.write(lines[-1] + "\n")
        sys.stdout.flush()

    seconds, count = built(file, images, root, over_processes)
    add(f"build, a process a core ({os.cpu_count()})", count, seconds)
    imported, opened, random_reads, core, peak, own = timed_open(file, images, root)
    add("open from cache, in a fresh process", count, opened)
    home = next(root.iterdir())
    start = time.perf_counter()
    assert not pictures_changed(home)
    add("of which: is any picture file changed?", count, time.perf_counter() - start)
    notes = [f"- The fresh process: imports {imported:.2f} s, opens in {core:.2f} s of a core, peak {peak:,.0f} MiB."]
    notes += [f"- 50,000 of its records at random: {random_reads:,.0f} a second; {own:,.0f} MiB of its own at the end."]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    notes += [f"- The process that gave the work out: peak {peak:,.0f} MiB."]

    some, _ = make(folder, 20_000)
    for name, spread in (("in this process", map), ("a process a core", over_processes)):
        seconds, count = built(some, images, root / name, spread)
        add(f"build, {name}", count, seconds)
    for name in ("held.parquet", "held.tar"):
        if not (folder / name).exists():
            start = time.perf_counter()
            convert_dataset(str(some), str(images), str(folder / name))
            add(f"convert .json to {name[4:]}", count, time.perf_counter() - start)
        seconds, count = built(folder / name, folder, root / name, over_processes)
        add(f"build, {name[4:]} with its pictures ({(folder / name).stat().st_size / 1e6:,.0f} MB)", count, seconds)
        _, opened, random_reads, _, peak, own = timed_open(folder / name, folder, root / name)
        add(f"open {name[4:]} from cache", count, opened)
        notes += [f"- {name[4:]}: {random_reads:,.0f} records/s at random, {own:,.0f} MiB of its own."]
    RESULTS.write_text("\n".join([*lines, "", *notes]) + "\n")


if __name__ == "__main__":
    main()
