"""Finish the environment of `make vllm`, under its Python: what a CPU build of vLLM finds there that does not load.

PyPI's torchaudio, torchcodec and torchvision are CUDA builds, whose libraries do not load beside torch's CPU build. The
Makefile removes the first two. vLLM imports the third's Python part, which declares fakes of two operators that its
library would have defined; a sitecustomize.py declares them in every process that imports it, since vLLM looks at
models in a child.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

SITE = '''\
"""Operators that torchvision's CUDA build would define; written by Remora's `make vllm`."""
import sys


class Operators:
    """Declares them when torchvision is about to be imported."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for operator in ("nms", "qnms"):
                torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou) -> Tensor")


sys.meta_path.insert(0, Operators())
'''


def main() -> None:
    import torch

    if not torch.version.cuda:
        Path(sysconfig.get_paths()["purelib"], "sitecustomize.py").write_text(SITE)


if __name__ == "__main__":
    main()
