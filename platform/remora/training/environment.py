"""What a stage run was trained with: code, libraries, processor. It is recorded and decides no identity.

The same spec under another torch gives nearly the same weights, so what is there is reused, and that is said.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

from remora import __version__
from remora.files import digest, sha256_file
from remora.processes import cpu_kind

LIBRARIES = ("torch", "transformers", "tokenizers", "deepspeed", "peft", "bitsandbytes", "numpy", "pillow")
"""Whose versions may move a result's last digits."""
PACKAGE = Path(__file__).parents[1]


class EnvironmentRecord(TypedDict):
    """What an attempt at a stage ran on, as its first rank saw it."""

    remora: str
    code: str
    """Digest of the package's modules."""
    python: str
    libraries: dict[str, str]
    """Package -> version, of those that are installed; torch's names its CUDA."""
    cpu: str
    """Its kind, as /proc/cpuinfo has it."""
    gpu: str | None
    system: str


def environment(gpu: str | None = None) -> EnvironmentRecord:
    """That of this process. Loads no library; `gpu` is the device's name."""
    return {
        "remora": __version__,
        "code": code_digest(),
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "cpu": cpu_kind(),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
    }


def read_environment(said: object) -> EnvironmentRecord | None:
    """A record as JSON has it; None if it is none."""
    if not isinstance(said, dict) or not said.keys() >= EnvironmentRecord.__required_keys__:
        return None
    libraries = said["libraries"]
    gpu = said["gpu"]
    return {
        "remora": str(said["remora"]),
        "code": str(said["code"]),
        "python": str(said["python"]),
        "libraries": {str(k): str(v) for k, v in libraries.items()} if isinstance(libraries, dict) else {},
        "cpu": str(said["cpu"]),
        "gpu": gpu if isinstance(gpu, str) else None,
        "system": str(said["system"]),
    }


def differences(then: EnvironmentRecord, now: EnvironmentRecord) -> list[str]:
    """What may move a result: `torch 2.12.0, here 2.13.0`. A GPU only where both name one, since who plans or waits has
    none."""
    rows: list[tuple[str, str | None, str | None]] = [("python", then["python"], now["python"])]
    names = [*dict.fromkeys((*then["libraries"], *now["libraries"]))]
    rows += [(name, then["libraries"].get(name), now["libraries"].get(name)) for name in names]
    if then["gpu"] and now["gpu"]:
        rows.append(("GPU", then["gpu"], now["gpu"]))
    elif not then["gpu"]:
        rows.append(("CPU", then["cpu"], now["cpu"]))
    return [f"{name} {was or 'none'}, here {is_ or 'none'}" for name, was, is_ in rows if was != is_]


def each_once(found: Iterable[EnvironmentRecord]) -> list[EnvironmentRecord]:
    """Those of several attempts, in order."""
    return list({digest(each): each for each in found}.values())


def shown(record: EnvironmentRecord) -> str:
    """In one line: `remora 0.1.0 (code 1f0c9e…), python 3.11.9, torch 2.13.0+cpu, …, on AMD EPYC`."""
    libraries: Mapping[str, str] = record["libraries"]
    said = [f"remora {record['remora']} (code {record['code'][:12]})", f"python {record['python']}"]
    said += [f"{name} {found}" for name, found in libraries.items()]
    return f"{', '.join(said)}, on {record['gpu'] or record['cpu']}, {record['system']}"


@lru_cache(maxsize=1)
def code_digest() -> str:
    """sha256 over the package's modules and facts, by their names."""
    files = sorted(p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".yaml"))
    return digest([[str(p.relative_to(PACKAGE)), sha256_file(p)] for p in files])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
