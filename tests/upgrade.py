"""The fast part of the suite against the newest release of each dependency, one at a time. Failing is allowed.

    make upgrade                         # those of pyproject.toml that have a newer release than constraints.txt
    make upgrade PACKAGES="ray mlflow"

Each gets a scratch environment above this one, which holds the newest release and what of its requirements this one
does not meet. So a row says what one upgrade does, whatever the others do. Torch is left out unless it is named: from
the registry it comes with gigabytes of CUDA libraries.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FAST = ["-m", "not slow and not ray and not faults", "-x", "-q", "-p", "no:cacheprovider"]
"""What of the suite is run: no Ray, no servers."""


def dependencies() -> list[str]:
    """What the core and the extras of `all` depend on, with its own extras: `ray[data,train]`."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [about["optional-dependencies"][name] for name in ("model", "track", "ui", "serve", "train")]
    found = [re.match(r"[\w.-]+(\[[^]]*\])?", d)[0] for d in sum(extras, about["dependencies"])]  # type: ignore[index]
    return [d for d in found if not d.startswith("remora[")]


def newest(name: str) -> str:
    said = subprocess.run([sys.executable, "-m", "pip", "index", "versions", name], capture_output=True, text=True)
    found = re.search(r"\((.+?)\)", said.stdout)
    return found[1] if found else "?"


def tried(requirement: str, release: str, scratch: Path) -> str:
    """The suite's last line with that release, or why it could not be installed."""
    venv.create(scratch, with_pip=True, clear=True)
    python = scratch / "bin" / "python"
    packages = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    (packages / "above.pth").write_text(f"{ROOT / 'platform'}\n{sysconfig.get_paths()['purelib']}\n")
    wanted = f"{requirement}=={release}"
    put = subprocess.run(
        [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wanted], capture_output=True, text=True
    )
    if put.returncode:
        return f"not installed: {put.stderr.strip().splitlines()[-1]}"
    ran = subprocess.run([python, "-m", "pytest", *FAST], cwd=ROOT, capture_output=True, text=True)
    lines = [line for line in ran.stdout.splitlines() if line.strip()] or ran.stderr.splitlines()
    failed = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), "")
    return f"{lines[-1].strip('= ')} {failed}".strip()


def main() -> None:
    named = {requirement.partition("[")[0]: requirement for requirement in dependencies()}
    rows = []
    for name in sys.argv[1:] or [n for n in named if n != "torch"]:
        requirement = named[name]
        tested, release = version(name).partition("+")[0], newest(name)
        result = "as tested"
        if release not in (tested, "?"):
            scratch = Path(tempfile.mkdtemp(prefix=f"upgrade-{name}-"))
            result = tried(requirement, release, scratch)
            shutil.rmtree(scratch, ignore_errors=True)
        rows.append((name, tested, release, result))
        print(f"{name:<18} {tested:<12} {release:<12} {result}", flush=True)
    print("\n| package | tested | newest | result |\n| --- | --- | --- | --- |")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


if __name__ == "__main__":
    main()
