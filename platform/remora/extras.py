"""The extras of pyproject.toml: the packages each adds to the core, and the line that names the missing one.

A package that is not installed becomes a RemoraError: `with needs("train", "ray"): ...`
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec

from remora.errors import RemoraError

_MODEL = {
    *("torch", "transformers", "tokenizers", "sentencepiece", "safetensors", "peft", "accelerate", "huggingface_hub"),
    *("scipy", "threadpoolctl"),
}
_TRACK = {"mlflow", "sqlalchemy", "alembic"}
EXTRAS = {
    "model": _MODEL,
    "track": _TRACK,
    "train": {*_MODEL, *_TRACK, "deepspeed", "ray", "tensorboardX", "optuna"},
    "s3": {"s3fs"},
    "serve": {*_MODEL, *_TRACK, "ray", "fastapi", "starlette", "uvicorn", "prometheus_client"},
}
"""Extra -> the modules that it brings, by the name they are imported by."""


@contextlib.contextmanager
def needs(extra: str, *first: str) -> Iterator[None]:
    """Name the extra to install if the block imports a package that is not there, or one of `first` cannot be.

    Those in `first` are looked for without being imported, so that a verb refuses before it has done anything.

    Raises:
        RemoraError: the package is missing; `extra` is named if it has it, or else another extra that does.
    """
    try:
        for package in first:
            if find_spec(package) is None:
                raise ModuleNotFoundError(name=package)
        yield
    except ModuleNotFoundError as e:
        if line := missing(e, extra):
            raise RemoraError(line) from e
        raise


def missing(error: ModuleNotFoundError, extra: str) -> str | None:
    """The line for a package of ours that is not installed; None for any other module."""
    package = (error.name or "").partition(".")[0]
    having = [name for name, packages in EXTRAS.items() if package in packages]
    if not having:
        return None
    best = (
        having[0] if extra in EXTRAS and extra not in having else extra
    )  # `demo`, which has them all, is not in EXTRAS
    return f"{package} is not installed; next: pip install 'remora[{best}]'"
