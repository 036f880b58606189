"""Who sends a request: what stays on one version. Where it stands among all is `versions.place`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal

OPENING: tuple[object, ...] = ("system", "developer", "user")
"""Messages with which a conversation begins: they stay while it grows."""


def client_of(
    sticky: Literal["client", "conversation"],
    key_name: str | None,
    user: object,
    messages: Sequence[object],
) -> str:
    """What stays on one version. Two clients differ, and one is the same in all its requests.

    Args:
        key_name: Of the key that the request was sent with; None without keys.
        user: The request's `user`; whatever it is, it is the client's own word.
        messages: As they were sent, and unchecked.
    """
    if sticky == "client" and (user or key_name is not None):
        return json.dumps(["client", key_name, user if isinstance(user, str) else None])
    opening: list[object] = []
    for message in messages:
        if not isinstance(message, Mapping) or message.get("role") not in OPENING:
            break
        opening.append([message.get("role"), message.get("content")])
        if message.get("role") == "user":
            break
    return json.dumps(["conversation", key_name, opening], sort_keys=True, default=str)
