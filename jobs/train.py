"""Train and measure one variant: what `remora train` does, for `ray job submit`.

python jobs/train.py jobs/demo-base.yaml
ray job submit --working-dir . -- python jobs/train.py jobs/demo-base.yaml
"""

import sys

from remora.cli import main

if __name__ == "__main__":
    main(["train", "--plain", *sys.argv[1:]])
