"""Deploy a Serve config with the versions that its aliases point at now: how a moved champion reaches the endpoint.

python serve/deploy.py serve/local.yaml          # serve deploy's options may follow
"""

import sys

from remora.serving.rollout import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
