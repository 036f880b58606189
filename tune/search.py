"""Search a space: what `remora search` does, for `ray job submit`.

python tune/search.py tune/demo.yaml
ray job submit --working-dir . -- python tune/search.py tune/demo.yaml
"""

import sys

from remora.cli import main

if __name__ == "__main__":
    main(["search", "--plain", *sys.argv[1:]])
