"""What a spec asks of a cluster that is elsewhere: the command, its files, its environment, and how many nodes.

jobs.py gives it to a running Ray cluster; kuberay.py and skypilot.py write it down for those who start one for it.
"""

from __future__ import annotations

import math
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from remora.errors import SpecError
from remora.files import strings_in
from remora.spec import Cluster
from remora.spec.paths import YAMLS

EXCLUDED = (
    ".git",
    ".venv",
    "venv",
    "node_modules",
    "site",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    "__pycache__",
)
"""What of a working folder is never sent, besides what its .gitignore names."""
Manifest = dict[str, object]
"""A mapping of a YAML document."""
RUNS = "/runs"
"""Where the run folder is on machines that are started for the job."""


@dataclass(frozen=True)
class Submission:
    """One spec on its way to a cluster."""

    verb: str
    """train or search."""
    name: str
    """The variant's or the space's."""
    folder: Path
    """The working folder: the spec and what it names are below it."""
    spec: Path
    """Relative to the folder."""
    cluster: Cluster
    groups: int = 1
    """Groups of workers that train at once."""
    words: tuple[str, ...] = ()
    """Further arguments of the verb."""
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    """Names of variables whose values are written nowhere."""

    @property
    def label(self) -> str:
        """The name as Kubernetes and SkyPilot take it."""
        plain = re.sub(r"[^a-z0-9]+", "-", f"remora-{self.verb}-{self.name}".lower()).strip("-")
        return plain[:47].strip("-")  # KubeRay adds up to 16 letters, and a label has 63

    def command(self, runs: str | None = None, *more: str, within: str = "") -> str:
        """The command line; `within` is where the working folder is, if not where it is given."""
        place = ("--runs", runs) if runs else ()
        spec = (Path(within) / self.spec).as_posix()
        return shlex.join(["python", "-m", "remora", self.verb, spec, "--plain", *place, *self.words, *more])

    def files(self) -> dict[str, str]:
        """The spec and the YAML files that it names, by places from which it finds them: beside it.

        Raises:
            SpecError: one of them would be outside of the working folder.
        """
        here = self.folder / self.spec
        found = {self.spec.as_posix(): here.read_text()}
        for text in strings_in(yaml.safe_load(found[self.spec.as_posix()])):
            if not text.endswith(YAMLS) or "://" in text or Path(text).is_absolute():
                continue
            file = next((base / text for base in (here.parent, self.folder) if (base / text).is_file()), None)
            if file is None:
                continue  # a name of the catalog, or what reading the spec has refused
            place = posixpath.normpath((self.spec.parent / text).as_posix())
            if place.startswith("../"):
                raise SpecError(f"{self.spec} names {text}, which is outside of {self.folder}; next: --working-dir DIR")
            found[place] = file.read_text()
        return found


@dataclass(frozen=True)
class Nodes:
    """The machines that a submission's workers fit on."""

    count: int
    least: int
    """Fewest with which an elastic stage begins."""
    cpus: int
    """Of each."""
    gpus: int
    memory: int
    """GiB of each; 0 if the spec reserves none."""


def nodes_of(submission: Submission, gpus_per_node: int) -> Nodes:
    """Nodes of up to so many GPUs; without GPUs, one machine with all CPUs."""
    block, groups = submission.cluster, submission.groups
    most, least = block.most_workers * groups, block.least_workers * groups
    each = most
    if block.gpus_per_worker:
        each = max(1, min(most, math.floor(gpus_per_node / block.gpus_per_worker)))
    return Nodes(
        count=math.ceil(most / each),
        least=math.ceil(least / each),
        cpus=math.ceil(each * block.cpus_per_worker) + 1,  # one for the process that places the work
        gpus=math.ceil(each * block.gpus_per_worker),
        memory=math.ceil(each * block.memory_per_worker),
    )


def environment(given: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """(Variables with their values, names without one) of `NAME=VALUE` and `NAME`.

    Raises:
        SpecError: one is neither.
    """
    values, names = {}, []
    for text in given:
        name, equals, value = text.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise SpecError(f"--env takes NAME=VALUE, or the NAME of a variable that is set here; found {text!r}")
        if equals:
            values[name] = value
        else:
            names.append(name)
    return values, tuple(names)


class _Dumper(yaml.SafeDumper):
    """Several lines of text stay lines."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def as_yaml(*documents: Manifest) -> str:
    """YAML that people read and edit."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
