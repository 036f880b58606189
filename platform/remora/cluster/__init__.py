"""Ray: thin adapters for Train, Tune and evaluation on a cluster. Nothing outside this room and serving imports Ray."""
