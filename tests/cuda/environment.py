"""Make this environment's packages visible in a second one, after its own.

.venv/bin/python tests/cuda/environment.py .venv-cuda
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path


def main() -> None:
    base = Path(sys.argv[1]).resolve()
    seen = sysconfig.get_path("purelib")
    other = sysconfig.get_path("purelib", vars={"base": str(base), "platbase": str(base)})
    # `addsitedir` reads that folder's .pth files, too: remora itself may be an editable install.
    Path(other, "zz-beside.pth").write_text(f"import site; site.addsitedir({seen!r})\n")


if __name__ == "__main__":
    main()
