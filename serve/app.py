"""The application that Ray Serve imports: edit here what every endpoint of yours should have.

    serve run serve.app:build min_replicas=1        # from the repository root, which Ray then ships to its workers
    serve deploy serve/local.yaml                   # on a running cluster (ray start --head)

`serve deploy` ships nothing, so serve/local.yaml names `remora.serving.app:build`, which is installed on every node. To
deploy this file instead, put its folder on the nodes' PYTHONPATH, or name a zip of it as the application's
`runtime_env: {working_dir: ...}`, and change the YAML's import_path to `serve.app:build`.
"""

from remora.serving.app import build

__all__ = ["build"]
