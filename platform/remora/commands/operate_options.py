"""The options of the verbs that keep things going: runs, doctor, submit, logs, stop, resume."""

# ruff: noqa: RUF009 (`option` and `argument` are dataclasses.field)

from dataclasses import dataclass
from pathlib import Path

from remora.commands.declaring import argument, option
from remora.commands.options import (
    Options,
    all_as_json,
    max_cost,
    max_hours,
    settings,
    smoke_run,
    tracking_server,
)


@dataclass(frozen=True, kw_only=True)
class RunsOptions(Options):
    """what the run folder holds: list it, see who needs what, verify it, delete what nobody needs, rename and move"""

    what: str = argument("ls | show | verify | gc | rm | mv", choices=["ls", "show", "verify", "gc", "rm", "mv"])
    names: tuple[str, ...] = argument(
        "show, verify, rm: things of `remora runs ls`; ls: stages, bundles, …; mv: a bundle and its new name, or "
        "`.` and the run folder's new place",
        (),
        metavar="NAME",
    )
    yes: bool = option("gc, rm: delete it; without, it is only named", False)
    leftovers: bool = option("gc: only what killed commands left, without asking MLflow", False)
    stopped: bool = option("gc: also the checkpoints of variants that a finished search has stopped", False)
    tracking_uri: str | None = tracking_server()
    json: bool = all_as_json()


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Options):
    """check this machine and a cluster's nodes: packages, GPUs, Ray, disk, ports, MLflow, hub; say what to do"""

    address: str | None = option("Ray cluster whose nodes to check (default: RAY_ADDRESS, or none)")
    tracking_uri: str | None = tracking_server()
    json: bool = all_as_json()


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(Options):
    """train or search on a Ray cluster that is elsewhere, or write the job down for KubeRay or SkyPilot"""

    spec: str | None = argument("a variant or a space, below the working folder", None)
    settings: tuple[str, ...] = settings()
    smoke: bool = smoke_run()
    address: str | None = option("where the cluster takes jobs (default: RAY_ADDRESS, or http://127.0.0.1:8265)")
    working_dir: Path = option("the folder that is sent (default: this one)", Path(), metavar="DIR")
    env: tuple[str, ...] = option(
        "a variable of the job; NAME alone takes its value from here, and is a secret; may be repeated",
        (),
        action="append",
        metavar="NAME[=VALUE]",
    )
    detach: bool = option("do not follow its output", False)
    follow: str | None = option("follow the output of job ID", metavar="ID")
    cancel: str | None = option("end job ID as Ctrl-C would", metavar="ID")
    print: str | None = option("print YAML instead: kuberay (a RayJob) | skypilot", choices=["kuberay", "skypilot"])
    image: str | None = option("print: a container image with Remora (default for kuberay: remora:VERSION)")
    volume: str = option("print: the volume that is the run folder (default: remora-runs)", "remora-runs")
    gpus_per_node: int = option("print: GPUs of a machine (default: 8)", 8, metavar="N")
    tracking_uri: str | None = tracking_server()
    max_hours: float | None = max_hours()
    max_cost: float | None = max_cost()


@dataclass(frozen=True, kw_only=True)
class LogsOptions(Options):
    """the trainings and searches of the run folder: which work, how they ended, what happened in one"""

    name: str | None = argument("a variant, a search, or an id of the list (default: list them)", None)
    follow: bool = option("go on until it ends; without a name, of the newest", False)
    json: bool = all_as_json()


@dataclass(frozen=True, kw_only=True)
class StopOptions(Options):
    """stop a training or a search as Ctrl-C does, from any machine that sees the run folder"""

    name: str | None = argument("a variant, a search, or an id of `remora logs` (default: the one that works)", None)


@dataclass(frozen=True, kw_only=True)
class ResumeOptions(Options):
    """give a training or a search that was stopped, failed or killed once more"""

    name: str | None = argument("a variant, a search, or an id of `remora logs` (default: the newest)", None)
