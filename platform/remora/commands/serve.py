"""`remora serve`: a model behind an endpoint, until Ctrl-C."""

from __future__ import annotations

import argparse

from remora.commands.run import say
from remora.serving import champion
from remora.serving.args import EndpointArgs
from remora.serving.client import curl_command
from remora.serving.deploy import serve_forever
from remora.tracking import find_model


def serve(args: argparse.Namespace) -> None:
    """Serve a model until Ctrl-C."""
    # Found here, once: what is wrong is reported at once, and a replica that starts tomorrow serves what today's do.
    model = find_model(args.model, args.runs, args.tracking_uri)
    name = model.registered or model.name
    endpoint = EndpointArgs(model=name, alias=model.name, runs=args.runs, tracking_uri=args.tracking_uri)
    say(f"serving {model.shown}")
    say(f"starting Ray and {endpoint.min_replicas} replicas, each of which loads the model")

    def ready(url: str) -> None:
        say(f"ready: {url}/v1")
        say(f"ask it (with a picture of your own for picture.png; model {name!r}), stop it with Ctrl-C:")
        say(curl_command(url, "picture.png", "What is in the picture?", name))

    load = champion.loader(model)
    serve_forever(endpoint, host=args.host, port=args.port, address=args.address, ready=ready, load=load)
