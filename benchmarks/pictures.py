"""Cost of reading a picture in a process of its own: python benchmarks/pictures.py > benchmarks/results/pictures.md

Files of several sizes, read and shrunk for SigLIP's 384 pixels, in this process and by the endpoint's pool, in turns.
CPU time of both processes together, since the machine may be busy with other things; what the pool adds is the way
there and back.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from remora import catalog
from remora.reading.images import shrunk
from remora.serving.args import Limits
from remora.serving.images import decode
from remora.serving.picture_pool import PicturePool

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.machine import cpu_name

ROUNDS = 400
LIMITS = Limits(max_image_bytes=16 * 2**20)
FILES = (
    ("JPEG", 64, 64, 90),
    ("JPEG", 800, 600, 88),
    ("PNG", 280, 210, 0),
    ("JPEG", 3000, 2250, 88),
    ("PNG", 900, 675, 0),
    ("JPEG", 7200, 5400, 94),
    ("PNG", 3000, 2250, 0),
)
"""Format, width, height, quality."""


def written(kind: str, width: int, height: int, quality: int) -> bytes:
    """Smooth fields under noise, which compresses like a photograph."""
    random = np.random.default_rng(0)
    field = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize((width, height))
    noisy = np.asarray(field, np.int16) + random.normal(0, 4, (height, width, 1)).astype(np.int16)
    out = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out, kind, **({"quality": quality} if quality else {}))
    return out.getvalue()


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def main() -> None:
    pool = PicturePool(1, LIMITS.decode_seconds, LIMITS.decode_bytes)
    shrink = partial(shrunk, encoder=catalog.vision("siglip-so400m-384"), aspect="square")
    pool.decode(["data:image/png;base64," + base64.b64encode(written(*FILES[0])).decode()], LIMITS, shrink)
    print(f"{os.cpu_count()} cores, {cpu_name()}, {time.strftime('%Y-%m-%d')}; CPU time\n")
    print("| file | bytes | here | in the pool | added |\n| --- | ---: | ---: | ---: | ---: |")
    for kind, width, height, quality in FILES:
        data = written(kind, width, height, quality)
        urls = [f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"]
        rounds = max(5, int(ROUNDS * min(1, 0.1 * 2**20 / len(data))))  # clocks of other processes tick in 10 ms
        spent = [0.0, 0.0]
        for _ in range(rounds):
            for i, read in enumerate((decode, pool.decode)):
                began = time.process_time() + cpu_seconds(pool.pids[0])
                read(urls, LIMITS, shrink)
                spent[i] += time.process_time() + cpu_seconds(pool.pids[0]) - began
        here, there = (1000 * each / rounds for each in spent)
        size = f"{len(data) / 2**20:.2f} MB"
        print(f"| {kind} {width} x {height} | {size} | {here:.1f} ms | {there:.1f} ms | {there - here:+.1f} ms |")
    pool.close()


if __name__ == "__main__":
    main()
