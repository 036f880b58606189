"""`serve deploy`, after a look at what the config says: the endpoints' keys and host, and that their models are there.

Endpoints follow their aliases. Where one does not (`follow: false`), the version that its alias names now is written
into the config: Ray rebuilds an application only if its config changed, so deploying it again would change nothing.

    python serve/deploy.py serve/local.yaml
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from remora.errors import RemoraError, SpecError
from remora.serving.args import EndpointArgs
from remora.serving.champion import check, pinned
from remora.serving.keys import is_loopback

APPLICATIONS = ("remora.serving.app:build", "serve.app:build")


def with_versions(config: Any) -> dict[str, Any]:
    """A Serve config in which each endpoint that does not follow its alias names the version that it names now.

    Raises:
        SpecError: not a Serve config, an argument that breaks a rule, or no keys where others can ask.
        TrackingError: no such model, alias or version.
    """
    listed = config.get("applications") or [] if isinstance(config, dict) else None
    if not isinstance(listed, list) or not all(isinstance(application, dict) for application in listed):
        raise SpecError(
            "a Serve config is a mapping whose `applications` are a list of mappings, as in serve/local.yaml"
        )
    applications = []
    for application in listed:
        if application.get("import_path") in APPLICATIONS:
            args = {} if application.get("args") is None else application["args"]
            read = EndpointArgs.read(args)
            _check_host(config, read)
            check(read)
            versions = {} if read.follow else _pinned(args, read)
            application = {**application, "args": _as_seen_from_here({**args, **versions}, read)}
        applications.append(application)
    return {**config, "applications": applications}


def _pinned(args: Mapping[str, object], read: EndpointArgs) -> dict[str, object]:
    found = pinned(read)
    models = args.get("models")
    if not isinstance(models, list):
        return {"version": found.version}
    versions = [one.version for one in found.models]
    return {"version": found.version, "models": [{**a, "version": b} for a, b in zip(models, versions, strict=True)]}


def _as_seen_from_here(args: dict[str, object], read: EndpointArgs) -> dict[str, object]:
    """With absolute paths: the application is built elsewhere."""
    keys = {"keys": str(read.keys.expanduser().absolute())} if isinstance(read.keys, Path) else {}
    models = args.get("models")
    further = {"models": [{**one, **_bundle(one)} for one in models]} if isinstance(models, list) else {}
    return {**args, **keys, **further, **_bundle(args)}


def _bundle(args: Mapping[str, object]) -> dict[str, object]:
    named = args.get("bundle")
    folder = Path(named).expanduser() if isinstance(named, str) else None
    return {"bundle": str(folder.absolute())} if folder is not None and folder.is_dir() else {}


def _check_host(config: Mapping[str, object], args: EndpointArgs) -> None:
    args.check_keys()
    options = config.get("http_options")
    host = options.get("host", "127.0.0.1") if isinstance(options, dict) else "127.0.0.1"
    if args.no_keys and not is_loopback(str(host)):
        raise SpecError(
            f"http_options.host is {host}, and an endpoint without keys listens on 127.0.0.1 only; next: remora keys "
            "add NAME --file FILE, then `keys: FILE` below args"
        )


def main(argv: list[str]) -> int:
    """Deploy the config file `argv[0]`; further arguments are `serve deploy`'s own."""
    if not argv:
        return _failed(SpecError("name a Serve config; next: python serve/deploy.py serve/local.yaml"))
    file, *options = argv
    try:
        config = with_versions(yaml.safe_load(Path(file).read_bytes()))
    except OSError as e:
        return _failed(SpecError(f"{file}: cannot be read ({e.strerror}); next: python serve/deploy.py FILE"))
    except yaml.YAMLError as e:
        return _failed(SpecError(f"{file}: not YAML: {' '.join(str(e).split())[:200]}"))
    except RemoraError as e:
        return _failed(e)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as resolved:
        yaml.safe_dump(config, resolved)
        resolved.flush()
        # This Python's `serve`: an unactivated virtual environment has none on the PATH.
        serve = Path(sys.executable).with_name("serve")
        return subprocess.run([str(serve), "deploy", resolved.name, *options], check=False).returncode


def _failed(error: RemoraError) -> int:
    sys.stderr.write(f"remora: {error}\n")
    return 1
