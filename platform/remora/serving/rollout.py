"""`serve deploy` with the versions that aliases point at now.

Ray builds an application anew only when its config changed, so deploying a file again after its alias moved changes
nothing: the version belongs to what was deployed. With the version written into the config, Ray sees the change and
replaces the replicas one by one.

    python serve/deploy.py serve/local.yaml
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from remora.errors import RemoraError, SpecError
from remora.serving.args import EndpointArgs
from remora.serving.champion import pinned

APPLICATIONS = ("remora.serving.app:build", "serve.app:build")


def with_versions(config: dict[str, Any]) -> dict[str, Any]:
    """A Serve config whose endpoints name the version that their alias points at now, unless they name one.

    Raises:
        SpecError: an argument that breaks a rule.
        TrackingError: no such model, alias or version.
    """
    applications = []
    for application in config.get("applications") or []:
        if application.get("import_path") in APPLICATIONS:
            args = application.get("args") or {}
            application = {**application, "args": {**args, "version": pinned(EndpointArgs.read(args)).version}}
        applications.append(application)
    return {**config, "applications": applications}


def main(argv: list[str]) -> int:
    """Deploy the config file `argv[0]`; further arguments are `serve deploy`'s own."""
    try:
        file, *options = argv
        config = with_versions(yaml.safe_load(Path(file).read_text()))
    except ValueError:
        return _failed(SpecError("name a Serve config; next: python serve/deploy.py serve/local.yaml"))
    except OSError as e:
        return _failed(SpecError(f"{argv[0]}: cannot be read ({e.strerror}); next: python serve/deploy.py FILE"))
    except yaml.YAMLError as e:
        return _failed(SpecError(f"{argv[0]}: not YAML: {' '.join(str(e).split())[:200]}"))
    except RemoraError as e:
        return _failed(e)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as resolved:
        yaml.safe_dump(config, resolved)
        resolved.flush()
        return subprocess.run(["serve", "deploy", resolved.name, *options], check=False).returncode


def _failed(error: RemoraError) -> int:
    sys.stderr.write(f"remora: {error}\n")
    return 1
