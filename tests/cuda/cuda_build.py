"""Importing this fails unless torch is a CUDA build. torch itself is not imported to find out."""

from __future__ import annotations

import runpy
from importlib.util import find_spec
from pathlib import Path

NEEDED = "torch is a CPU build here; next: make check-cuda"

_torch = find_spec("torch")
if _torch is None or not _torch.origin or not runpy.run_path(str(Path(_torch.origin).with_name("version.py")))["cuda"]:
    raise ImportError(NEEDED)
