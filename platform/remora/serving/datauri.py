"""The bytes of a data: URL, in all forms that clients send: with line breaks, url-safe, unpadded, percent-encoded."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_to_bytes

from remora.serving.openai_api import Refusal

_STANDARD = bytes.maketrans(b"-_", b"+/")


def payload(url: str | bytes, name: str, most: int) -> bytes:
    """The file in `url`, of at most `most` bytes. Refusals call it `name`. The picture's format follows from its bytes,
    not from the URL. Bytes in its place are a file that was fetched (fetch.py).

    Raises:
        Refusal: 400, not a data: URL of a picture in base64, or too long.
    """
    if isinstance(url, bytes):
        return url
    head, comma, text = url.strip().partition(",")
    kind, *options = head[5:].lower().split(";")
    if head[:5].lower() != "data:":
        raise _refuse(
            f"{name}: only data: URLs are read (data:image/png;base64,...); found {url[:40]!r}", "image_url_scheme"
        )
    picture = kind.strip().startswith("image/") or kind.strip() in ("", "application/octet-stream")
    if not comma or not picture or not any(option.strip() == "base64" for option in options):
        raise _refuse(f"{name}: expected data:image/...;base64,...; found {head[:40]!r}", "invalid_data_url")
    try:
        found = text.encode("ascii")
    except UnicodeEncodeError:
        raise _refuse(f"{name}: not valid base64: it has non-ASCII characters", "invalid_base64") from None
    if b"%" in found:
        found = unquote_to_bytes(found)
    found = found.translate(_STANDARD, b" \t\r\n").rstrip(b"=")
    if len(found) * 3 // 4 > most:
        raise _refuse(
            f"{name}: an image may have {most} bytes; this one has about {len(found) * 3 // 4}", "image_too_large"
        )
    try:
        return base64.b64decode(found + b"=" * (-len(found) % 4), validate=True)
    except binascii.Error:
        raise _refuse(f"{name}: not valid base64", "invalid_base64") from None


def _refuse(message: str, code: str) -> Refusal:
    return Refusal(message, code=code, param="messages")
