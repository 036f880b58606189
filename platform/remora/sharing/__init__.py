"""A run folder that is a URL: what is published is shared there, for nodes without a common disk.

    remora train jobs/demo-base.yaml --runs s3://bucket/runs

Each node works in a folder of its own, its node folder (node.py), which is a run folder like any other. What is
published there is sent to the URL, and what another node published is brought from there (folders.py). Leases are
objects at the URL (leases.py). All of it rests on one ability of the store: to create an object unless it exists
(objects.py).
"""

from remora.sharing.folders import SharedRuns, around
from remora.sharing.leases import LeaseHeld, SharedLeases
from remora.sharing.node import node_folder

__all__ = ["LeaseHeld", "SharedLeases", "SharedRuns", "around", "node_folder"]
