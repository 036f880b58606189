"""Run the endpoint until it is stopped, on a running cluster or on one started for it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from remora.carrier import unpack
from remora.cluster.session import ray_session
from remora.errors import ServingError, first_line
from remora.serving import champion
from remora.serving.args import EndpointArgs
from remora.serving.canary.trial import CandidateSource
from remora.serving.champion import ModelSource, ServedModel
from remora.serving.keys import is_loopback, read_keys, written

NAME = "remora"
HEALTHY_S = 60.0
FAST = {
    # Between proxy and replicas by gRPC, and one event loop a process. Serve's defaults (calls of actors, and a loop
    # each for Serve, its router and the application) cost a request a third more time (docs/serving-speed.md).
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # Pictures at an encoder's size, of all turns; Serve's 4 MiB are less than eight of 512 x 512.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(256 * 2**20),
}
"""Settings of Serve, for a cluster that is started here."""


def serve_forever(
    args: EndpointArgs,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    address: str | None = None,
    ready: Callable[[str], None] | None = None,
    load: Callable[[EndpointArgs], ServedModel] = champion.load,
    sources: Sequence[ModelSource] | None = None,
    candidate: CandidateSource | None = None,
) -> None:
    """Deploy the endpoint, call `ready` with its URL, and block until SIGINT or SIGTERM.

    `sources` are the models, if they are not those that the arguments name, each loaded by `load`; `candidate` is that
    of `args.canary`, if it is known already.
    With `address` (or RAY_ADDRESS) that cluster is used and left running; otherwise one is started and stopped here.

    Raises:
        SpecError: not a key file.
        ServingError: no keys and not on loopback, the port is in use, the cluster has an endpoint already, or the
            deployment failed.
        ClusterError: no cluster at `address`.
    """
    args.check_keys()
    if args.no_keys and not is_loopback(host):
        raise ServingError(
            f"an endpoint without keys listens on this machine only (127.0.0.1), not on {host}; next: --keys FILE"
        )
    if isinstance(args.keys, Path):
        read_keys(args.keys)
    ours = not (address or os.environ.get("RAY_ADDRESS"))
    if ours:
        _refuse_port_in_use(host, port)
    from remora.serving.front import KEYS, VARIABLE

    keys = args.resolved().keys
    told = {KEYS: written(keys)} if keys else {}
    if ours:  # what was exported for another endpoint is not this one's
        os.environ.pop(KEYS, None)
    env = {
        VARIABLE: "remora.serving.front:middlewares",
        **told,
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a dead proxy is restarted after 3 of these
        # One that is slow on a busy machine lives; a kill would end all its connections.
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
        # Ray gives its workers what other processes leave over: 3 % of a busy machine.
        "RAY_worker_niceness": "0",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",  # after 5 s a busy machine's would be killed while it loads
    }
    if ours:
        env |= FAST
    from remora.serving.replica import delete_app, delete_versions

    with ray_session(address, env, dashboard=False), _sigterm_as_interrupt(), contextlib.suppress(KeyboardInterrupt):
        owns_serve = _start(host, port)
        try:
            _deploy(args, sources or champion.sources(args, load), candidate)
            url = _url(host, port)
            _wait_until_healthy(url)
            if ready is not None:
                ready(url)
            threading.Event().wait()
        finally:
            # First: shutting down alone kills the proxy and drops requests in progress.
            delete_app(NAME)
            delete_versions(NAME)  # if its fleet did not live to do it
            if owns_serve and not ours:  # our own cluster ends with Serve
                from ray import serve

                serve.shutdown()


def _start(host: str, port: int) -> bool:
    """Start Serve unless it runs already, as on a joined cluster; returns whether it was started here."""
    from ray import serve

    from remora.serving.replica import REQUEST_TIMEOUT_S

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    status = serve.status()
    if not status.proxies:
        _refuse_port_in_use(host, port)
        serve.start(http_options={"host": host, "port": port, "request_timeout_s": REQUEST_TIMEOUT_S})
        return True
    if NAME in status.applications:
        raise ServingError(
            f"one endpoint a cluster: an application {NAME!r} is deployed on this one already; "
            "next: serve status, then serve shutdown or another --address"
        )
    if not _answers(f"{_url(host, port)}/-/healthz"):
        raise ServingError(
            f"one Serve a cluster: it runs on this one already, and not at {host}:{port}; "
            "next: --host and --port as in its http_options"
        )
    return False


def _deploy(args: EndpointArgs, sources: Sequence[ModelSource], candidate: CandidateSource | None = None) -> None:
    from ray import serve

    from remora.serving.app import application
    from remora.serving.replica import delete_versions

    delete_versions(NAME)  # of an endpoint that was killed
    try:
        serve.run(application(args, sources, candidate), name=NAME, route_prefix="/")
    except RuntimeError as e:
        status = serve.status().applications.get(NAME)
        told = [d.message for d in status.deployments.values()] if status else []
        if error := unpack(str(e), *told):
            raise error from None
        raise ServingError(f"the endpoint could not be deployed: {first_line(e)}; next: serve status") from e


def _refuse_port_in_use(host: str, port: int) -> None:
    if not 0 < port < 2**16:
        raise ServingError(f"a port is a number from 1 to 65535; found {port}; next: --port 8000")
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as e:
        reason = os.strerror(e.errno) if e.errno else str(e)
        raise ServingError(
            f"the endpoint needs a free port: {host}:{port} cannot be used ({reason}); next: --port {port % 65535 + 1}"
        ) from None


def _url(host: str, port: int) -> str:
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _wait_until_healthy(url: str) -> None:
    end = time.monotonic() + HEALTHY_S
    while not _answers(f"{url}/healthz"):
        if time.monotonic() > end:
            raise ServingError(f"the endpoint is deployed but {url}/healthz does not answer; next: serve status")
        time.sleep(0.2)


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Enter it after ray.init, whose own SIGTERM handler would end the process during open requests."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
