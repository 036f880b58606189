"""One of several ranks on this machine, as `Local` starts them; torchrun's variables say which.

python -m remora.pipeline.rank RUNS FEED HANG_TIMEOUT
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from remora.carrier import carried
from remora.pipeline import worker
from remora.pipeline.feed import Feed
from remora.training.torchrun import ALONE, join, leave


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    runs, feed = Path(sys.argv[1]), Feed(Path(sys.argv[2]))
    with carried(runs / "logs"):
        join({name: os.environ[name] for name in ALONE}, float(sys.argv[3]))
        worker.train(feed, runs, lambda: False)


if __name__ == "__main__":
    main()
    leave()
