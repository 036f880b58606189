"""`remora demo` with a tiny space and little data; everything else is the real command.

python tiny_demo.py --runs DIR --out FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

from remora.cli import main
from remora.commands import demo
from remora.demo import build_demo, shapes

TEST_PICTURES = 60
"""Of easy-VQA's thousand."""

published = shapes.published
shapes.published = lambda part: published(part)[: TEST_PICTURES if part == "test" else None]
demo.SPACE = Path(__file__).with_name("tiny.yaml")
demo.build = lambda runs, console: build_demo(runs / "data" / "demo", limit=10)

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
