"""Python and its packages against what was tried, DeepSpeed's builds, GPUs and NCCL."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TypedDict

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from remora.pipeline.checkup.finding import Finding, found, trouble

EXTRAS = ("model", "track", "train", "serve")
STALE = 600.0
"""Seconds after which the lock of a build belongs to nobody: the longest build takes two minutes."""
PROBE = """
import json, sys, torch
said = {"torch": torch.__version__, "cuda": torch.version.cuda, "available": torch.cuda.is_available(), "gpus": []}
if said["available"]:
    count = torch.cuda.device_count()
    said["gpus"] = [torch.cuda.get_device_name(i) for i in range(count)]
    said["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    ones = [torch.ones(1, device=i) for i in range(count)]
    torch.cuda.nccl.all_reduce(ones)
    torch.cuda.synchronize()
    said["sums"] = [float(one) for one in ones]
print("FACTS" + json.dumps(said))
"""


class GpuFacts(TypedDict, total=False):
    """What a process saw that loads torch and, where there are GPUs, sums a one of each by NCCL."""

    torch: str
    cuda: str | None
    available: bool
    gpus: list[str]
    nccl: str
    sums: list[float]
    error: str
    """The last line of a process that failed."""


def python(version: str = "", wanted: str | None = None) -> Finding:
    """Whether Python is one that the package asks for."""
    version = version or platform.python_version()
    if wanted is None:
        try:
            wanted = metadata.metadata("remora")["Requires-Python"] or ""
        except metadata.PackageNotFoundError:
            wanted = ">=3.11"
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return found(f"{version} ({sys.executable})")
    return trouble(f"{version}, and Remora needs {wanted}", "an environment of that Python: uv venv --python 3.12")


def packages(requires: Sequence[str] | None = None, version: Callable[[str], str] = metadata.version) -> Finding:
    """Each installed package against the versions that were tried."""
    if requires is None:
        try:
            requires = metadata.requires("remora") or []
        except metadata.PackageNotFoundError:
            return trouble("Remora is not installed as a package, so what was tried is not known", "pip install -e .")
    other, lacking, seen = [], dict[str, list[str]](), 0
    for line in requires:
        wanted = Requirement(line)
        extra = next((e for e in EXTRAS if wanted.marker and wanted.marker.evaluate({"extra": e})), "")
        core = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if not core and not extra:
            continue
        if wanted.name == "remora":
            continue
        try:
            have = version(wanted.name)
        except metadata.PackageNotFoundError:
            lacking.setdefault(extra, []).append(wanted.name)
            continue
        seen += 1
        if not wanted.specifier.contains(have, prereleases=True):
            other.append(f"{wanted.name} {have} (tried: {wanted.specifier})")
    if other or "" in lacking:
        gone = [f"{name} is not installed" for name in lacking.get("", [])]
        return trouble("; ".join([*other, *gone]), "pip install -c constraints.txt 'remora[all]'")
    without = "".join(f"; extra {extra} lacks {', '.join(names)}" for extra, names in lacking.items())
    return found(f"{seen} packages are of versions that were tried{without}")


def deepspeed_builds(folder: Path | None = None) -> Finding:
    """Whether a killed build left its lock: every later start that needs the same build waits for it for ever."""
    given = os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions"
    folder = folder or Path(given)
    now = time.time()
    locks = [lock for depth in ("*/lock", "*/*/lock") for lock in folder.glob(depth)]
    stale = [lock for lock in locks if now - lock.stat().st_mtime > STALE]
    if stale:
        return trouble(f"a killed build left {', '.join(map(str, stale))}", f"rm {' '.join(map(str, stale))}")
    compiler = shutil.which("c++") or shutil.which("g++")
    return found("nothing is built to train" + (f"; {compiler} is there" if compiler else "; there is no compiler"))


def gpus(seconds: float = 60.0) -> Finding:
    """What torch sees of GPUs, and whether NCCL works between them; in a process of its own, which may hang."""
    return judged(_facts(seconds), nvidia=bool(list(Path("/dev").glob("nvidia[0-9]*"))))


def judged(facts: GpuFacts, nvidia: bool) -> Finding:
    """The finding of `gpus`.

    Args:
        nvidia: Whether the machine has devices of NVIDIA's driver.
    """
    if error := facts.get("error"):
        return trouble(f"torch or NCCL fails: {error}", "NCCL_DEBUG=INFO shows why; nvidia-smi, the driver's version")
    if not facts.get("available"):
        if not nvidia:
            return found("none; on CPUs, processes talk by gloo")
        built = facts.get("cuda")
        why = f"torch {facts.get('torch')} is built for CUDA {built}" if built else "torch is a CPU build"
        return trouble(
            f"there are GPUs, and torch sees none: {why}", "a torch for the driver: nvidia-smi shows its CUDA"
        )
    names = facts.get("gpus", [])
    kinds = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    if facts.get("sums") != [float(len(names))] * len(names):
        return trouble(f"{kinds}; NCCL sums wrongly: {facts.get('sums')}", "NCCL_P2P_DISABLE=1; the driver's version")
    return found(f"{kinds}; CUDA {facts.get('cuda')}, NCCL {facts.get('nccl')} sums over them")


def _facts(seconds: float) -> GpuFacts:
    env: Mapping[str, str] = {**os.environ, "CUDA_MODULE_LOADING": "LAZY"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=seconds, env=env, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {seconds:.0f} s"}
    for line in done.stdout.splitlines():
        if line.startswith("FACTS"):
            facts: GpuFacts = json.loads(line.removeprefix("FACTS"))
            return facts
    return {"error": (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]}
