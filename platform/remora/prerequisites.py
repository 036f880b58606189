"""Whether this machine can hold an installation: `make setup` asks before it installs anything. A line for each lack.

python3 -I platform/remora/prerequisites.py .venv

It is run by whatever Python there is, so it is written for 3.6 and imports nothing but the standard library.
"""

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)
"""The Pythons that were tried; `requires-python` in pyproject.toml has the same."""
MACHINES = ("x86_64", "aarch64")
"""Those for which every package has wheels."""
GLIBC = (2, 28)
"""The oldest that the wheels run on (manylinux_2_28)."""
ROOM, UNPACKED = 4, 2
"""GB of an environment with torch's CPU build, and of what pip downloads before it installs."""


def lacking(venv: str) -> list:
    """What this machine lacks for an environment in the folder `venv`: lines of rule, what is here, next command."""
    here = platform.python_version()
    found = [of_system(platform.system(), platform.machine(), *platform.libc_ver())]
    found.append(of_python(here, platform.python_implementation()))
    if not (Path(venv) / "bin" / "python").exists():
        found.append(of_modules([name for name in ("venv", "ensurepip") if not importlib.util.find_spec(name)], here))
        found.append(of_disk(venv, free(venv), ROOM, "VENV"))
        found.append(of_disk(tempfile.gettempdir(), free(tempfile.gettempdir()), UNPACKED, "TMPDIR"))
    return [line for line in found if line]


def of_system(system: str, machine: str, libc: str, version: str) -> str:
    """The packages come as wheels for Linux with glibc."""
    if system != "Linux" or machine not in MACHINES:
        wanted = " or ".join(MACHINES)
        return (
            f"Remora needs Linux on {wanted}, and this is {system} on {machine}; next: a machine or a container of it"
        )
    if libc == "musl" or (libc == "glibc" and numbers(version) < GLIBC):
        wanted = ".".join(map(str, GLIBC))
        return (
            f"the packages need glibc {wanted} or newer, and here is {libc} {version}; next: docker run -it python:3.12"
        )
    return ""


def of_python(version: str, implementation: str = "CPython") -> str:
    """A Python that was tried."""
    if implementation == "CPython" and OLDEST <= numbers(version)[:2] <= NEWEST:
        return ""
    wanted = " to ".join(".".join(map(str, one)) for one in (OLDEST, NEWEST))
    there = fitting()
    ways = "apt install python3.12-venv, dnf install python3.12, or uv python install 3.12; then "
    again = f"{'' if there else ways}make setup PYTHON={there or 'python3.12'}"
    return f"Remora needs Python {wanted}, and {sys.executable} is {implementation} {version}; next: {again}"


def of_modules(names: list, version: str) -> str:
    """Debian and Ubuntu have them in a package of their own."""
    if not names:
        return ""
    package = f"python{'.'.join(version.split('.')[:2])}-venv"
    lack = " and ".join(names)
    return f"an environment needs Python's {lack}, and {sys.executable} lacks it; next: apt install {package}"


def of_disk(folder: str, room: int, wanted: int, variable: str) -> str:
    """`room` in bytes, `wanted` in GB; `variable` names another folder."""
    if room >= wanted * 10**9:
        return ""
    what = "the packages take 4 GB (7 GB with torch's CUDA build)" if variable == "VENV" else "pip unpacks 2 GB"
    again = "make setup VENV=DIR" if variable == "VENV" else "TMPDIR=DIR make setup"
    return f"{what}, and {folder} has {room / 1e9:.1f} GB free; next: {again} with a folder of another disk"


def free(folder: str) -> int:
    """Bytes free where a folder is, or will be."""
    there = Path(folder).absolute()
    return shutil.disk_usage(str(next(each for each in (there, *there.parents) if each.exists()))).free


def numbers(version: str) -> tuple:
    """`3.13.0` as (3, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def fitting() -> str:
    """The newest Python on PATH that was tried, and runs: pyenv has names of some that do not."""
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        name = f"python3.{minor}"
        found = shutil.which(name)
        if found and subprocess.call([found, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
            return name
    return ""


if __name__ == "__main__":
    lines = lacking(sys.argv[1] if len(sys.argv) > 1 else ".venv")
    sys.stderr.write("".join(f"make setup: {line}\n" for line in lines))
    sys.exit(1 if lines else 0)
