"""Cost of condensing: 10^4, 10^5 and 10^6 synthetic embeddings, each size in its own process.

    python benchmarks/condense.py                # a table, the slopes, an extrapolation to 2 * 10^9 rows
    python benchmarks/condense.py --quality      # k-means beside scikit-learn's, on 10^4 and 10^5 rows
    python benchmarks/condense.py --encoder      # seconds per picture of a ViT-L/14 with random weights on this CPU

Embeddings are points about n / 500 centres of uneven sizes, float32 [n, 512] with texts of the same shape; three in ten
pictures are near-copies of another one. There are as many clusters as the square root of n. Output: Markdown, kept in
benchmarks/results/condense.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 512
FILE = 1 << 16
SIZES = (10_000, 100_000, 1_000_000)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write_embeddings(folder: Path, n: int) -> None:
    """`images/` and `texts/` with n rows."""
    centres = np.random.default_rng(0).standard_normal((max(1, n // 500), WIDTH), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    weights = np.random.default_rng(1).random(len(centres)) ** 2 + 0.05
    for kind in ("images", "texts"):
        (folder / kind).mkdir(parents=True)
    for start in range(0, n, FILE):
        generator = np.random.default_rng([2, start])
        rows = min(FILE, n - start)

        def noise(count: int, size: float, generator: np.random.Generator = generator) -> np.ndarray:
            return generator.standard_normal((count, WIDTH), dtype=np.float32) * np.float32(size / math.sqrt(WIDTH))

        images = centres[generator.choice(len(centres), rows, p=weights / weights.sum())] + noise(rows, 1.0)
        copies = np.flatnonzero(generator.random(rows) < 0.3)
        images[copies] = images[generator.integers(0, copies + 1)] + noise(len(copies), 0.3)
        images /= np.linalg.norm(images, axis=1, keepdims=True)
        np.save(folder / "images" / f"{start:08d}.npy", images)
        np.save(folder / "texts" / f"{start:08d}.npy", images + noise(rows, 1.5))


def child(folder: Path, n: int, threads: int) -> None:
    """Condense; the last line printed is the cost."""
    from remora.condense.source import embedding_files
    from remora.condense.steps import Condenser, Embedded
    from remora.condense.vectors import Vectors
    from remora.spec import Condensation

    given = {kind: str(folder / kind) for kind in ("images", "texts")}
    spec = Condensation(name="x", embeddings=given, clusters={"count": round(math.sqrt(n))}, sample=max(1, n // 1000))
    images, texts = (Vectors(embedding_files(given[kind])) for kind in ("images", "texts"))
    cpu: list[float] = [time.process_time()]
    wall = time.perf_counter()
    condenser = Condenser(spec, Embedded(images, texts, "x"), folder / "steps", threads)
    condenser.heard = lambda step: cpu.append(time.process_time())
    steps = condenser.run()
    out = {
        "wall": time.perf_counter() - wall,
        "cpu": cpu[-1] - cpu[0],
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "points": min(n, spec.clusters.count * spec.clusters.points),
        "clusters": spec.clusters.count,
        "pairs": float((np.bincount(steps[0].load("labels")).astype(np.float64) ** 2).sum()),
        "steps": [
            {"name": s.name, "seconds": s.seconds, "cpu": end - begin, **s.counts}
            for s, begin, end in zip(steps, cpu, cpu[1:], strict=False)
        ],
    }
    say(json.dumps(out))


def measure(n: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write_embeddings(Path(folder), n)
        command = [sys.executable, __file__, "--child", folder, "--rows", str(n), "--threads", str(threads)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return json.loads(done.stdout.splitlines()[-1])


def sizes(ns: list[int], threads: int) -> None:
    found = {n: measure(n, threads) for n in ns}
    say(f"{threads} threads, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}; a step's seconds are wall (CPU)\n")
    names = [s["name"] for s in found[ns[0]]["steps"]]
    say(f"| rows | clusters | rounds | {' | '.join(names)} | all | peak RSS GiB | kept by step |")
    say("|---:" * (len(names) + 5) + "|---|")
    for n, r in found.items():
        seconds = " | ".join(f"{s['seconds']:.1f} ({s['cpu']:.1f})" for s in r["steps"])
        kept = " → ".join(f"{s['kept']:,}" for s in r["steps"])
        shape = f"{n:,} | {r['clusters']} | {r['steps'][0]['rounds']}"
        say(f"| {shape} | {seconds} | {r['wall']:.1f} ({r['cpu']:.1f}) | {r['rss']:.2f} | {kept} |")
    for a, b in itertools.pairwise(ns):
        pairs = zip(found[a]["steps"], found[b]["steps"], strict=True)
        slopes = ", ".join(
            f"{s['name']} {math.log(t['cpu'] / s['cpu'], b / a):.2f}" for s, t in pairs if s["name"] != "sample"
        )
        say(f"\nSlopes of CPU seconds from {a:,} to {b:,} rows: {slopes}")
    extrapolate(ns[-1], found[ns[-1]])


def extrapolate(n: int, found: dict[str, Any]) -> None:
    """Core hours at Bunny's size: the measured rate of each kind of work, times the work there."""
    steps = {s["name"]: s for s in found["steps"]}
    rows, clusters, width, rounds = 2.05e9, 1e5, 768, 20
    say(
        f"\nAt {rows:.3g} rows of width {width} in {clusters:,.0f} clusters, {rounds} rounds on 256 points a cluster:\n"
    )
    say("| step | work there | rate of a core here | core hours there |\n|---|---:|---:|---:|")

    def flops(name: str, here: float, there: float) -> None:
        rate = here / steps[name]["cpu"]
        say(f"| {name} | {there:.1e} FLOP | {rate / 1e9:.0f} GFLOP/s | {there / rate / 3600:,.0f} |")

    lloyd = found["points"] * steps["clusters"]["rounds"] + n
    flops("clusters", 2 * WIDTH * found["clusters"] * lloyd, 2 * width * clusters * (256 * clusters * rounds + rows))
    uneven = found["pairs"] * found["clusters"] / n**2  # assumes equally uneven clusters there
    flops("duplicates", 2 * WIDTH * found["pairs"], 2 * width * uneven * rows**2 / clusters)
    for name in ("text-rank", "centroid-rank"):
        each = steps[name]["cpu"] / steps[name]["from"] * width / WIDTH
        there = rows * steps[name]["from"] / n
        say(f"| {name} | {there:.1e} rows | {each * 1e6:.0f} us a row | {each * there / 3600:,.1f} |")


def quality(threads: int) -> None:
    """Mean distance to the nearest centroid, ours and scikit-learn's."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    from remora.condense import kmeans
    from remora.condense.source import embedding_files
    from remora.condense.vectors import Vectors
    from remora.spec.condensation import Clusters

    say("| rows | clusters | method | mean distance | CPU s | largest cluster |\n|---:|---:|---|---:|---:|---:|")
    for n in SIZES[:2]:
        with tempfile.TemporaryDirectory() as folder:
            write_embeddings(Path(folder), n)
            vectors, k = Vectors(embedding_files(f"{folder}/images")), round(math.sqrt(n))
            rows = vectors.take(np.arange(n))

            known = {"n_clusters": k, "n_init": 1, "random_state": 0}
            methods: dict[str, Any] = {
                f"{points:,} points a cluster": partial(
                    kmeans.fit, vectors, Clusters(count=k, points=points), 0, threads
                )
                for points in (64, 256, n)
            }
            methods |= {
                "scikit-learn KMeans, random": partial(KMeans(init="random", max_iter=20, **known).fit, rows),
                "scikit-learn KMeans, k-means++": partial(KMeans(max_iter=20, **known).fit, rows),
                "scikit-learn MiniBatchKMeans": partial(MiniBatchKMeans(batch_size=4096, **known).fit, rows),
            }
            for name, fit in methods.items():
                started = time.process_time()
                made = fit()
                seconds = time.process_time() - started
                centroids = made.centroids if isinstance(made, kmeans.Fit) else made.cluster_centers_
                labels, distance = kmeans.assign(vectors, centroids.astype(np.float32), threads)
                say(f"| {n:,} | {k} | {name} | {distance:.4f} | {seconds:.1f} | {np.bincount(labels).max():,} |")


def encoder() -> None:
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.set_num_threads(1)
    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    model = CLIPVisionModel(CLIPVisionConfig(image_size=224, patch_size=14, **shape)).eval()
    with torch.inference_mode():
        model(pixel_values=torch.zeros(4, 3, 224, 224))
        started = time.process_time()
        model(pixel_values=torch.zeros(8, 3, 224, 224))
    say(f"ViT-L/14, 224 px, fp32, one core: {(time.process_time() - started) / 8:.2f} s a picture")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--encoder", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.rows[0], args.threads)
    elif args.quality:
        quality(args.threads)
    elif args.encoder:
        encoder()
    else:
        sizes(args.rows, args.threads)


if __name__ == "__main__":
    main()
