"""The page at `/`: one file without parts from elsewhere, whose script and style run by their hashes.

It asks the endpoint that sent it, keeps the conversation in the tab, and a key only until the tab is closed.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import Response

FILE = Path(__file__).with_name("page.html")


def page(app: FastAPI) -> None:
    """Add the route to `app`."""

    @app.api_route("/", methods=["GET", "HEAD"], response_model=None)
    async def root() -> Response:
        """The page: ask in a browser, see scores and lineage."""
        content, policy = _page()
        headers = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-cache",
        }
        return Response(content, media_type="text/html", headers=headers)


@cache
def _page() -> tuple[bytes, str]:
    """The file, and the policy by which a browser runs this script and style and no other."""
    content = FILE.read_bytes()
    script, style = (_sources(content, tag) for tag in (b"script", b"style"))
    return content, (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _sources(content: bytes, tag: bytes) -> str:
    found = re.findall(b"<%b>(.*?)</%b>" % (tag, tag), content, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one).digest()).decode()}'" for one in found)
