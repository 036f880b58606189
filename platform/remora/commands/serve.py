"""`remora serve`: serve a model, or several, until Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable

from remora.commands.canary import rule_settings
from remora.commands.endpoint_options import ServeOptions
from remora.commands.run import say, say_nothing
from remora.errors import ServingError, SpecError
from remora.inference.vllm.process import vllm_python
from remora.serving import champion
from remora.serving.args import EndpointArgs, ModelArgs
from remora.serving.canary.args import CanaryArgs
from remora.serving.canary.candidate import candidate_of
from remora.serving.champion import ModelSource
from remora.serving.client import KEY, curl_command
from remora.serving.deploy import serve_forever
from remora.serving.keys import ApiKey, hash_of, new_key
from remora.spec.base import validate
from remora.spec.strict_yaml import parse_yaml
from remora.tracking import Model, find_model


def serve(options: ServeOptions) -> None:
    """Serve a model until Ctrl-C, and print how to ask it."""

    def ready(url: str, name: str, key: str | None) -> None:
        say(f"ready: {url}/v1")
        if key is not None:
            say(f"its key, until it stops (--keys FILE for lasting ones, --no-keys for none): export {KEY}={key}")
        say(f"its page: {url}/{'' if key is None else f'#key={key}'}")
        say(f"ask it (replace picture.png by your own picture; model {name!r}), stop it with Ctrl-C:")
        say(curl_command(url, "picture.png", "What is in the picture?", name, keyed=not options.no_keys))

    served(options, ready, say)


def served(
    options: ServeOptions, ready: Callable[[str, str, str | None], None], tell: Callable[..., None] = say_nothing
) -> None:
    """Serve a model until SIGINT or SIGTERM; `ready` gets the endpoint's URL, the model's name there, and its key if
    one was made, because the options name no file of keys and do not turn them off.

    Raises:
        RemoraError: no such model, a port in use, a cluster that does not answer.
    """
    key = new_key() if options.keys is None and not options.no_keys else None
    keys = options.keys if key is None else {"this run": ApiKey(sha256=hash_of(key))}
    if options.no_keys and options.keys is not None:
        raise ServingError("--keys and --no-keys contradict each other; leave one out")
    if options.engine == "vllm" and options.address is None:  # on a cluster, its nodes' environments count
        vllm_python()
    # Looked for here, so that errors show before Ray starts.
    found = [find_model(each, options.runs, options.tracking_uri) for each in options.model]
    first, *further = (
        _named(model, given.rpartition("@")[2], options.pin) for given, model in zip(options.model, found, strict=True)
    )
    endpoint = EndpointArgs(
        **first.model_dump(exclude_none=True),
        runs=options.runs,
        tracking_uri=options.tracking_uri,
        keys=keys,
        no_keys=options.no_keys,
        trace=options.trace,
        engine=options.engine,
        models=tuple(further),
        weights=options.weights,
        canary=_canary(options),
    )
    sources = [_source(model, one) for model, one in zip(found, endpoint.resolved().each(), strict=True)]
    candidate = None if endpoint.canary is None else candidate_of(endpoint.resolved(), sources[0])
    for model, one in zip(found, endpoint.each(), strict=True):
        tell(f"serving {model.shown}{f', and follows {one.alias!r}' if one.version is None else ''}")
    if candidate is not None and endpoint.canary is not None:
        if candidate.version == sources[0].wanted():
            tell(f"no canary: {endpoint.canary.model} is version {candidate.version}, the one that is served already")
        else:
            tell(f"version {candidate.version} ({endpoint.canary.model}) beside it, first in the shadow")
            tell(f"its rule: {endpoint.canary.rule.words}; next: remora canary show {endpoint.model}")
    count = sum(one.min_replicas for one in endpoint.each())
    tell(f"starting Ray and {count} replicas, each of which loads {'a' if further else 'the'} model")
    serve_forever(
        endpoint,
        host=options.host,
        port=options.port,
        address=options.address,
        ready=lambda url: ready(url, endpoint.model, key),
        sources=sources,
        candidate=candidate,
    )


def _canary(options: ServeOptions) -> CanaryArgs | None:
    """Raises:
    SpecError: a value that breaks a rule, or settings of a canary without one.
    """
    if options.canary is None:
        standard = ServeOptions()
        settings = [n for n in ("shadow", "share", "rule", "no_promote") if getattr(options, n) != getattr(standard, n)]
        if settings:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in settings)
            raise SpecError(f"{named}: of a canary, and there is none; next: remora serve name@alias --canary MODEL")
        return None
    said = {
        "model": options.canary,
        "shadow": options.shadow,
        "share": [parse_yaml(share, f"--share {options.share}")[0] for share in options.share.split(",") if share],
        "promote": not options.no_promote,
        "rule": rule_settings(options.rule),
    }
    return validate(CanaryArgs, said, "canary")


def _named(model: Model, label: str, pin: bool) -> ModelArgs:
    """A model as the endpoint names it; with its version, unless it follows an alias."""
    if model.registered is None:
        return ModelArgs(model=model.name, alias=model.name, version=champion.version_of(model))
    if label.removeprefix("v").isdecimal():
        return ModelArgs(model=model.registered, alias=model.name, version=model.version)
    return ModelArgs(model=model.registered, alias=label, version=model.version if pin else None)


def _source(model: Model, args: EndpointArgs) -> ModelSource:
    return ModelSource(args) if model.registered else ModelSource(args, champion.loader(model))
