"""Jobs on a Ray cluster that runs elsewhere, through Ray's job service: submit, follow the output, cancel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from remora.cluster.session import token_file
from remora.cluster.submission import EXCLUDED, Submission
from remora.cluster.watch import alive
from remora.errors import ClusterError, WorkerError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DEFAULT = "http://127.0.0.1:8265"
STOPPING = 60.0
"""Seconds that a cancelled job has to end: its checkpoint is written first."""
LOOK_EVERY = 0.5


def address_of(given: str | None) -> str:
    """Where jobs are taken: an address that was given, or as `ray job submit` finds one."""
    found = given or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or DEFAULT
    if re.fullmatch(r"[^/:]+:8265", found):
        return f"http://{found}"
    return found.rstrip("/")


@contextlib.contextmanager
def job_service(address: str) -> Iterator[JobSubmissionClient]:
    """Ray's client. Its errors become a line each; the token is sent if there is one.

    Raises:
        ClusterError: nothing answers at the address, it refuses us, or refuses the call.
    """
    place = re.fullmatch(r"(?:https?://)?([^/:]+|\[[^]]+\]):(\d{1,5})", address)
    if place and not alive(f"{place[1]}:{place[2]}", slow=True):
        raise ClusterError(
            f"no Ray cluster takes jobs at {address}: nothing listens there; next: --address http://HEAD:8265, "
            "or start one: ray start --head"
        )
    _use_token()
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for module in ("dashboard_sdk", "job.sdk"):  # a line for each upload; each has a level of its own
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
    try:
        yield JobSubmissionClient(address)
    except AuthenticationError as e:
        raise ClusterError(
            f"{address} refuses us: {_first(e)}; next: RAY_AUTH_TOKEN_PATH=FILE with the cluster's token "
            "(`ray get-auth-token` on its head), RAY_AUTH_MODE=token"
        ) from e
    except (ConnectionError, RuntimeError, ValueError) as e:
        raise ClusterError(f"{address}: {_first(e)}; next: ray job list --address {address}") from e


def _use_token() -> None:
    """Ray's client sends a token only if RAY_AUTH_MODE says so; `ray start --head` demands one where it finds one."""
    if "RAY_AUTH_MODE" not in os.environ and (os.environ.get("RAY_AUTH_TOKEN") or token_file().is_file()):
        os.environ["RAY_AUTH_MODE"] = "token"


def submit(submission: Submission, address: str, runs: str | None, env: dict[str, str]) -> str:
    """Send the working folder and start the command there; returns the job's id.

    Args:
        runs: The run folder, as the cluster's machines name it; theirs if None.
        env: The job's variables, secrets among them.

    Raises:
        ClusterError: as `job_service`.
    """
    excluded = list(EXCLUDED)
    if runs and Path(runs).is_relative_to(submission.folder):
        excluded.append(Path(runs).relative_to(submission.folder).as_posix())
    with job_service(address) as client:
        return client.submit_job(
            entrypoint=submission.command(runs),
            submission_id=f"{submission.label}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}",
            runtime_env={"working_dir": str(submission.folder), "excludes": excluded, "env_vars": env},
            metadata={"remora": submission.verb, "spec": submission.spec.as_posix()},
        )


def follow(job: str, address: str, tell: Callable[[str], None]) -> None:
    """Pass on a job's output until it ends, from its beginning; a lost connection is taken up again.

    Raises:
        WorkerError: the job failed.
        ClusterError: as `job_service`, or there is no such job.
    """
    with job_service(address) as client:
        _known(client, job, address)
        told = 0
        while True:
            over = client.get_job_status(job).is_terminal()
            told = asyncio.run(_told(client, job, told, tell))
            if over:
                break
            time.sleep(LOOK_EVERY)
        info = client.get_job_info(job)
        if info.status == "FAILED":
            reason = (info.message or "").strip().splitlines()
            raise WorkerError(
                f"job {job} failed: {reason[-1] if reason else 'no reason was given'}; what was finished is kept; "
                "next: the same command again"
            )


async def _told(client: JobSubmissionClient, job: str, told: int, tell: Callable[[str], None]) -> int:
    """Pass on what follows the first `told` characters; returns how many there are now."""
    seen = 0
    with contextlib.suppress(OSError):  # the connection was lost
        async for piece in client.tail_job_logs(job):
            seen += len(piece)
            if seen > told:
                tell(piece[-(seen - told) :])
                told = seen
    return told


def cancel(job: str, address: str) -> str:
    """Ask a job to end as Ctrl-C does, and wait until it has; returns its last status.

    Raises:
        ClusterError: as `job_service`, there is no such job, or it does not end.
    """
    with job_service(address) as client:
        _known(client, job, address)
        if not client.get_job_status(job).is_terminal():
            client.stop_job(job)
        end = time.monotonic() + STOPPING
        while not (status := client.get_job_status(job)).is_terminal():
            if time.monotonic() > end:
                raise ClusterError(
                    f"job {job} has not ended after {STOPPING:.0f} s; next: remora submit --cancel {job}"
                )
            time.sleep(LOOK_EVERY)
        return str(status.value)


def _known(client: JobSubmissionClient, job: str, address: str) -> None:
    """Raises:
    ClusterError: there is no such job.
    """
    there = [each.submission_id for each in client.list_jobs() if each.submission_id]
    if job not in there:
        raise ClusterError(f"{address} has no job {job!r}; it has: {', '.join(there[-8:]) or 'none'}")


def _first(error: BaseException) -> str:
    """What a chained error says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
