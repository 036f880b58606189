"""Which stage run is trained next: a forest of stage runs, the longest remaining path first.

With several groups of workers the time of a search is that of its longest path, so what lies on it is never kept
waiting for what does not (Hu, Parallel Sequencing and Assembly Line Problems, 1961: optimal for trees of equal tasks).
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, Literal, TypeVar

Key = TypeVar("Key", bound=Hashable)
NodeState = Literal["waiting", "ready", "running", "paused", "done", "failed"]


@dataclass
class _Node(Generic[Key]):
    key: Key
    parent: _Node[Key] | None
    cost: float
    order: int
    state: NodeState = "waiting"
    rest: float = 0.0
    """Of the longest path from here to a leaf, with this node."""
    children: list[_Node[Key]] = field(default_factory=list)


class Schedule(Generic[Key]):
    """Nodes are added as paths; each becomes ready when its parent is done."""

    def __init__(self) -> None:
        self._nodes: dict[Key, _Node[Key]] = {}
        self._ready: list[tuple[float, int, int, Key]] = []
        self._order = count()
        self._pushes = count()

    def add(self, key: Key, parent: Key | None, cost: float, done: bool = False) -> None:
        """A node below one that is known, or a root. A node that is known already stays as it is."""
        if key in self._nodes:
            return
        above = None if parent is None else self._nodes[parent]
        node = _Node(key, above, cost, next(self._order), "done" if done else "waiting", cost)
        self._nodes[key] = node
        if above:
            above.children.append(node)
        self._lengthen(node)
        self._look(node)

    def state(self, key: Key) -> NodeState:
        return self._nodes[key].state

    def pop(self) -> Key | None:
        """The ready node with the longest path below it, which is running from now on; None if none is ready."""
        while self._ready:
            rest, _, _, key = heapq.heappop(self._ready)
            node = self._nodes[key]
            if node.state == "ready" and -rest == node.rest:
                node.state = "running"
                return key
        return None

    def put_back(self, key: Key) -> None:
        """A running node that is to be run again."""
        node = self._nodes[key]
        node.state = "waiting"
        self._look(node)

    def pause(self, key: Key) -> None:
        self._nodes[key].state = "paused"

    def resume(self, key: Key, cost: float) -> None:
        """A paused node is ready again, with what is left of it to pay."""
        node = self._nodes[key]
        node.state, node.cost = "waiting", cost
        node.rest = cost
        self._look(node)

    def done(self, key: Key) -> None:
        """Its children may start."""
        node = self._nodes[key]
        node.state = "done"
        for child in node.children:
            self._look(child)

    def fail(self, key: Key) -> list[Key]:
        """Neither it nor what needs it will be run; all of these."""
        failed, left = [], [self._nodes[key]]
        while left:
            node = left.pop()
            if node.state not in ("done", "failed"):
                node.state = "failed"
                failed.append(node.key)
                left += node.children
        return failed

    def _lengthen(self, node: _Node[Key]) -> None:
        """Tell the nodes above how long their longest path is now."""
        while above := node.parent:
            if above.cost + node.rest <= above.rest:
                return
            above.rest = above.cost + node.rest
            if above.state == "ready":
                self._push(above)
            node = above

    def _look(self, node: _Node[Key]) -> None:
        if node.state == "waiting" and (node.parent is None or node.parent.state == "done"):
            node.state = "ready"
            self._push(node)

    def _push(self, node: _Node[Key]) -> None:
        heapq.heappush(self._ready, (-node.rest, node.order, next(self._pushes), node.key))
