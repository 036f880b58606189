"""The options of the verbs that keep things going: runs, doctor."""

from dataclasses import dataclass

from remora.commands.declaring import argument, option
from remora.commands.options import Options, all_as_json, tracking_server


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
