"""`remora serve`: serve a model until Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable

from remora.commands.options import ServeOptions
from remora.commands.run import say, say_nothing
from remora.serving import champion
from remora.serving.args import EndpointArgs
from remora.serving.client import curl_command
from remora.serving.deploy import serve_forever
from remora.tracking import find_model


def serve(options: ServeOptions) -> None:
    """Serve a model until Ctrl-C, and print how to ask it."""

    def ready(url: str, name: str) -> None:
        say(f"ready: {url}/v1")
        say(f"ask it (replace picture.png by your own picture; model {name!r}), stop it with Ctrl-C:")
        say(curl_command(url, "picture.png", "What is in the picture?", name))

    served(options, ready, say)


def served(options: ServeOptions, ready: Callable[[str, str], None], tell: Callable[..., None] = say_nothing) -> None:
    """Serve a model until SIGINT or SIGTERM; `ready` gets the endpoint's URL and the model's name there.

    Raises:
        RemoraError: no such model, a port in use, a cluster that does not answer.
    """
    # Resolved once, here: errors show at once, and replicas that start later serve the same version.
    model = find_model(options.model, options.runs, options.tracking_uri)
    name = model.registered or model.name
    endpoint = EndpointArgs(model=name, alias=model.name, runs=options.runs, tracking_uri=options.tracking_uri)
    tell(f"serving {model.shown}")
    tell(f"starting Ray and {endpoint.min_replicas} replicas, each of which loads the model")
    serve_forever(
        endpoint,
        host=options.host,
        port=options.port,
        address=options.address,
        ready=lambda url: ready(url, name),
        load=champion.loader(model),
    )
