"""`remora submit`: train or search on a cluster that is elsewhere, follow the output, cancel; or write it down.

remora submit jobs/demo-base.yaml --address http://10.0.0.1:8265
remora submit --follow remora-train-…
remora submit --cancel remora-train-…
remora submit jobs/tinyllava-3b.yaml --print kuberay --image registry/remora:1 > job.yaml
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from remora import __version__
from remora.cluster import jobs, kuberay, skypilot
from remora.cluster.submission import Submission, as_yaml, environment, nodes_of
from remora.commands.operate_options import SubmitOptions
from remora.commands.saying import say
from remora.errors import SpecError
from remora.runs import read_survey, variant_name
from remora.sharing import around
from remora.spec.kinds import load_job
from remora.spec.settings import settings_of
from remora.spec.space import Space


def submit(options: SubmitOptions) -> None:
    """Submit and follow, or do what else was asked for.

    Raises:
        KeyboardInterrupt: Ctrl-C while following; the job goes on.
        RemoraError: an invalid spec, a cluster that does not answer, a job that failed.
    """
    address = jobs.address_of(options.address)
    if options.cancel:
        say(f"job {options.cancel}: {jobs.cancel(options.cancel, address).lower()}")
        return
    if options.follow:
        _follow(options.follow, address)
        return
    if options.spec is None:
        raise SpecError("submit takes a SPEC, --follow ID or --cancel ID; next: remora submit jobs/demo-base.yaml")
    made = submission(options)
    if options.print:
        sys.stdout.write(_written(options, made))
        return
    env = {**made.env, **{name: os.environ[name] for name in made.secrets}}
    if (made.folder / "platform" / "remora").is_dir():
        env.setdefault("PYTHONPATH", "platform")  # the code of this folder, not what the cluster has installed
    job = jobs.submit(made, address, runs_there(options), env)
    say(f"job {job} at {address}: {made.command(runs_there(options))}")
    if options.detach:
        say(f"next: remora submit --follow {job}")
        return
    _follow(job, address)


def _follow(job: str, address: str) -> None:
    try:
        jobs.follow(job, address, _pass_on)
    except KeyboardInterrupt:
        say(
            f"the job goes on; next: remora submit --follow {job} --address {address}",
            f"or end it: remora submit --cancel {job} --address {address}",
        )
        raise


def _pass_on(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def submission(options: SubmitOptions) -> Submission:
    """What a spec asks for, read and checked here, before anything is sent.

    Raises:
        SpecError: the spec is invalid or outside of the working folder; a variable is not set.
    """
    assert options.spec is not None
    folder = options.working_dir.expanduser().absolute()
    spec = Path(options.spec).expanduser().absolute()
    if not spec.is_relative_to(folder):
        raise SpecError(f"{spec} is not in {folder}, which is what is sent; next: --working-dir {spec.parent}")
    kinds = ("space",) if options.smoke else ("variant", "space")
    job, _ = load_job(spec, *kinds, smoke=options.smoke, settings=settings_of(options.settings))
    read_survey(spec, options.smoke, options.settings)  # finds what does not fit together
    space = job if isinstance(job, Space) else None
    words = ["--smoke"] * options.smoke
    for setting in options.settings:
        words += ["--set", setting]
    given = {"--max-hours": options.max_hours, "--max-cost": options.max_cost, "--tracking-uri": options.tracking_uri}
    words += [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    env, secrets = environment(options.env)
    if not options.print and (unset := [name for name in secrets if name not in os.environ]):
        raise SpecError(f"--env {unset[0]}: it is not set here; give it as {unset[0]}=VALUE")
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(("http://", "https://")) and not options.tracking_uri:
        env.setdefault("MLFLOW_TRACKING_URI", uri)
    return Submission(
        verb="search" if isinstance(job, Space) else "train",
        name=job.name if isinstance(job, Space) else variant_name(job),
        folder=folder,
        spec=spec.relative_to(folder),
        cluster=job.cluster,
        groups=(space.concurrent if space else None) or 1,
        words=tuple(words),
        env=env,
        secrets=secrets,
    )


def runs_there(options: SubmitOptions) -> str | None:
    """The run folder if one was named; else the cluster's own default. A URL stays one: there, this machine's node
    folder would be a plain folder."""
    if shared := around(options.runs):
        return shared.url
    return None if options.runs == Path.home() / "remora" else str(options.runs)


def _written(options: SubmitOptions, made: Submission) -> str:
    """Raises:
    SpecError: the run folder is a URL, and the job's would be a volume.
    """
    if shared := around(options.runs):
        raise SpecError(
            f"the run folder is {shared.url}, and what --print writes has the volume {options.volume} instead; next: "
            "without --runs and REMORA_RUNS, or write the URL into what is printed"
        )
    nodes = nodes_of(made, options.gpus_per_node)
    if options.print == "kuberay":
        image = options.image or f"remora:{__version__}"
        return as_yaml(*kuberay.documents(made, nodes, image, options.volume))
    return as_yaml(skypilot.task(made, nodes, options.image, options.volume))
