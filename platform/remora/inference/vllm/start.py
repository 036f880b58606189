"""Start a worker under the Python of vLLM's environment, where Remora is not installed; process.py does.

    PYTHON start.py SOCKET < options.json

Of Remora a worker imports the rule by which tokens are chosen, from the sources beside this file. They need nothing
that vLLM does not bring.
"""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from pathlib import Path


def find_remora() -> None:
    """Make this file's own Remora importable, and nothing else of its environment."""
    root = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location(
        "remora", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["remora"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)


def main() -> None:
    """Run a worker for whoever has the other end of the socket."""
    peer, options = socket.socket(fileno=int(sys.argv[1])), json.loads(sys.stdin.read())
    del sys.path[0]  # this folder, whose modules have names like others'
    find_remora()
    from remora.inference.vllm.worker import work

    work(peer, options)


if __name__ == "__main__":
    main()
